"""What keeps the stack from running. Each says what happened, and what to do about it."""

from enum import IntEnum
from pathlib import Path
from typing import Final

_LINES_OF_A_LOG: Final = 8


class ExitCode(IntEnum):
    """How `bulkhead up`, `down` and `status` exit. Scripts rely on the numbers."""

    OK = 0
    FAILED = 1
    CONFLICT = 4
    """Another stack runs on this directory."""
    UNAVAILABLE = 6
    """Nothing runs on this directory, or it cannot be started."""


class StackError(Exception):
    """The stack cannot do what was asked."""

    def __init__(self, message: str, /, *, remedy: str, exit_code: ExitCode = ExitCode.FAILED) -> None:
        """Keep what happened, what to do, and how the command exits."""
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.exit_code = exit_code


class AlreadyRunningError(StackError):
    """A supervisor holds this directory."""

    def __init__(self, message: str, /, *, remedy: str) -> None:
        """Say who it is, and what it is doing."""
        super().__init__(message, remedy=remedy, exit_code=ExitCode.CONFLICT)


def end_of_log(log: Path) -> str:
    """Return the last lines of a log, or an empty text where there is none."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join(lines[-_LINES_OF_A_LOG:])
