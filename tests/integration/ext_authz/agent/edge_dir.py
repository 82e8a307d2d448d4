"""A state directory as an agent and its workers need it, without a stack around it; and agents that run there."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ext_authz.policies.feed import socket_channel
from ext_authz.settings import EdgeSettings
from tests.fixtures.edge_policies import DOMAIN, change, policy
from tests.fixtures.policy_server import ControlPlane

ROOT = Path(__file__).parents[4]
PROGRAM = Path(__file__).with_name("plain_agent.py")
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


def write_edge_dir(folder: Path, *, control_plane: str, workers: int = 2) -> EdgeSettings:
    """Write `config.json`; the settings that are read from it have nothing of this process."""
    folder.mkdir(exist_ok=True)
    edge = {
        "name": "edge-1",
        "certificate": "agent.pem",
        "key": "agent.key",
        "upstream_certificate": "upstream.pem",
        "upstream_key": "upstream.key",
        "http_listen": "127.0.0.1:0",
        "https_listen": "127.0.0.1:0",
        "admin_listen": "127.0.0.1:0",
        "server_certificate": "server.pem",
        "server_key": "server.key",
        "client_ca_file": "client-ca.pem",
        "domain": DOMAIN,
        "shared_hosts": ["api.csm.example.com", "localhost", "127.0.0.1"],
        "workers": workers,
        "sockets_dir": "sockets",
        "edge_dir": "edge",
    }
    config = {
        "secrets_dir": "secrets",
        "ca_file": "ca.pem",
        "control_plane": {"internal_listen": control_plane},
        "certificates": {"internal_listen": "127.0.0.1:1"},
        "valkey": {"socket": "valkey.sock"},
        "edge": edge,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return EdgeSettings.from_dir(folder)


def edge_control_plane() -> ControlPlane:
    server = ControlPlane()
    server.ledger.take(change(policy(1), policy(2), revision=5, snapshot=True))
    return server


@asynccontextmanager
async def running(
    folder: Path, *, control_plane: str, workers: int = 2, program: Sequence[str] = (sys.executable, str(PROGRAM))
) -> AsyncIterator[Running]:
    """Run an agent, by default a plain one; it and its workers are gone afterwards."""
    settings = write_edge_dir(folder, control_plane=control_plane, workers=workers)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(*program, str(folder), env=environment)
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
