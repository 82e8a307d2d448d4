r"""Entries of an audit log, and the chain of hashes over them. Pure.

An entry is written in the transaction of its effect, without a hash: chaining there would make every transaction of a
tenant wait for every other. Afterwards the sealer puts the entries in an order that can no longer change, and gives
each its link::

    link(0) = SHA-256("bulkhead audit log 1\n" + the tenant's uid)
    link(n) = SHA-256(link(n - 1) + canonical(entry n))

where `canonical` is RFC 8785 over every column, the tenant's uid and n. So a change, a removal, an insertion or a swap
before the last seal breaks the chain where it happened. What the chain alone cannot show: the removal of the newest
seals together with their entries, and a log that was replaced by another with all its links made anew. The
tenant's key shows the second (`proofs/audit_log.py`); the first needs a head that somebody else keeps, which
VerifyAuditLog returns.
"""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple
from uuid import UUID

import rfc8785

from control_plane.postgres.effects import JsonValue
from control_plane.proofs.audit_log import Checkpoint, first_head, link

# Characters that a terminal, a log or a spreadsheet obeys instead of showing: controls, direction marks, line ends.
_OBEYED: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Far above any name of ours: an entry stays small whatever a caller sends.
_LONGEST_TEXT: Final = 2000


class Outcome(StrEnum):
    """What came of a call."""

    EFFECT = "EFFECT"
    DENIED = "DENIED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is written of one effect, or of a number of denials alike."""

    id: UUID
    create_time: datetime
    actor: str
    method: str
    resource: str
    outcome: Outcome
    reason: str = ""
    request_id: str = ""
    count: int = 1
    details: Mapping[str, JsonValue] = field(default_factory=dict)


class Position(NamedTuple):
    """An entry's place in the order of sealing: by transaction, then by id. Compares as PostgreSQL does."""

    xact: int
    id: UUID


START: Final = Position(0, UUID(int=0))
"""Before every entry: no transaction has the number 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """An entry as it is stored, each column in the form that is hashed."""

    id: UUID
    # The transaction that wrote it.
    xact: int
    # Text, since a tampered row may hold times and numbers that Python cannot.
    create_time_us: str
    actor: str
    method: str
    resource: str
    outcome: str
    reason: str
    request_id: str
    count: int
    details: str

    @property
    def position(self) -> Position:
        """Its place in the order of sealing."""
        return Position(self.xact, self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """One link of the chain."""

    sequence: int
    entry_id: UUID
    entry_xact: int
    hash: bytes

    @property
    def position(self) -> Position:
        """The place of its entry in the order of sealing."""
        return Position(self.entry_xact, self.entry_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedEntry:
    """An entry as readers see it; `sequence` is 0 until it is sealed."""

    entry: Entry
    sequence: int = 0
    hash: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a walk along the chain found."""

    sealed: int
    unsealed: int
    head: bytes
    first_broken: int
    last_signed: Checkpoint | None = None
    """The newest checkpoint that holds."""
    first_forged_checkpoint: int = 0
    """The place of the first checkpoint that none of the log's keys has signed; 0 where there is none such."""
    first_forged_key: int = 0
    """The first version of the log's key that nobody vouches for; 0 where there is none such."""


class Chain:
    """How far a tenant's chain has got: grows by `extend`, which also recomputes it for a check."""

    def __init__(self, tenant_uid: UUID, last: Seal | None = None) -> None:
        """Continue after the seal `last`, or begin."""
        self._tenant_uid = tenant_uid
        self.sequence = last.sequence if last else 0
        self.head = last.hash if last else first_head(tenant_uid)
        self.position = last.position if last else START

    def extend(self, record: Record) -> Seal:
        """Seal `record` as the next entry.

        Raises:
            ValueError: when it does not come after the last one.
        """
        if record.position <= self.position:
            message = f"{record.position} does not come after {self.position}"
            raise ValueError(message)
        self.sequence += 1
        self.position = record.position
        self.head = link(self.head, canonical(record, self._tenant_uid, sequence=self.sequence))
        return Seal(sequence=self.sequence, entry_id=record.id, entry_xact=record.xact, hash=self.head)

    def accepts(self, seal: Seal, record: Record | None) -> bool:
        """Say whether `seal` is the next link over `record`, and go on behind it. Useless after the first False."""
        if record is None or record.position <= self.position:
            return False
        return self.extend(record) == seal


def canonical(record: Record, tenant_uid: UUID, *, sequence: int) -> bytes:
    """Give the bytes of an entry that are hashed: RFC 8785 (JCS), numbers as text, since JSON's end at 2**53."""
    fields: dict[str, JsonValue] = {
        "tenant": str(tenant_uid),
        "sequence": str(sequence),
        "id": str(record.id),
        "xact": str(record.xact),
        "create_time_us": record.create_time_us,
        "actor": record.actor,
        "method": record.method,
        "resource": record.resource,
        "outcome": record.outcome,
        "reason": record.reason,
        "request_id": record.request_id,
        "count": str(record.count),
    }
    try:
        return rfc8785.dumps({**fields, "details": json.loads(record.details)})
    except (ValueError, RecursionError):
        # Nothing of ours, but PostgreSQL holds numbers that JCS does not: the chain must go on over those too.
        return rfc8785.dumps({**fields, "details": record.details})


def neutral(text: str) -> str:
    r"""Show characters that a terminal or a log would obey as `\uXXXX`, and cut what is too long."""
    if text.isascii() and text.isprintable():
        return text[:_LONGEST_TEXT]
    return "".join(
        rf"\u{ord(character):04x}" if unicodedata.category(character) in _OBEYED else character
        for character in text[:_LONGEST_TEXT]
    )


def neutral_details(value: JsonValue) -> JsonValue:
    """Do the same to every text inside of `value`."""
    match value:
        case str():
            return neutral(value)
        case Mapping():
            return {neutral(key): neutral_details(item) for key, item in value.items()}
        case Sequence():
            return [neutral_details(item) for item in value]
        case _:
            return value
