"""The log of leases on disk: read on from where it was counted to, by parts that come again exactly as they were.

Envoy appends; who reads keeps, in a file beside the log, the part that it is about to hand in. Whoever is killed, and
when: that part is handed in again, under the same sequence, and then what came since. The sequence is the number of
bytes from the log's very beginning to the part's end, so that no part is another's.

A log that has grown large is renamed to `<log>.<bytes before it>`, and Envoy asked to open another. A file of the name
that belongs to where one is, is what is being read; else it is the log itself. So the renaming is the one step that
changes the file, and moving on to the next one, in the checkpoint, the one that gives the old file up. That is done
once Envoy has made the new log: by then it has closed the old one.

All functions block: call them in a thread. One process reads.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

import structlog

from control_plane import private_file

LARGE: Final = 64 << 20
"""From how many bytes on another log is begun."""
PART: Final = 512 << 10
"""How many bytes are handed in at once at most: some 5,000 kinds of requests, a quarter of what a server takes."""

_log: Final = structlog.get_logger("leases")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """How far the log is counted."""

    reporter: UUID
    """In whose name: the log's own, as long as there is one."""
    base: int
    """How many bytes came before the file that is read."""
    begin: int
    """Where in the file the part begins that is under way: everything before is counted."""
    end: int
    """Where it ends; at `begin` while none is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some lines, to be handed in until they are counted."""

    reporter: UUID
    sequence: int
    content: bytes


class LeaseLog:
    """The log at one path, with what is kept beside it."""

    def __init__(self, path: Path, *, large: int = LARGE, part: int = PART) -> None:
        """Read the log there. Call `open` first."""
        self._path = path
        self._checkpoint = path.with_suffix(".checkpoint")
        self._large = large
        self._part = part
        self._at = Checkpoint(reporter=UUID(int=0), base=0, begin=0, end=0)
        # As it is on disk: what is counted since is known here alone, until the next part is noted.
        self._noted = self._at

    def open(self) -> None:
        """Find out how far the log is counted, and finish what a reader before this one has begun.

        Where nobody can tell, counting begins at the log's end: nothing is counted twice. That is told loudly.
        """
        try:
            self._at = self._noted = _read(self._checkpoint)
        except FileNotFoundError:
            self._begin_anew("it is not there")
        except (ValueError, KeyError, TypeError) as error:
            self._begin_anew(repr(error))
        for base, file in self._renamed():
            if base < self._at.base:
                private_file.remove(file)

    @property
    def wants_reopening(self) -> bool:
        """Whether Envoy writes to a file that is not the log any more, or may do so."""
        is_begun = self._at.base + self._at.begin > 0 or self._file() != self._path
        return is_begun and not self._path.exists()

    @property
    def waiting(self) -> int:
        """How many bytes are not counted yet."""
        return max(_size(self._file_of(self._at.base)) + _size(self._path) - self._at.begin, 0)

    def rename_large(self) -> None:
        """Give the log another name once it is large, unless there is one before it that is not counted to its end."""
        renamed = self._file_of(self._at.base)
        if not renamed.exists() and _size(self._path) >= self._large:
            self._path.rename(renamed)
            private_file.sync_directory(self._path.parent)

    def next_part(self) -> Part | None:
        """Return the part that is under way, or begin the next one; None where all complete lines are counted.

        What is returned will come again after any fault, until `counted` was called.
        """
        if self._at.begin == self._at.end and not self._begin_part():
            self._note(self._at)
            return None
        at = self._at
        content = _content(self._file(), at.begin, at.end)
        if len(content) < at.end - at.begin:
            self._lose("it was cut off")
            return None
        return Part(reporter=at.reporter, sequence=at.base + at.end, content=content)

    def counted(self) -> None:
        """Have the part that is under way behind oneself: it is counted, or will never be."""
        self._at = replace(self._at, begin=self._at.end)

    def _begin_part(self) -> bool:
        """Choose the next part, and note it; False where there is none."""
        file = self._file()
        # First: once Envoy has made the new log, nothing is added to the old one.
        is_final = file != self._path and self._path.exists()
        size = _size(file)
        if size < self._at.begin:
            self._lose("it is shorter than it was")
            return False
        if is_final and size == self._at.begin:
            self._move_on(file)
            return self._begin_part()
        end = _end_of_lines(file, self._at.begin, size, most=self._part, is_final=is_final)
        if end == self._at.begin:
            return False
        # What the checkpoint says is in the log must be there after a loss of power, too.
        _sync(file)
        self._note(replace(self._at, end=end))
        return True

    def _move_on(self, file: Path) -> None:
        """Leave a renamed log that is counted to its end."""
        self._note(replace(self._at, base=self._at.base + self._at.begin, begin=0, end=0))
        private_file.remove(file)

    def _lose(self, reason: str) -> None:
        """Give up a file that somebody else has been at. What is there by now may be counted already, or not."""
        file, at = self._file(), self._at
        _log.critical("lease_log_lost", path=str(file), reason=reason, counted=at.base + at.begin)
        begin = _size(file) if file == self._path else 0
        self._note(replace(at, base=at.base + at.end, begin=begin, end=begin))

    def _begin_anew(self, reason: str) -> None:
        end = _size(self._path)
        renamed = [base + _size(file) for base, file in self._renamed()]
        if end or renamed:
            _log.critical("lease_checkpoint_refused", path=str(self._checkpoint), reason=reason, bytes=end)
        # Beyond what was renamed before: none of these is read again.
        base = max(renamed, default=-1) + 1
        self._note(Checkpoint(reporter=uuid4(), base=base, begin=end, end=end))

    def _note(self, at: Checkpoint) -> None:
        """Write the checkpoint, durably, and go by it."""
        if at != self._noted:
            private_file.replace(self._checkpoint, _written(at))
            self._noted = at
        self._at = at

    def _file(self) -> Path:
        renamed = self._file_of(self._at.base)
        return renamed if renamed.exists() else self._path

    def _file_of(self, base: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{base}")

    def _renamed(self) -> Iterator[tuple[int, Path]]:
        for file in self._path.parent.glob(f"{self._path.name}.*"):
            with suppress(ValueError):
                yield int(file.suffix[1:]), file


def _read(path: Path) -> Checkpoint:
    fields = json.loads(path.read_bytes())
    at = Checkpoint(
        reporter=UUID(fields["reporter"]),
        base=int(fields["base"]),
        begin=int(fields["begin"]),
        end=int(fields["end"]),
    )
    if not (at.base >= 0 and 0 <= at.begin <= at.end):
        message = "it says what cannot be"
        raise ValueError(message)
    return at


def _written(at: Checkpoint) -> bytes:
    fields = {"reporter": str(at.reporter), "base": at.base, "begin": at.begin, "end": at.end}
    return json.dumps(fields).encode() + b"\n"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _end_of_lines(path: Path, begin: int, size: int, *, most: int, is_final: bool) -> int:
    """Return where the last complete line ends of the next `most` bytes; of a file that is final all lines are."""
    end = min(begin + most, size)
    found = _content(path, begin, end).rfind(b"\n")
    if found >= 0 and not (is_final and end == size):
        return begin + found + 1
    # No line is as long as a part: what is would be waited for in vain.
    return end if is_final or end - begin == most else begin


def _content(path: Path, begin: int, end: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(begin)
            return file.read(end - begin)
    except FileNotFoundError:
        return b""


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
