"""One stack that is there to be broken, and figures of how long that lasted."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from control_plane import private_file
from ext_authz.policies.last_good import LastGoodCopy
from ext_authz.policies.model import State
from ext_authz.settings import EdgeSettings
from tests.fixtures.edge import EdgeTenant, EdgeWorld, open_edge_world
from tests.fixtures.edge_faults import Breaker, Reader, Readers, reader, wait_for
from tests.fixtures.stack import running_stack
from tests.fixtures.valkey import blocking_superuser

REPORT: Final = Path(__file__).parents[3] / "build" / "edge_faults.json"

Tell = Callable[[str, float], None]


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Tell:
    """Keep a figure in `build/edge_faults.json`. None of them decides whether a test passes."""

    def keep(name: str, value: float) -> None:
        REPORT.parent.mkdir(parents=True, exist_ok=True)
        known: dict[str, float] = json.loads(REPORT.read_text()) if REPORT.exists() else {}
        name = f"{request.node.name}: {name}"
        REPORT.write_text(json.dumps({**known, name: round(value, 3)}, indent=2, sort_keys=True) + "\n")

    return keep


@dataclass(frozen=True, slots=True)
class Broken:
    """A stack, who breaks it, and who reads all the while."""

    world: EdgeWorld
    breaker: Breaker
    readers: Readers

    def asks_for(self, tenant: EdgeTenant) -> Reader:
        """Return one who reads the tenant's certificates when told to."""
        return reader(self.world, tenant, foreign=self.world.tenant_a.canary)

    def empty_valkey(self) -> None:
        """Have Valkey forget all that it was told."""
        settings = EdgeSettings.from_dir(self.world.stack.dir)
        with blocking_superuser(settings.valkey_socket, settings.valkey_key.parent) as client:
            client.flushall()
            client.function_flush()


@pytest.fixture(scope="package")
def broken_world() -> Iterator[EdgeWorld]:
    with running_stack() as stack, open_edge_world(stack) as world:
        # An agent that dies before it has copied what is new begins without it, where the control plane is away too.
        wait_for(lambda: has_copied(world))
        yield world


def has_copied(world: EdgeWorld) -> bool:
    """Tell whether the last-good copy has the newest that happened to the world's tenants: the suspension."""
    settings = EdgeSettings.from_dir(world.stack.dir)
    copied = LastGoodCopy(settings.edge_dir, private_file.read(settings.copy_key)).read()
    states = {policy.tenant_id: policy.state for policy in copied.tenants} if copied else {}
    return states.get(world.suspended.tenant_id) is State.SUSPENDED


@pytest.fixture(scope="package")
def breaker(broken_world: EdgeWorld) -> Breaker:
    return Breaker(broken_world.stack)


def await_a_new_minute(left_s: float) -> None:
    """Return with so much of the minute left at least: what is counted afterwards is to be counted in one."""
    left = 60 - time.time() % 60
    if left < left_s:
        time.sleep(left + 0.1)


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as knocking:
        return knocking.connect_ex(str(path)) == 0


def has_all_workers(world: EdgeWorld) -> bool:
    """Tell whether the agent says that it serves, with each of its workers."""
    settings = EdgeSettings.from_dir(world.stack.dir)
    # The agent looks five times a second, and may not have noticed yet that one is gone.
    if not all(listens(settings.check_socket(number)) for number in range(settings.workers)):
        return False
    with grpc.insecure_channel(f"unix:{settings.xds_socket}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # gRPC's own stubs are not typed
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@pytest.fixture
def broken(broken_world: EdgeWorld, breaker: Breaker) -> Iterator[Broken]:
    """A stack that is whole, and is so again afterwards; meanwhile nobody has read what is not theirs."""
    readers = Readers(broken_world)
    with readers.reading():
        readers.wait_told("200", 0)
        # Envoy leaves workers alone for a while that failed in the test before.
        wait_for(lambda: broken_world.counter("cluster.ext_authz.outlier_detection.ejections_active") == 0)
        yield Broken(broken_world, breaker, readers)
        begun = time.monotonic()
        readers.wait_told("200", begun)
        broken_world.stack.wait_ready()
        wait_for(lambda: has_all_workers(broken_world))
    assert [said for said in readers.own(0) if said.startswith("200 ")] == []
    assert [said for said in readers.stranger(0) if said.startswith("200")] == []
