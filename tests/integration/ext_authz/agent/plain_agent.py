"""An agent in a process of its own, with real workers, and without TLS or Envoy."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc

from bulkhead.edge.v1 import policies_pb2
from control_plane.cell_key import load_or_create
from control_plane.telemetry import configure_logging
from ext_authz.agent import Agent
from ext_authz.policies.model import Index
from ext_authz.settings import EdgeSettings


class NoEnvoys:
    """Applies at once; says how often it was told, by a proxy's name."""

    def __init__(self) -> None:
        self.index: Index | None = None
        self.reloads = 0

    def use(self, index: Index) -> None:
        self.index = index

    async def applied(self, revision: int) -> None:
        pass

    def statuses(self) -> list[policies_pb2.ProxyStatus]:
        return [policies_pb2.ProxyStatus(node=f"reloaded-{self.reloads}")]

    async def reload(self) -> None:
        self.reloads += 1

    def add_to(self, server: grpc.aio.Server) -> None:
        pass


async def _run(folder: Path) -> None:
    settings = EdgeSettings.from_dir(folder)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    def command(number: int) -> Sequence[str]:
        # Each start is counted, so that a test can tell one process from the next.
        started = os.open(folder / "started", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(started, f"{number}\n".encode())
        os.close(started)
        return (sys.executable, "-P", "-m", "ext_authz", "worker", "--dir", str(folder), "--number", str(number))

    def open_channel() -> grpc.aio.Channel:
        options = (("grpc.use_local_subchannel_pool", 1),)
        return grpc.aio.insecure_channel(settings.control_plane, options=options)

    async def open_proxies() -> NoEnvoys:
        return NoEnvoys()

    agent = Agent(settings, open_proxies, open_channel=open_channel, key=load_or_create(settings.copy_key))
    await agent.run(stop, command=command)


if __name__ == "__main__":
    configure_logging("agent")
    asyncio.run(_run(Path(sys.argv[1])))
