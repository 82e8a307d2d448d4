"""The edge's programs, and how the stack tells that they serve: the real Envoy, and an agent's health alone."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from control_plane.stack.edge.programs import BOOTSTRAP, envoy_program
from control_plane.stack.probes import Probes
from control_plane.stack.processes.children import Child
from control_plane.stack.processes.size import StackSize

FILTERS = "type.googleapis.com/envoy.extensions.filters"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def probes(short_dir: Path) -> Probes:
    endpoints = {"edge_http": free_address(), "edge_authority": "api.example.com"}
    return Probes(endpoints=endpoints, agent_socket=short_dir / "xds.sock")


def write_bootstrap(folder: Path, address: str, *, status: int) -> None:
    """Let Envoy answer everybody with one status."""
    host, _, port = address.rpartition(":")
    manager = {
        "@type": f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "test",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": status}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{FILTERS}.http.router.v3.Router"},
            }
        ],
    }
    listener = {
        "name": "test",
        "address": {"socket_address": {"address": host, "port_value": int(port)}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    (folder / BOOTSTRAP).parent.mkdir()
    (folder / BOOTSTRAP).write_text(json.dumps({"static_resources": {"listeners": [listener]}}))


def start(folder: Path) -> Child:
    return Child.start(envoy_program(folder, StackSize(proxy_workers=1), log=folder / "log", inherited=()))


async def is_open(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    return True


async def answers(child: Child, probe: Callable[[], Awaitable[bool]]) -> bool:
    return await child.answers(probe, within_s=60, every_s=0.02)


async def test_envoy_is_ready_once_it_refuses_strangers_and_ends_when_it_is_told(
    short_dir: Path, probes: Probes
) -> None:
    write_bootstrap(short_dir, probes.endpoints["edge_http"], status=403)
    before = await probes.envoy()
    child = start(short_dir)
    ready = await answers(child, probes.envoy)
    await child.stop()

    assert (before, ready) == (False, True), (short_dir / "log").read_text()
    assert not child.is_running
    assert not await probes.envoy()


@pytest.mark.parametrize("status", [200, 404, 503])
async def test_an_envoy_that_answers_strangers_otherwise_is_not_ready(
    short_dir: Path, probes: Probes, *, status: int
) -> None:
    write_bootstrap(short_dir, probes.endpoints["edge_http"], status=status)
    child = start(short_dir)
    listens = await answers(child, partial(is_open, probes.endpoints["edge_http"]))
    ready = await probes.envoy()
    await child.stop()

    assert (listens, ready) == (True, False)


async def test_an_envoy_without_its_bootstrap_ends_and_says_so(short_dir: Path, probes: Probes) -> None:
    child = start(short_dir)
    ready = await answers(child, probes.envoy)

    assert not ready
    assert not child.is_running
    assert BOOTSTRAP in (short_dir / "log").read_text()


@pytest.mark.parametrize("ready", [True, False])
async def test_an_agent_is_ready_when_it_says_that_it_serves(probes: Probes, *, ready: bool) -> None:
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    await servicer.set("", SERVING if ready else NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{probes.agent_socket}")
    await server.start()
    said = await probes.agent()
    await server.stop(None)

    assert said is ready


async def test_an_agent_that_is_not_there_is_not_ready(probes: Probes) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        before = await probes.agent()
        left_behind.bind(str(probes.agent_socket))
        after = await probes.agent()

    assert (before, after) == (False, False)
