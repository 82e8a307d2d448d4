"""A stack seen from outside: how it is, and how it is ended."""

import asyncio
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from control_plane.stack.components import State
from control_plane.stack.failures import AlreadyRunningError, StackError
from control_plane.stack.layout import StateDir, read_json
from control_plane.stack.processes.children import readable
from control_plane.stack.processes.locks import holder_of, is_held, processes_with
from control_plane.stack.progress import Progress

# PostgreSQL may have a large checkpoint to write, and before it the services their calls to end.
_STOPS_WITHIN_S: Final = 120.0
_POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class StackStatus:
    """How the stack of one directory is."""

    state: State
    pid: int | None
    """The supervisor's."""
    components: Sequence[dict[str, Any]]
    endpoints: dict[str, Any]
    """Empty until it is up for the first time."""

    @property
    def lost(self) -> list[str]:
        """What is being started again."""
        return [part["name"] for part in self.components if part["state"] == State.RECOVERING]


def status(state_dir: StateDir) -> StackStatus:
    """Return how the stack is, by the locks and by what its supervisor says of it.

    Raises:
        StateDirectoryError: when the directory is somebody else's, or was made for something else.
    """
    state_dir.check_ours()
    pid = holder_of(state_dir.supervisor_lock)
    if pid is None:
        left = State.STOPPING if is_held(state_dir.lock) else State.STOPPED
        return StackStatus(state=left, pid=None, components=(), endpoints={})
    said = read_json(state_dir.state)
    current = said.get("pid") == pid
    return StackStatus(
        state=State(said["state"]) if current else State.STARTING,
        pid=pid,
        components=said["components"] if current else (),
        endpoints=read_json(state_dir.endpoints),
    )


async def down(state_dir: StateDir, progress: Progress) -> bool:
    """Stop the stack and wait until nothing of it is left. False when nothing ran.

    Raises:
        StackError: when it does not end in time, or the directory is not ours.
    """
    state_dir.check_ours()
    pid = holder_of(state_dir.supervisor_lock)
    if pid is None and not is_held(state_dir.lock):
        state_dir.endpoints.unlink(missing_ok=True)
        return False
    with progress.step("the stack stopped"):
        try:
            async with asyncio.timeout(_STOPS_WITHIN_S):
                if pid is not None:
                    await _stop(state_dir, pid)
                await _gone(state_dir)
        except TimeoutError:
            raise _still_there(state_dir) from None
    return True


def already_running(state_dir: StateDir) -> AlreadyRunningError:
    """Say who holds the directory, and what it is doing."""
    now = status(state_dir)
    doing = f"is {now.state}"
    if now.state is State.RECOVERING:
        doing = f"is up and just starting {' and '.join(now.lost) or 'a part'} again, which it had lost"
    where = "".join(f", {name} {now.endpoints[name]}" for name in ("admin_grpc", "certificates_grpc") if now.endpoints)
    return AlreadyRunningError(
        f"the stack of {state_dir.root} {doing}: supervisor {now.pid or 'unknown'}{where}",
        remedy="use it as it is, or stop it first: `{bulkhead} down`",
    )


async def _stop(state_dir: StateDir, pid: int) -> None:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # Still the supervisor: then the descriptor stands for it, even should the pid be given to another.
        if holder_of(state_dir.supervisor_lock) == pid:
            signal.pidfd_send_signal(process, signal.SIGTERM)
            await readable(process)
    except ProcessLookupError:
        return
    finally:
        os.close(process)


async def _gone(state_dir: StateDir) -> None:
    while True:
        if not is_held(state_dir.lock):
            return
        await asyncio.sleep(_POLL_S)


def _still_there(state_dir: StateDir) -> StackError:
    left = processes_with(state_dir.lock)
    listed = ", ".join(f"{name} ({pid})" for pid, name in left.items())
    return StackError(
        f"after {_STOPS_WITHIN_S:.0f} s these are still there: {listed}",
        remedy=f"end them with `kill -9 {' '.join(map(str, left))}`; what they have stored is safe",
    )
