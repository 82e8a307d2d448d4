"""An escrow, what is proposed of one, and a recovery. Pure."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from control_plane.errors import EtagMismatchError, InvalidArgumentError, PreconditionError, Violations
from control_plane.keys.escrow import EscrowKey
from control_plane.keys.model import Binding, IntegrityError, KekRef, WrappedKey
from control_plane.recipients import hpke
from control_plane.tokens.model import check_apart

KIND: Final = "keys.recover"
"""The kind of the operations that recover keys."""
STEPS: Final = ("shares", "wrapping", "escrow", "end")
FEWEST: Final = 2
MOST: Final = 16
"""How many shares can be told apart (SLIP-0039)."""
PROPOSED_FOR: Final = timedelta(days=1)
OPEN_FOR: Final = timedelta(days=1)
LONGEST_REASON: Final = 500
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """Somebody whom a tenant trusts with a share."""

    name: str
    public: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a tenant wants of its escrow."""

    recipients: tuple[Recipient, ...]
    threshold: int
    platform_may_begin: bool

    @property
    def digest(self) -> bytes:
        """Over all of them, recipients' keys included."""
        parts = [b"bulkhead/escrow/terms/1", str(self.threshold).encode(), str(self.platform_may_begin).encode()]
        for one in self.recipients:
            parts += [one.name.encode(), one.public]
        return _digest(*parts)

    def check(self, violations: Violations) -> None:
        """Note what is wrong with them, but for what `hpke` says of keys."""
        count = len(self.recipients)
        if not FEWEST <= count <= MOST:
            violations.add("recipients", f"must be {FEWEST} to {MOST}", reason="RECIPIENTS")
        if not FEWEST <= self.threshold <= max(count, FEWEST):
            violations.add("threshold", f"must be {FEWEST} at least, and no more than recipients", reason="THRESHOLD")
        names = [one.name for one in self.recipients]
        keys = [one.public for one in self.recipients]
        for index, one in enumerate(self.recipients):
            place = f"recipients[{index}]"
            if not _NAME.fullmatch(one.name):
                violations.add(f"{place}.name", "must be letters, digits and ._@-, 64 at most", reason="NAME")
            if one.name in names[:index]:
                violations.add(f"{place}.name", "is there twice: each has one share", reason="RECIPIENTS")
            if one.public in keys[:index]:
                violations.add(
                    f"{place}.public_key", "is there twice: each has a key of their own", reason="RECIPIENTS"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """An escrow that one administrator wants, and another has not confirmed."""

    id: UUID
    tenant_uid: UUID
    terms: Terms
    proposer: str
    behind: frozenset[str]
    """All who could have made the proposer's credential; nobody where that is not known."""
    create_time: datetime
    expire_time: datetime

    @property
    def digest(self) -> str:
        """Over all of it: who confirms this digest confirms these recipients' keys, and no others.

        Who stands behind the proposer is in it, too: it is read again for the confirmation.
        """
        return _digest(
            b"bulkhead/escrow/proposal/2",
            self.tenant_uid.bytes,
            self.id.bytes,
            self.proposer.encode(),
            _digest(*(one.encode() for one in sorted(self.behind))),
            self.expire_time.isoformat().encode(),
            self.terms.digest,
        ).hex()

    def check_confirmable(self, name: str, *, behind: AbstractSet[str], digest: str, now: datetime) -> None:
        """Raise for a proposal that is not to be confirmed, by who has these `behind`, now, or in these words.

        Raises:
            InvalidArgumentError: these are other words.
            PolicyDeniedError: one person could have proposed it and confirm it.
            PreconditionError: it has expired.
        """
        if now >= self.expire_time:
            raise no_proposal(name)
        check_apart(self.behind, behind, name=name)
        if digest != self.digest:
            violations = Violations()
            violations.add("digest", "is not the digest of what is proposed", reason="DIGEST")
            raise InvalidArgumentError(*violations.found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A recipient's share as it lies with the platform, which cannot open it."""

    recipient: str
    position: int
    public: bytes = field(repr=False)
    sealed: bytes = field(repr=False)
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Escrow:
    """An escrow that is on."""

    tenant_uid: UUID
    id: UUID
    public: bytes = field(repr=False)
    threshold: int
    platform_may_begin: bool
    terms_digest: bytes
    check_key_id: UUID
    root_check: bytes = field(repr=False)
    voucher: bytes = field(repr=False)
    create_time: datetime
    shares: tuple[Share, ...]

    @property
    def key(self) -> EscrowKey:
        """What keys are copied for."""
        return EscrowKey(
            id=self.id,
            public=self.public,
            terms_digest=self.terms_digest,
            check_key_id=self.check_key_id,
            voucher=self.voucher,
        )

    @property
    def terms(self) -> Terms:
        """What it was made with, and is made anew with."""
        recipients = tuple(Recipient(name=one.recipient, public=one.public) for one in self.shares)
        return Terms(recipients=recipients, threshold=self.threshold, platform_may_begin=self.platform_may_begin)

    def check_terms(self) -> None:
        """Raise IntegrityError where recipients are not those that it was made for."""
        if self.terms.digest != self.terms_digest:
            raise IntegrityError("the recipients of an escrow")

    def share_of(self, recipient: str) -> Share | None:
        """Return a recipient's share; None for somebody who has none."""
        return next((one for one in self.shares if one.recipient == recipient), None)


class RecoveryState(StrEnum):
    """Where a recovery is."""

    OPEN = "OPEN"
    RECOVERING = "RECOVERING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


class Afterwards(StrEnum):
    """What becomes of an escrow whose recipients have shown their shares."""

    REKEY = "REKEY"
    DISABLE = "DISABLE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A share that its recipient gave to a recovery, sealed to that."""

    recipient: str
    sealed: bytes = field(repr=False)
    create_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """A recovery, from its beginning on."""

    id: UUID
    tenant_uid: UUID
    escrow_id: UUID
    kek_version: int
    state: RecoveryState
    session: WrappedKey | None = field(repr=False)
    """The private half of what approvals are sealed to, under the new KEK; None when it has ended."""
    beginner: str
    reason: str
    afterwards: Afterwards
    create_time: datetime
    expire_time: datetime
    operation_id: UUID | None = None
    end_time: datetime | None = None
    approvals: tuple[Approval, ...] = ()

    @property
    def kek(self) -> KekRef:
        """Name the KEK that the keys will be under."""
        return KekRef(tenant_uid=self.tenant_uid, version=self.kek_version)

    @property
    def aad(self) -> bytes:
        """Say what the session's private half is bound to: swapped in the database, it does not open."""
        return Binding(
            tenant_uid=self.tenant_uid,
            purpose="escrow/session",
            version=self.kek_version,
            object_name=f"{self.id}/{self.escrow_id}",
        ).aad()

    def check_open(self, name: str, *, now: datetime) -> None:
        """Raise PreconditionError unless it can be approved."""
        if self.state is not RecoveryState.OPEN:
            raise PreconditionError(name, f"{name} is {self.state}", reason="RECOVERY_ENDED", state=self.state)
        if now >= self.expire_time:
            raise PreconditionError(name, f"{name} has expired: begin another", reason="RECOVERY_EXPIRED")

    def check_first(self, name: str, recipient: str) -> None:
        """Raise PreconditionError where the recipient has approved already: each counts once."""
        if any(one.recipient == recipient for one in self.approvals):
            text = f"{recipient} has approved {name} already, and counts once"
            raise PreconditionError(name, text, reason="RECOVERY_APPROVED_BEFORE", recipient=recipient)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """All that is told of a tenant's escrow."""

    name: str
    escrow: Escrow | None
    key_versions: Sequence[str] = ()
    proposal: Proposal | None = None
    recovery: UUID | None = None

    @property
    def etag(self) -> str:
        """Changes with every change (AIP-154)."""
        parts = (
            self.escrow and self.escrow.id,
            self.proposal and self.proposal.id,
            self.recovery,
            *self.key_versions,
        )
        return hashlib.sha256("/".join(str(part) for part in (self.name, *parts)).encode()).hexdigest()[:16]

    def check_etag(self, etag: str) -> None:
        """Raise EtagMismatchError when the caller has seen another state of it. An empty etag matches all."""
        if etag and etag != self.etag:
            raise EtagMismatchError(f"{self.name} was changed since it was read", etag=self.etag)


def describe(terms: Terms) -> Mapping[str, str]:
    """Name recipients' keys by their fingerprints, for the audit log."""
    return {one.name: hpke.fingerprint(one.public) for one in terms.recipients}


def check_reason(reason: str, violations: Violations) -> None:
    """Note a reason that says nothing, or too much."""
    if not reason.strip() or len(reason) > LONGEST_REASON:
        violations.add("reason", f"must say why, in at most {LONGEST_REASON} characters", reason="REASON")


def _digest(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()


def no_proposal(name: str) -> PreconditionError:
    """Make the error for a confirmation of nothing."""
    return PreconditionError(name, f"nothing is proposed for {name}, or not any more", reason="ESCROW_NOT_PROPOSED")


def escrow_off(name: str) -> PreconditionError:
    """Make the error for what needs an escrow."""
    return PreconditionError(name, f"{name} is off: there is nothing to recover keys from", reason="ESCROW_OFF")
