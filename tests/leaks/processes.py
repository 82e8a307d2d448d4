"""How a pytest is started in a copy: as a new process, or as a child of the nursery, and how either is ended."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from tests.leaks.copies import NURSERY, Copy

# pytest takes its servers down in this time, or not at all.
_LEAVE_WITHIN_S: Final = 20


class Running(Protocol):
    """A process that leads a session of its own, so that Ctrl-C reaches us alone."""

    @property
    def pid(self) -> int:
        """Its pid."""
        ...

    @property
    def returncode(self) -> int | None:
        """How it ended; None until that is known."""
        ...

    async def wait(self) -> int:
        """Wait for its end."""
        ...


class Start(Protocol):
    """A way to start pytest in a copy."""

    async def __call__(
        self, copy: Copy, arguments: Sequence[str], *, environment: Mapping[str, str], log: Path
    ) -> Running:
        """Start it; what it says goes to the log."""
        ...


async def start_anew(copy: Copy, arguments: Sequence[str], *, environment: Mapping[str, str], log: Path) -> Running:
    """Start a new process, as anybody would."""
    with log.open("wb") as output:
        return await asyncio.create_subprocess_exec(
            *(str(copy.python), "-P", "-m", "pytest", *arguments),
            cwd=copy.root,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


async def end(process: Running) -> None:
    """End what still runs: pytest in order, so that it takes its servers down, then by force what is left of it."""
    if process.returncode is None:
        os.kill(process.pid, signal.SIGINT)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_WITHIN_S):
                await process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


@dataclass(slots=True)
class _Child:
    number: int
    pid: int = 0
    returncode: int | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def hear(self, news: Mapping[str, int]) -> None:
        self.pid = news.get("pid", self.pid)
        self.returncode = news.get("status", self.returncode)
        self._news.set()

    async def begun(self) -> None:
        while not self.pid and self.returncode is None:
            await self._next()

    async def wait(self) -> int:
        while self.returncode is None:
            await self._next()
        return self.returncode

    async def _next(self) -> None:
        self._news.clear()
        await self._news.wait()


class Nursery:
    """Starts pytest quickly: see `nursery.py`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Speak with a nursery that runs."""
        self._process = process
        self._children: dict[int, _Child] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, copy: Copy, libraries: Sequence[str], *, log: Path) -> AsyncIterator["Nursery"]:
        """Run one in a copy, with these modules loaded, until the block ends; what it complains of goes to the log."""
        with log.open("wb") as complaints:
            process = await asyncio.create_subprocess_exec(
                *(str(copy.python), "-P", "-m", NURSERY),
                cwd="/",
                env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=complaints,
                start_new_session=True,
            )
        nursery = cls(process)
        # Until the nursery has ended, which it does with its input.
        listening = asyncio.create_task(nursery._listen())
        try:
            await nursery._tell(list(libraries))
            yield nursery
        finally:
            if process.stdin is not None:
                process.stdin.close()
            await listening
            await process.wait()

    async def start(
        self, copy: Copy, arguments: Sequence[str], *, environment: Mapping[str, str], log: Path
    ) -> Running:
        """Divide. The child finds what a new process of the copy would find."""
        child = _Child(len(self._children))
        self._children[child.number] = child
        await self._tell(
            {
                "number": child.number,
                "arguments": list(arguments),
                "environment": dict(environment),
                "log": str(log),
                "root": str(copy.root),
            }
        )
        try:
            await child.begun()
        except asyncio.CancelledError:
            # It is there soon, and nobody else would end it.
            await child.begun()
            await end(child)
            raise
        return child

    async def _tell(self, what: Any) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        pipe.write(json.dumps(what).encode() + b"\n")
        await pipe.drain()

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            news = json.loads(line)
            self._children[news["number"]].hear(news)
        for child in self._children.values():
            if child.returncode is None:
                child.hear({"status": -signal.SIGKILL})
