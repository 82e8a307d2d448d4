"""All policies as they are sent on: each encoded once, when it changes.

So a follower that starts, or a copy on disk, costs a join of bytes however many tenants there are.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Final

from bulkhead.edge.v1 import policies_pb2
from ext_authz.policies.messages import policy_to, revocation_to
from ext_authz.policies.model import Change, Index, TenantToken

# Well below gRPC's limit of 4 MiB a message, and quick to read.
_PART_SIZE: Final = 128 << 10
# A follower that lacks more than this is given everything anew.
_LOG_CHANGES: Final = 1024
_LOG_SIZE: Final = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Logged:
    revision: int
    parts: tuple[bytes, ...]

    @property
    def size(self) -> int:
        return sum(map(len, self.parts))


class Ledger:
    """What followers are sent: everything at the newest revision, and the latest changes one by one.

    Belongs to one event loop. Positions count the changes that were taken, and mean nothing elsewhere.
    """

    def __init__(self, index: Index) -> None:
        """Begin with `index`."""
        self.index = index
        self._tenants = {name: _tenant(policy_to(policy)) for name, policy in index.by_id.items()}
        self._log: deque[_Logged] = deque()
        self._log_size = 0
        # The position, and the revision, before the first logged change.
        self._start = 0
        self._start_revision = index.revision
        self._news = asyncio.Event()

    @property
    def position(self) -> int:
        """Where a follower stands that has everything."""
        return self._start + len(self._log)

    @property
    def news(self) -> asyncio.Event:
        """What is set at the next news, a mere sign of life included. Ask for it before looking what there is."""
        return self._news

    def take(self, change: Change) -> Index:
        """Apply a change that the index does not refuse; return the new index."""
        self.index = self.index.after(change)
        encoded = {policy.tenant_id: _tenant(policy_to(policy)) for policy in change.tenants}
        if change.snapshot:
            self._tenants = encoded
            self._forget_log()
        elif encoded or change.purged or change.revocations:
            for tenant_id in change.purged:
                self._tenants.pop(tenant_id, None)
            self._tenants |= encoded
            others = [_purged(change.purged), *(_revocation(*item) for item in change.revocations.items())]
            self._append(tuple(self._parts(chain(encoded.values(), others), snapshot=False)))
        self._news.set()
        self._news = asyncio.Event()
        return self.index

    def position_of(self, feed: str, revision: int) -> int | None:
        """Tell where a follower stands that has that revision; None where it must begin anew."""
        if feed != self.index.feed or not self._start_revision <= revision <= self.index.revision:
            return None
        # What it may have already is sent again where revisions are equal: applying twice does no harm.
        return self._start + sum(1 for logged in self._log if logged.revision < revision)

    def since(self, position: int | None) -> Iterator[bytes]:
        """Encode what is lacking at that position: changes, or everything, or a sign of life where nothing is."""
        if position is None or position < self._start:
            return self.everything()
        lacking = [part for logged in list(self._log)[position - self._start :] for part in logged.parts]
        return iter([*lacking, self._header().SerializeToString()])

    def everything(self) -> Iterator[bytes]:
        """Encode all policies as they are now, even where they change before the last part is asked for."""
        revocations = (_revocation(*item) for item in self.index.revoked.items())
        return self._parts(chain(list(self._tenants.values()), revocations), snapshot=True)

    def _parts(self, entries: Iterable[bytes], *, snapshot: bool) -> Iterator[bytes]:
        """Cut a change into parts: a header, and entries that are fields of the same message behind it."""
        last = self._header(snapshot=snapshot).SerializeToString()
        other = self._header(snapshot=snapshot, continues=True).SerializeToString()
        return _cut(entries, last=last, other=other)

    def _header(self, *, snapshot: bool = False, continues: bool = False) -> policies_pb2.FollowPoliciesResponse:
        header = policies_pb2.FollowPoliciesResponse(
            feed=self.index.feed, revision=self.index.revision, snapshot=snapshot, continues=continues
        )
        if self.index.as_of:
            header.as_of_time.FromDatetime(self.index.as_of)
        return header

    def _append(self, parts: tuple[bytes, ...]) -> None:
        logged = _Logged(revision=self.index.revision, parts=parts)
        self._log.append(logged)
        self._log_size += logged.size
        while self._log and (len(self._log) > _LOG_CHANGES or self._log_size > _LOG_SIZE):
            oldest = self._log.popleft()
            self._log_size -= oldest.size
            self._start += 1
            self._start_revision = oldest.revision

    def _forget_log(self) -> None:
        # One further: nobody has the snapshot itself yet.
        self._start = self.position + 1
        self._start_revision = self.index.revision
        self._log.clear()
        self._log_size = 0


def _cut(entries: Iterable[bytes], *, last: bytes, other: bytes) -> Iterator[bytes]:
    part: list[bytes] = []
    size = 0
    for entry in entries:
        if size + len(entry) > _PART_SIZE and part:
            yield other + b"".join(part)
            part, size = [], 0
        part.append(entry)
        size += len(entry)
    yield last + b"".join(part)


def _tenant(message: policies_pb2.TenantPolicy) -> bytes:
    # Encoded as a field of the response: joined behind a header, the fields of one message.
    return policies_pb2.FollowPoliciesResponse(tenants=[message]).SerializeToString()


def _purged(tenant_ids: Iterable[str]) -> bytes:
    return policies_pb2.FollowPoliciesResponse(purged_tenants=tenant_ids).SerializeToString()


def _revocation(token: TenantToken, until: datetime) -> bytes:
    return policies_pb2.FollowPoliciesResponse(revocations=[revocation_to(token, until)]).SerializeToString()
