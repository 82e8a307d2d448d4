"""Something that answers Checks, and is no agent: slow, broken, or of another kind. It admits nobody."""

from collections.abc import Iterator
from typing import Final

import pytest

from ext_authz.settings import EdgeSettings
from tests.e2e.edge_faults.conftest import Tell
from tests.fixtures import impostor
from tests.fixtures.edge import EdgeWorld
from tests.fixtures.edge_faults import Breaker, Reader, reader, wait_for
from tests.fixtures.impostor import Desk

CLOSED: Final = "503 UNAVAILABLE"
# A hang is told from an answer; how long it really takes is in the report.
HANGS_S: Final = 3.0


@pytest.fixture(scope="module")
def caller(broken_world: EdgeWorld) -> Iterator[Reader]:
    asking = reader(broken_world, broken_world.tenant_a, foreign=broken_world.tenant_b.canary)
    assert asking.ask().said == "200"
    yield asking
    asking.close()


@pytest.fixture(scope="module")
def desk(broken_world: EdgeWorld, breaker: Breaker, caller: Reader) -> Iterator[Desk]:
    """Somebody else answers Envoy's Checks, once Envoy has the caller's routes: nobody sends it routes any more."""
    assert caller.told
    settings = EdgeSettings.from_dir(broken_world.stack.dir)
    sockets = [settings.check_socket(number) for number in range(settings.workers)]
    with breaker.lost("workers"), Desk().open(sockets) as opened:
        yield opened
    broken_world.stack.wait_ready()


@pytest.mark.behaviour("T-E13")
@pytest.mark.parametrize("garbage", [name for name in impostor.EVERYTHING if name != impostor.FORGED])
def test_what_is_no_decision_admits_nobody(
    desk: Desk, caller: Reader, broken_world: EdgeWorld, *, garbage: str, tell: Tell
) -> None:
    desk.use(garbage)
    # What the agent has granted before is good for a second at most.
    wait_for(lambda: caller.ask().said == CLOSED)
    sent = broken_world.upstream_requests()
    told = [caller.ask() for _ in range(4)]
    tell("longest", max(one.took_s for one in told))

    assert broken_world.upstream_requests() == sent
    assert {one.said for one in told} == {CLOSED}
    assert max(one.took_s for one in told) < HANGS_S


@pytest.mark.behaviour("T-E13")
def test_the_service_refuses_a_context_that_nobody_signed(desk: Desk, caller: Reader) -> None:
    desk.use(impostor.FORGED)

    assert caller.ask().said == "401 16"
