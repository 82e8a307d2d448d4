"""Stacks of their own for tests that leave nothing as they found it; and where their figures go."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import grpc
import httpx
import psutil
import pytest

from bulkhead.v1 import edges_pb2, edges_pb2_grpc
from control_plane.settings import Settings
from tests.fixtures.stack import Stack, empty_stack_dir

# Set BATTERY to run at the size that the specification demands.
IS_BATTERY: Final = bool(os.environ.get("BATTERY"))
REPORT: Final = Path(__file__).parents[3] / "build" / "edge_scale.json"

Tell = Callable[[str, float], None]


@pytest.fixture
def tell() -> Tell:
    """Keep a figure in `build/edge_scale.json`. None of them decides whether a test passes."""

    def keep(name: str, value: float) -> None:
        REPORT.parent.mkdir(parents=True, exist_ok=True)
        known: dict[str, float] = json.loads(REPORT.read_text()) if REPORT.exists() else {}
        REPORT.write_text(json.dumps({**known, name: round(value, 3)}, indent=2) + "\n")

    return keep


class Scaled:
    """A stack of its own, and what a test of its size asks of it."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.settings = Settings.from_dir(stack.dir)
        self.metadata = (("authorization", f"Bearer {(stack.dir / 'admin.token').read_text().strip()}"),)

    @property
    def credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials((self.stack.dir / "ca" / "ca.pem").read_bytes())

    def applied(self) -> None:
        """Wait until the edge enforces all that was committed before now."""
        with grpc.secure_channel(self.stack.endpoints["admin_grpc"], self.credentials) as channel:
            edges = edges_pb2_grpc.EdgeServiceStub(channel)
            answer = edges.WaitApplied(edges_pb2.WaitAppliedRequest(), metadata=self.metadata, timeout=60)
        assert (answer.applied, answer.live_edges) == (True, 1), answer

    def envoy(self, path: str) -> httpx.Response:
        """Ask Envoy's administration."""
        return httpx.get(f"http://{self.stack.endpoints['envoy_admin']}{path}", timeout=30).raise_for_status()

    def counters(self, pattern: str) -> dict[str, int]:
        """Read the counters whose whole name matches."""
        found = self.envoy(f"/stats?format=json&filter=^{pattern}$").json()["stats"]
        return {stat["name"]: stat["value"] for stat in found if "name" in stat}

    def memory(self) -> dict[str, int]:
        """Return how many bytes each part has in memory."""
        pids = self.stack.pids()
        parts = {name: psutil.Process(pids[name]) for name in ("control-plane", "agent", "envoy")}
        workers = {f"worker {number}": worker for number, worker in enumerate(parts["agent"].children())}
        return {name: process.memory_info().rss for name, process in (parts | workers).items()}


@contextmanager
def scaled(*arguments: str) -> Iterator[Scaled]:
    """Bring a stack up, and take it down."""
    with empty_stack_dir() as directory:
        stack = Stack(directory)
        begun = stack.bulkhead("up", "--detach", *arguments)
        assert begun.returncode == 0, begun.stderr + stack.logs()
        try:
            yield Scaled(stack)
        finally:
            stack.bulkhead("down")
