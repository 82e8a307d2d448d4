"""Processes that live no longer than we do.

Each is a direct child, so that its end is seen at once and leaves no zombie. The kernel ends it when we die, however we
die. The programs that stand between us and the server (a namespace, a death signal) replace themselves with it, so the
child's pid is the server's.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from control_plane.stack.failures import StackError

# Set as the last step before the server itself: a change of user or namespace on the way would clear it. A parent that
# died before that moment is noticed by the shell, for then somebody else is the parent.
_STILL_OURS: Final = '[ "$PPID" = "$0" ] && exec "$@"'
# A killed server's own children notice its end within a second; a cluster of ten thousand tenants may need longer.
_ORPHANS_LEAVE: Final = 20.0


def clean_environment() -> dict[str, str]:
    """Return our environment without what would lead a PostgreSQL or Python program elsewhere."""
    misleading = ("PG", "PYTHONPATH", "PYTHONHOME", "LC_", "LANG")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(misleading)}
    return kept | {"LC_ALL": "C.UTF-8", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run, and how to end it."""

    arguments: tuple[str, ...]
    """The command line."""
    log: Path
    """Where its output goes, at the end of what is there."""
    wrapper: tuple[str, ...] = ()
    """A program that runs it in other circumstances and replaces itself with it."""
    stop_signal: signal.Signals = signal.SIGTERM
    """Asks for an orderly end."""
    death_signal: signal.Signals = signal.SIGKILL
    """What the kernel sends when we die."""
    patience_s: float = 10.0
    """How long an orderly end may take before it is killed."""
    environment: dict[str, str] = field(default_factory=clean_environment)
    """The process's environment."""
    inherited: Sequence[int] = ()
    """File descriptors that it and its children keep open."""


class Child:
    """One running program. Made by `Child.start`; belongs to no event loop, so it may outlive one."""

    def __init__(self, program: Program, process: "subprocess.Popen[bytes]", family: int) -> None:
        """Take over a process just started."""
        self.program = program
        self.pid = process.pid
        self._process = process
        # Readable at its end when neither the process nor any descendant is left: all hold the other end of the pipe.
        self._family = family

    @classmethod
    def start(cls, program: Program) -> Self:
        """Start the program.

        Must be called from the main thread: the kernel sends the death signal when the *thread* that started it ends.
        """
        family, theirs = os.pipe()
        command = ("setpriv", f"--pdeathsig={program.death_signal.name.removeprefix('SIG')}", "sh", "-c", _STILL_OURS)
        try:
            with program.log.open("ab") as log:
                process = subprocess.Popen(  # noqa: S603 programs of our own installation
                    [*program.wrapper, *command, str(os.getpid()), *program.arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd="/",
                    env=program.environment,
                    pass_fds=(theirs, *program.inherited),
                    # Ctrl-C in a terminal reaches the whole group of processes; the order of the end is ours to choose.
                    start_new_session=True,
                )
        except OSError as error:
            os.close(family)
            raise StackError(
                f"{program.arguments[0]} could not be started: {error}",
                remedy="install util-linux (it has setpriv and unshare) and check the installation with `make setup`",
            ) from error
        finally:
            os.close(theirs)
        return cls(program, process, family)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    async def ended(self) -> int:
        """Wait for its end and return how it ended, negative for a signal. May be awaited again."""
        if self.is_running:
            watched = os.pidfd_open(self.pid)
            try:
                await readable(watched)
            finally:
                os.close(watched)
        return self._process.wait()

    async def family_gone(self, within_s: float = _ORPHANS_LEAVE) -> bool:
        """Wait until its descendants have ended too. False when some outlast the patience."""
        if self._family < 0:
            return True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(readable(self._family), within_s)
            os.close(self._family)
            self._family = -1
        return self._family < 0

    async def stop(self) -> None:
        """End it in order, or by force once its patience is over; return when nothing of it is left. Safe twice."""
        if self.is_running:
            self._process.send_signal(self.program.stop_signal)
            try:
                await asyncio.wait_for(self.ended(), self.program.patience_s)
            except TimeoutError:
                self.kill()
                await self.ended()
        await self.family_gone()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    async def answers(self, ask: Callable[[], Awaitable[bool]], *, within_s: float, every_s: float) -> bool:
        """Ask until the answer is yes. When it ends, stays silent or we are cancelled, it is stopped: False."""
        deadline = time.monotonic() + within_s
        answered = False
        try:
            while not answered and self.is_running and time.monotonic() < deadline:
                if not (answered := await ask()):
                    await asyncio.sleep(every_s)
        finally:
            if not answered:
                await self.stop()
        return answered


async def readable(descriptor: int) -> None:
    """Wait until there is something to read, or nobody left to write it; a pidfd is readable when its process ended."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
