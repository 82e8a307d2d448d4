"""What is told while the stack starts and runs: a line for each step, with how long it took."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.status import Status


class Kind(StrEnum):
    """What a line tells."""

    NOTE = "note"
    BEGUN = "begun"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One thing to tell."""

    kind: Kind
    text: str
    """What happened, or for a step, what is so once it is done."""
    seconds: float = 0.0
    """How long the step has taken."""

    @property
    def written(self) -> str:
        """The line as plain text."""
        duration = f" ({self.seconds:.2f} s)" if self.kind in {Kind.DONE, Kind.FAILED} else ""
        return f"{'failed: ' if self.kind is Kind.FAILED else ''}{self.text}{duration}"


_MARKS: Final = {Kind.NOTE: ("·", "yellow"), Kind.DONE: ("✓", "green"), Kind.FAILED: ("✗", "red")}

Audience = Callable[[Line], None]
"""Takes each line as it comes. Does not fail when nobody listens any more."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Tells every audience."""

    audiences: tuple[Audience, ...]

    def note(self, text: str) -> None:
        """Tell what happened."""
        self.relay(Line(kind=Kind.NOTE, text=text))

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Tell what is being done, and once it is done or has failed, how long it took."""
        begun = time.monotonic()
        self.relay(Line(kind=Kind.BEGUN, text=text))
        try:
            yield
        except Exception:
            self.relay(Line(kind=Kind.FAILED, text=text, seconds=time.monotonic() - begun))
            raise
        self.relay(Line(kind=Kind.DONE, text=text, seconds=time.monotonic() - begun))

    def relay(self, line: Line) -> None:
        """Tell what another process told."""
        for audience in self.audiences:
            with suppress(OSError, ValueError):
                audience(line)


def plain_lines(line: Line) -> None:
    """Print lines on stderr, for a pipe or a file."""
    if line.kind is not Kind.BEGUN:
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
        if line.kind is Kind.BEGUN:
            awaited = Text(f"waiting until {line.text}", style="dim")
            if status is None:
                status = console.status(awaited)
                status.start()
            status.update(awaited)
            return
        if status is not None:
            status.stop()
            status = None
        duration = f"  {line.seconds:.2f} s" if line.seconds else ""
        console.print(Text.assemble(_MARKS[line.kind], " ", line.text, (duration, "dim")))

    return show


def log_lines(path: Path) -> Audience:
    """Return an audience that keeps each line in a log."""

    def keep(line: Line) -> None:
        if line.kind is not Kind.BEGUN:
            with path.open("a") as log:
                log.write(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {line.written}\n")

    return keep
