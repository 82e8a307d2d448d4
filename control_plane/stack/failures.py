"""What keeps the stack from running. Each says what happened, and what to do about it."""

from pathlib import Path
from typing import ClassVar, Final

_LINES_OF_A_LOG: Final = 8
_READ_AT_MOST: Final = 64 << 10


class StackError(Exception):
    """The stack cannot do what was asked."""

    code: ClassVar[str] = "UNAVAILABLE"
    """The name of the gRPC status that means the same; the command's exit code follows from it."""
    reason: ClassVar[str] = "STACK_FAILED"
    """Stable for ever."""

    def __init__(self, message: str, /, *, remedy: str, log: Path | None = None) -> None:
        """Keep what happened, what to do, and the log that tells more.

        `{bulkhead}` in the remedy is the command as the caller types it.
        """
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.log = log


class StateDirectoryError(StackError):
    """This directory cannot hold a stack's state."""

    code = "FAILED_PRECONDITION"
    reason = "STATE_DIRECTORY"


class AlreadyRunningError(StackError):
    """Another supervisor holds this directory."""

    code = "FAILED_PRECONDITION"
    reason = "ALREADY_RUNNING"


def end_of_log(log: Path) -> list[str]:
    """Return the last lines of a log, none where there is no such log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _READ_AT_MOST))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    return lines[-_LINES_OF_A_LOG:]
