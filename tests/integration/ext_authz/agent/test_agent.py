"""An agent keeps its workers, leaves none behind, and starts from its copy when the control plane is away."""

import asyncio
import signal
from pathlib import Path

import psutil
import pytest
from grpc_health.v1 import health_pb2

from ext_authz.policies.last_good import POLICIES
from tests.fixtures.edge_policies import FEED, change, policy
from tests.fixtures.eventually import eventually
from tests.fixtures.policy_server import serving
from tests.integration.ext_authz.agent.edge_dir import edge_control_plane, running, write_edge_dir

AWAY = "127.0.0.1:1"


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


@pytest.mark.parametrize("copy", [None, b"bulkhead edge policies 2\n" + bytes(64)])
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
