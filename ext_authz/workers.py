"""The agent's worker processes: started, watched, replaced, and never left behind.

Each holds the end of a pipe whose other end only the agent has: when the agent is gone, however it went, the pipe is at
its end, and so is the worker.
"""

import asyncio
import random
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import structlog

_TICK_S: Final = 0.5
# Acknowledgements come each second. Ticks are counted rather than time, so that a pause of the agent itself, in which
# none could be heard, is no worker's fault.
_SILENT_TICKS: Final = 6
_STARTING_TICKS: Final = 60
_SHORTEST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0
_LIVED_WELL_S: Final = 10.0
_DRAINING_S: Final = 3.0

_log: Final = structlog.get_logger("workers")


def worker_name(number: int) -> str:
    """Name a worker as it names itself to the agent."""
    return f"worker-{number}"


class Workers:
    """Keeps one process running for each number from 0 on."""

    def __init__(
        self,
        count: int,
        *,
        command: Callable[[int], Sequence[str]],
        heard: Callable[[str], int],
        ended: Callable[[str], None],
    ) -> None:
        """Start `command` for each of `count` numbers.

        `heard` counts what the worker of a name has acknowledged; `ended` is told the name of one that is no more.
        """
        self._ended = ended
        self._count = count
        self._command = command
        self._heard = heard

    async def run(self) -> None:
        """Keep them running until cancelled; then return when all have drained, or were killed for not doing so."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._count):
                group.create_task(self._keep(number))

    async def _keep(self, number: int) -> None:
        failures = 0
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            process = await asyncio.create_subprocess_exec(*self._command(number), stdin=PIPE)
            try:
                code = await self._attend(process, worker_name(number))
            finally:
                await _end(process)
                self._ended(worker_name(number))
            failures = 0 if loop.time() - begun > _LIVED_WELL_S else failures + 1
            _log.warning("worker_ended", worker=number, code=code, pid=process.pid)
            longest = min(_LONGEST_PAUSE_S, _SHORTEST_PAUSE_S * 2 ** min(failures, 10))
            await asyncio.sleep(random.uniform(_SHORTEST_PAUSE_S, longest))  # noqa: S311 nothing secret

    async def _attend(self, process: Process, name: str) -> int | None:
        """Return when it has ended, or has to be ended for its silence."""
        ended = asyncio.ensure_future(process.wait())
        try:
            heard = before = self._heard(name)
            silent = 0
            while not ended.done():
                await asyncio.wait([ended], timeout=_TICK_S)
                now = self._heard(name)
                silent, heard = (silent + 1 if now == heard else 0), now
                if silent >= (_STARTING_TICKS if heard == before else _SILENT_TICKS):
                    _log.error("worker_hangs", worker=name, pid=process.pid)
                    # It would not hear a request to end.
                    process.kill()
                    return await ended
            return ended.result()
        finally:
            ended.cancel()


async def _end(process: Process) -> None:
    """Ask it to end, and see to it that it does."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_DRAINING_S):
            await process.wait()
    except (TimeoutError, asyncio.CancelledError):
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
