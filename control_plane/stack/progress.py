"""What is told while the stack starts and runs: a line for each step, with how long it took."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.status import Status


@dataclass(frozen=True, slots=True)
class Line:
    """One thing to tell."""

    text: str
    """What is done, or happened; while `seconds` is negative, what is being done."""
    seconds: float | None = None
    """How long it took, for a step."""

    @property
    def is_announcement(self) -> bool:
        """Whether it tells of a step that has only begun."""
        return self.seconds is not None and self.seconds < 0

    @property
    def written(self) -> str:
        """The line as plain text."""
        return self.text if self.seconds is None else f"{self.text} ({self.seconds:.2f} s)"


Audience = Callable[[Line], None]
"""Takes each line as it comes. Does not fail when nobody listens any more."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Tells every audience."""

    audiences: tuple[Audience, ...]

    def note(self, text: str) -> None:
        """Tell what happened."""
        self.relay(Line(text))

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Tell what is being done, and once it is done, how long it took."""
        begun = time.monotonic()
        self.relay(Line(text, -1.0))
        yield
        self.relay(Line(text, time.monotonic() - begun))

    def relay(self, line: Line) -> None:
        """Tell what another process told."""
        for audience in self.audiences:
            with suppress(OSError, ValueError):
                audience(line)


def plain_lines(line: Line) -> None:
    """Print lines on stderr, for a pipe or a file."""
    if not line.is_announcement:
        sys.stderr.write(f"{line.written}\n")
        sys.stderr.flush()


def terminal() -> Audience:
    """Return an audience that shows on a terminal what is done, and below it what is being done."""
    from rich.console import Console  # noqa: PLC0415 only a terminal waits for rich
    from rich.text import Text  # noqa: PLC0415 the same

    console = Console(stderr=True, highlight=False)
    status: Status | None = None

    def show(line: Line) -> None:
        nonlocal status
        if line.is_announcement:
            awaited = Text(f"waiting until {line.text}", style="dim")
            if status is None:
                status = console.status(awaited)
                status.start()
            status.update(awaited)
            return
        if status is not None:
            status.stop()
            status = None
        mark = Text("✓ ", style="green") if line.seconds is not None else Text("· ", style="yellow")
        duration = "" if line.seconds is None else f"  {line.seconds:.2f} s"
        console.print(Text.assemble(mark, line.text, (duration, "dim")))

    return show


def log_lines(path: Path) -> Audience:
    """Return an audience that keeps each line in a log."""

    def keep(line: Line) -> None:
        if not line.is_announcement:
            with path.open("a") as log:
                log.write(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {line.written}\n")

    return keep
