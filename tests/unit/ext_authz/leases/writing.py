"""A log's writer and its server, of which each does what the real ones do, and what they do when they are killed."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from typing_extensions import override

from bulkhead.edge.v1 import policies_pb2
from ext_authz.policies.feed import AwayError, Feed
from tests.unit.ext_authz.leases.test_lines import line


class KilledError(BaseException):
    """The process is no more; nothing of it runs on."""


class Envoy:
    """Appends what it has kept when it flushes; opens the log anew, where it was asked to, with the next flush."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept = b""
        self._is_asked = False
        self._file = self._open()
        self.written = 0

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def log(self, times: int, *, path: str) -> None:
        self._kept += line(path=path) * times

    def flush(self) -> None:
        if self._is_asked:
            self._is_asked = False
            os.close(self._file)
            self._file = self._open()
        self._write(self._kept)
        self._kept = b""

    def reopen(self) -> None:
        self._is_asked = True

    def kill(self, *, after: int = 0) -> None:
        """Write so many bytes of what it has kept, and no more; the next one opens the log."""
        self._write(self._kept[:after])
        self._kept, self._is_asked = b"", False
        os.close(self._file)
        self._file = self._open()

    def close(self) -> None:
        os.close(self._file)

    def _write(self, content: bytes) -> None:
        os.write(self._file, content)
        # What has an end is in the log, and is to be counted.
        self.written += content.count(b"\n")


class Server(Feed):
    """Counts a report once by reporter and sequence; goes away before that, or after."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()
        self.accesses = 0
        self.sequences: dict[str, int] = {}
        self.reporters: set[UUID] = set()
        self.before: BaseException | None = None
        self.after: BaseException | None = None

    @override
    async def report(self, request: policies_pb2.ReportDecisionsRequest) -> None:
        if self.before:
            raise self.before
        if self.sequences.get(request.reporter, 0) < request.sequence:
            self.sequences[request.reporter] = request.sequence
            for used in request.usage:
                self.counted[used.method] += used.admitted
            self.accesses += sum(access.admitted for access in request.accesses)
        if self.after:
            raise self.after

    def away(self, *, is_counted: bool) -> None:
        self.before, self.after = (None, AwayError("lost")) if is_counted else (AwayError("away"), None)

    def back(self) -> None:
        self.before = self.after = None


class Strikes:
    """Kills whoever does the n-th of the things that change the disk: before it is done, or after."""

    def __init__(self) -> None:
        self.left = -1
        self.is_done = False

    def wrap(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def struck(*args: Any, **kwargs: Any) -> Any:
            if self.left < 0:
                return work(*args, **kwargs)
            self.left -= 1
            if self.left >= 0:
                return work(*args, **kwargs)
            if self.is_done:
                work(*args, **kwargs)
            raise KilledError

        return struck
