"""An agent keeps its workers, leaves none behind, and starts from its copy when the control plane is away."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ext_authz.policies.feed import socket_channel
from ext_authz.policies.last_good import POLICIES
from ext_authz.settings import EdgeSettings
from tests.fixtures.edge_policies import FEED, change, policy
from tests.fixtures.eventually import eventually
from tests.fixtures.policy_server import ControlPlane, serving
from tests.integration.ext_authz.agent.edge_dir import write_edge_dir

ROOT = Path(__file__).parents[4]
PROGRAM = Path(__file__).with_name("plain_agent.py")
AWAY = "127.0.0.1:1"
SERVING = health_pb2.HealthCheckResponse.SERVING


@dataclass(slots=True)
class Running:
    settings: EdgeSettings
    process: Process

    def workers(self) -> list[psutil.Process]:
        """Return the agent's children, by their number."""
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children()
            return sorted(children, key=lambda child: child.cmdline()[-1:])
        return []

    async def health(self) -> int:
        if not self.settings.xds_socket.exists():
            return health_pb2.HealthCheckResponse.UNKNOWN
        async with socket_channel(self.settings.xds_socket) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            try:
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=2)
            except grpc.aio.AioRpcError:
                return health_pb2.HealthCheckResponse.UNKNOWN
            return int(answer.status)

    async def healthy(self) -> None:
        async with asyncio.timeout(60):
            while await self.health() != SERVING:  # noqa: ASYNC110 there is nothing that could tell
                await asyncio.sleep(0.05)


def edge_control_plane() -> ControlPlane:
    server = ControlPlane()
    server.ledger.take(change(policy(1), policy(2), revision=5, snapshot=True))
    return server


@asynccontextmanager
async def running(folder: Path, *, control_plane: str, workers: int = 2) -> AsyncIterator[Running]:
    settings = write_edge_dir(folder, control_plane=control_plane, workers=workers)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(sys.executable, str(PROGRAM), str(folder), env=environment)
    agent = Running(settings, process)
    left = agent.workers()
    try:
        yield agent
        left = agent.workers()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        gone, alive = psutil.wait_procs(left, timeout=10)
        for worker in alive:
            worker.kill()
    assert not alive, gone


@pytest.fixture
def folder() -> Iterator[Path]:
    # Short enough for a socket's path.
    with TemporaryDirectory(prefix="edge-") as name:
        yield Path(name)


async def test_a_change_is_acknowledged_when_all_workers_have_applied_it(folder: Path) -> None:
    server = edge_control_plane()
    async with serving(server) as address, running(folder, control_plane=address) as agent:
        await agent.healthy()
        server.take(change(policy(3, revision=6), revision=6))
        await eventually(lambda: server.applied == (FEED, 6))

        assert [worker.cmdline()[-1] for worker in agent.workers()] == ["0", "1"]
        assert server.names[-1] == "edge-1"
        assert server.acknowledged[-1].proxies[0].node == "reloaded-0"


async def test_a_worker_that_hangs_keeps_the_acknowledgement_back_and_is_replaced(folder: Path) -> None:
    server = edge_control_plane()
    async with serving(server) as address, running(folder, control_plane=address) as agent:
        await agent.healthy()
        hanging = agent.workers()[0]
        hanging.suspend()
        server.take(change(policy(3, revision=6), revision=6))
        told = len(server.acknowledged)
        await eventually(lambda: len(server.acknowledged) > told + 1)
        while_it_hangs = server.applied
        await eventually(lambda: server.applied == (FEED, 6))
        await eventually(lambda: len(agent.workers()) == 2)

        assert while_it_hangs == (FEED, 5)
        assert not hanging.is_running()


async def test_a_worker_that_dies_is_replaced(folder: Path) -> None:
    server = edge_control_plane()
    async with serving(server) as address, running(folder, control_plane=address) as agent:
        await agent.healthy()
        agent.workers()[1].kill()
        await eventually(lambda: (folder / "started").read_text().split() == ["0", "1", "1"])
        await agent.healthy()
        server.take(change(policy(3, revision=6), revision=6))
        await eventually(lambda: server.applied == (FEED, 6))


async def test_workers_end_with_their_agent_however_it_ends(folder: Path) -> None:
    server = edge_control_plane()
    async with serving(server) as address, running(folder, control_plane=address) as agent:
        await agent.healthy()
        workers = agent.workers()
        agent.process.kill()
        await agent.process.wait()
        _, alive = await asyncio.to_thread(psutil.wait_procs, workers, timeout=10)

        assert len(workers) == 2
        assert alive == []


async def test_an_agent_that_is_told_to_stop_leaves_nothing_running(folder: Path) -> None:
    server = edge_control_plane()
    async with serving(server) as address, running(folder, control_plane=address) as agent:
        await agent.healthy()
        workers = agent.workers()
        agent.process.send_signal(signal.SIGTERM)

        assert await agent.process.wait() == 0
        assert not any(worker.is_running() for worker in workers)


async def test_an_agent_starts_from_its_copy_while_the_control_plane_is_away(folder: Path) -> None:
    server = edge_control_plane()
    async with serving(server) as address, running(folder, control_plane=address) as agent:
        await agent.healthy()
        await eventually((agent.settings.edge_dir / POLICIES).exists)
        agent.process.kill()
    async with running(folder, control_plane=AWAY) as agent:
        await agent.healthy()
    async with serving(server) as address, running(folder, control_plane=address) as agent:
        await agent.healthy()
        await eventually(lambda: server.applied == (FEED, 5))

        assert server.requests[-1].revision == 5


@pytest.mark.parametrize("copy", [None, b"bulkhead edge policies 1\n" + bytes(64)])
async def test_an_agent_that_knows_nothing_is_not_ready(folder: Path, copy: bytes | None) -> None:
    settings = write_edge_dir(folder, control_plane=AWAY)
    if copy is not None:
        settings.edge_dir.mkdir()
        (settings.edge_dir / POLICIES).write_bytes(copy)
        (settings.edge_dir / POLICIES).chmod(0o600)
    async with running(folder, control_plane=AWAY) as agent:
        await eventually(lambda: agent.settings.check_socket(1).exists())
        await asyncio.sleep(1)

        assert await agent.health() == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_new_certificates_are_told_when_both_files_are_there(folder: Path) -> None:
    server = edge_control_plane()
    async with serving(server) as address, running(folder, control_plane=address, workers=1) as agent:
        await agent.healthy()
        agent.settings.server_certificate.write_text("new")
        agent.settings.server_key.write_text("new")
        await eventually(lambda: server.acknowledged[-1].proxies[0].node == "reloaded-1")
