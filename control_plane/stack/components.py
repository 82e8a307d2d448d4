"""One part of the stack: started, watched, started again when it dies, stopped."""

import asyncio
import contextlib
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from control_plane.stack.failures import StackError
from control_plane.stack.processes.children import Child

_MOST_DEATHS: Final = 5
_WITHIN_S: Final = 60.0
# The first start after a death is at once; a part that dies again and again gets time to find what it misses.
_PAUSE_S: Final = 0.5


class State(StrEnum):
    """How a part of the stack is, or the whole of it."""

    STARTING = "starting"
    READY = "ready"
    RECOVERING = "recovering"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(slots=True, kw_only=True)
class Component:
    """One process with all that descends from it."""

    name: str
    """Of its log and in `status`."""
    title: str
    """For people."""
    log: Path
    """Where its output goes."""
    launch: Callable[[], Awaitable[Child]]
    """Starts it and waits until it answers. Raises StackError."""
    changed: Callable[[], None]
    """Called after each change of state."""
    needs: tuple["Component", ...] = ()
    """What has to be up before it is started again."""
    state: State = State.STOPPED
    restarts: int = 0
    _child: Child | None = None
    _deaths: deque[float] = field(default_factory=deque)
    _up: asyncio.Event = field(default_factory=asyncio.Event)

    def describe(self) -> Mapping[str, Any]:
        """Say it as `status` does."""
        pid = self._child.pid if self._child and self._child.is_running else None
        return {"name": self.name, "state": str(self.state), "pid": pid, "restarts": self.restarts}

    async def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            StackError: when it does not.
        """
        if self.state is State.STOPPED:
            self._become(State.STARTING)
        self._child = await self.launch()
        self._become(State.READY)
        self._up.set()

    async def lost(self) -> str:
        """Wait until it has died, and say how.

        Raises:
            StackError: when it has died too often.
        """
        if self._child is None:
            raise AssertionError(f"{self.name} was never started")
        ending = await self._child.ended()
        self._up.clear()
        self._become(State.RECOVERING)
        self._count_death()
        return f"was killed ({signal.Signals(-ending).name})" if ending < 0 else f"ended with code {ending}"

    async def revive(self) -> None:
        """Start it again once all that it left behind is gone and all that it needs is up.

        Raises:
            StackError: when it has died too often.
        """
        while True:
            if self._child and not await self._child.family_gone():
                raise StackError(
                    f"{self.title} died, and processes that it started do not end",
                    remedy="`{bulkhead} up` names those that are left; end them, then start again",
                )
            for need in self.needs:
                await need.answering()
            try:
                await self.start()
            except StackError as error:
                self._count_death(error)
                await asyncio.sleep(_PAUSE_S * len(self._deaths))
            else:
                self.restarts += 1
                self.changed()
                return

    async def answering(self) -> None:
        """Wait until it is up."""
        await self._up.wait()

    async def stop(self) -> None:
        """End it in order, and return when nothing of it is left."""
        if self._child:
            self._become(State.STOPPING)
            await self._child.stop()
        self._become(State.STOPPED)

    def kill(self) -> None:
        """End it at once."""
        if self._child:
            with contextlib.suppress(ProcessLookupError):
                self._child.kill()

    def _become(self, state: State) -> None:
        self.state = state
        self.changed()

    def _count_death(self, cause: StackError | None = None) -> None:
        now = time.monotonic()
        self._deaths.append(now)
        while self._deaths[0] < now - _WITHIN_S:
            self._deaths.popleft()
        if len(self._deaths) > _MOST_DEATHS:
            raise StackError(
                f"{self.title} died {len(self._deaths)} times within a minute",
                remedy="mend what the log names",
                log=self.log,
            ) from cause
