"""The last-good copy: all policies on disk, signed, for an agent that starts while the control plane is away.

Two files. `policies.bin` has the policies at one revision. `policies.vouched` says until when they were known to be the
newest: it is small, so that it can be written every other second however many tenants there are. A copy is no fresher
than it says, so a tenant is never served from it for longer than its own limit allows.
"""

import asyncio
import hmac
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog
from google.protobuf.message import DecodeError

from bulkhead.edge.v1 import policies_pb2
from control_plane import private_file
from control_plane.threads import run_to_end
from ext_authz.policies.ledger import Ledger
from ext_authz.policies.messages import MalformedError, Parts
from ext_authz.policies.model import Change, Index

POLICIES: Final = "policies.bin"
VOUCHED: Final = "policies.vouched"

# What is signed begins with what it is, so that neither file passes for the other, nor for one of another format.
_POLICIES_FORMAT: Final = b"bulkhead edge policies 2\n"
_VOUCHED_FORMAT: Final = b"bulkhead edge vouched 1\n"
_DIGEST: Final = "sha256"
_MAC_SIZE: Final = 32
_LENGTH_SIZE: Final = 4
_EVERY_S: Final = 1.0
_VOUCHED_EVERY_S: Final = 2.0
# Of a core's time at most a tenth goes into copies, however many tenants there are and however often they change.
_REST: Final = 10

_log: Final = structlog.get_logger("last_good")


class ForgedCopyError(Exception):
    """A copy that was not written with this key, or not to its end."""


class LastGoodCopy:
    """The copy in one directory. One process writes it."""

    def __init__(self, folder: Path, key: bytes) -> None:
        """Sign with `key`."""
        self._folder = folder
        self._key = key
        self._written: tuple[str, int] | None = None
        self._vouched: datetime | None = None

    def prepare(self) -> None:
        """Make the directory, and take away what a writer before this one left half written. Blocks."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for half in self._folder.glob(".policies.*.new"):
            half.unlink(missing_ok=True)

    def read(self) -> Change | None:
        """Return all policies, or None where there is no copy or none that can be trusted; the latter is told loudly.

        Blocks. May be called beside the process that writes.
        """
        try:
            change = self._read_policies()
        except FileNotFoundError:
            return None
        except (ForgedCopyError, private_file.ExposedKeyError, OSError) as error:
            _log.critical("copy_refused", path=str(self._folder / POLICIES), reason=str(error))
            return None
        try:
            return replace(change, as_of=max(change.as_of, self._read_vouched(change)))
        except FileNotFoundError:
            return change
        except (ForgedCopyError, private_file.ExposedKeyError, OSError) as error:
            _log.critical("copy_refused", path=str(self._folder / VOUCHED), reason=str(error))
            return change

    async def keep(self, ledger: Ledger) -> None:
        """Write what changes, at once and then at most once a second, until cancelled."""
        while True:
            news = ledger.news
            spent_s = await self.write(ledger)
            await asyncio.sleep(max(_EVERY_S, _REST * spent_s))
            with suppress(TimeoutError):
                async with asyncio.timeout(_VOUCHED_EVERY_S):
                    await news.wait()

    async def write(self, ledger: Ledger) -> float:
        """Write what is new, durably, and return how long that kept a core busy, in seconds.

        Where it fails, the copy before stays, and this is told.
        """
        index = ledger.index
        spent_s = 0.0
        if index.as_of is None:
            return spent_s
        try:
            if self._written != (index.feed, index.revision):
                parts = ledger.everything()
                spent_s = await run_to_end(lambda: self._write(POLICIES, _POLICIES_FORMAT, parts=parts))
            elif self._vouched != index.as_of:
                vouched = _vouched(index)
                spent_s = await run_to_end(lambda: self._write(VOUCHED, _VOUCHED_FORMAT, parts=[vouched]))
        except OSError as error:
            _log.warning("copy_not_written", reason=str(error))
        else:
            self._written, self._vouched = (index.feed, index.revision), index.as_of
        return spent_s

    def _read_policies(self) -> Change:
        parts = Parts()
        change: Change | None = None
        try:
            for part in self._open(POLICIES, _POLICIES_FORMAT):
                change = parts.add(policies_pb2.FollowPoliciesResponse.FromString(part))
        except (DecodeError, MalformedError) as error:
            raise ForgedCopyError(str(error)) from error
        if change is None or not change.snapshot:
            raise ForgedCopyError("it is no snapshot")
        return change

    def _read_vouched(self, change: Change) -> datetime:
        for part in self._open(VOUCHED, _VOUCHED_FORMAT):
            vouched = policies_pb2.FollowPoliciesResponse.FromString(part)
            if (vouched.feed, vouched.revision) == (change.feed, change.revision):
                return vouched.as_of_time.ToDatetime(tzinfo=UTC)
        return change.as_of

    def _write(self, name: str, kind: bytes, *, parts: Iterable[bytes]) -> float:
        # Waiting for a disk keeps no core busy: a slow one must not make the copy old.
        begun = time.thread_time()
        content = b"".join(len(part).to_bytes(_LENGTH_SIZE) + part for part in parts)
        mac = hmac.digest(self._key, kind + content, _DIGEST)
        private_file.replace(self._folder / name, kind + mac + content)
        return time.thread_time() - begun

    def _open(self, name: str, kind: bytes) -> Iterator[bytes]:
        """Return the parts of a file whose signature is right."""
        whole = private_file.read(self._folder / name)
        mac, content = whole[len(kind) :][:_MAC_SIZE], whole[len(kind) + _MAC_SIZE :]
        if not whole.startswith(kind):
            raise ForgedCopyError("it is of another format")
        if not hmac.compare_digest(mac, hmac.digest(self._key, kind + content, _DIGEST)):
            raise ForgedCopyError("its signature is wrong")
        return _parts(content)


def _parts(content: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(content):
        length = int.from_bytes(content[at : at + _LENGTH_SIZE])
        at += _LENGTH_SIZE
        yield content[at : at + length]
        at += length


def _vouched(index: Index) -> bytes:
    message = policies_pb2.FollowPoliciesResponse(feed=index.feed, revision=index.revision)
    if index.as_of:
        message.as_of_time.FromDatetime(index.as_of)
    return message.SerializeToString()
