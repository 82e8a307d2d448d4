"""A Valkey of a test's own, that it may stop, kill and empty."""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from control_plane import cell_key
from control_plane.stack.processes.children import Child
from control_plane.stack.valkey import Valkey
from ext_authz.budgets.counter import BudgetUnavailableError
from ext_authz.budgets.model import Taken
from ext_authz.budgets.reserves import Budgets
from ext_authz.policies.model import TenantPolicy
from tests.fixtures.valkey import superuser, tenants_known


@dataclass(slots=True)
class Server:
    """The server, and how to hurt it."""

    valkey: Valkey
    child: Child

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.valkey.socket

    @property
    def secret(self) -> bytes:
        """What the passwords of the control plane and of tenants come from."""
        return cell_key.load_or_create(self.valkey.secrets_dir / "valkey.key")

    @property
    def edge_key(self) -> bytes:
        """What the edge's password comes from."""
        return cell_key.load_or_create(self.valkey.secrets_dir / "valkey-edge.key")

    def superuser(self, **options: Any) -> Redis:
        """Return a client that may do anything, until the server ends."""
        return superuser(self.socket, self.valkey.secrets_dir, **options)

    def tenants_known(self) -> set[str]:
        """Return which tenants' users there are."""
        return tenants_known(self.socket, self.valkey.secrets_dir)

    async def kill(self) -> None:
        """End it at once."""
        self.child.kill()
        await self.child.ended()

    async def restart(self, *, empty: bool = False) -> None:
        """Start it again."""
        if empty:
            shutil.rmtree(self.valkey.data_dir)
            self.valkey.data_dir.mkdir()
        self.child = await self.valkey.start()

    def freeze(self) -> None:
        """Let it be silent."""
        os.kill(self.child.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.child.pid, signal.SIGCONT)


@asynccontextmanager
async def valkey_server(*, megabytes: int = 512) -> AsyncIterator[Server]:
    """Run a server in a directory whose name is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="bh-") as name:
        folder = Path(name)
        (folder / "data").mkdir()
        valkey = Valkey(
            data_dir=folder / "data",
            socket=folder / "v.sock",
            log=folder / "log",
            secrets_dir=folder / "secrets",
            megabytes=megabytes,
        )
        server = Server(valkey, await valkey.start())
        try:
            yield server
        finally:
            server.child.kill()
            await server.child.ended()


async def take_again(budgets: Budgets, policy: TenantPolicy) -> Taken:
    """Take one as soon as it can be counted again."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await budgets.take(policy, cost=1)
            except BudgetUnavailableError:
                await asyncio.sleep(0.01)
