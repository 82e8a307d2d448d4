"""Copies of a tenant's keys for its escrow: how each is sealed, opened, and known to be ours. Pure.

Whoever can write into the database could put a public key of their own there, to be given whatever the tenant makes
next; or, since everybody may seal to the escrow's, copies of keys that they know, to be used after a recovery. What
tells ours from theirs are values made with a key of the tenant's (`check_key_id`), wrapped as all are: a voucher for
the escrow, and a check value for each copy. Once the KEK is lost, that key is itself a copy. What tells whether that
one is ours needs the escrow's private key, which is only there while an escrow is made and while it is recovered.
"""

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from control_plane.keys.model import Binding, IntegrityError
from control_plane.recipients import hpke

_ROOT_LABEL: Final = b"bulkhead/escrow/root/1"
_CHECK_LABEL: Final = b"bulkhead/escrow/check/1"
_VOUCHER_LABEL: Final = b"bulkhead/escrow/voucher/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class EscrowKey:
    """What a tenant's keys are copied for."""

    id: UUID
    """Of the escrow."""
    public: bytes = field(repr=False)
    terms_digest: bytes
    """Over what the tenant wants: who has shares, and how many it takes."""
    check_key_id: UUID
    """The key that the voucher and copies' check values are made with."""
    voucher: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A key, sealed to the escrow: opened by enough of the recipients together, and by nobody else."""

    escrow_id: UUID
    sealed: bytes = field(repr=False)
    check_value: bytes = field(repr=False)


def voucher(escrow: EscrowKey, *, check_key: bytes) -> bytes:
    """Vouch for an escrow: its public key, and what the tenant wants of it."""
    said = (_VOUCHER_LABEL, escrow.id.bytes, escrow.public, escrow.terms_digest)
    return hmac.digest(check_key, b"".join(len(part).to_bytes(8, "big") + part for part in said), hashlib.sha256)


def check_voucher(escrow: EscrowKey, *, check_key: bytes) -> None:
    """Raise IntegrityError for an escrow that is not as we made it: nothing is to be sealed to it."""
    if not hmac.compare_digest(escrow.voucher, voucher(escrow, check_key=check_key)):
        raise IntegrityError("an escrow")


def copied(escrow: EscrowKey, binding: Binding, private: bytes, *, check_key: bytes) -> Copy:
    """Seal a key's private half for an escrow, bound to the very row that it is of."""
    return Copy(
        escrow_id=escrow.id,
        sealed=hpke.seal(escrow.public, private, _context(escrow.id, binding)),
        check_value=_check_value(check_key, escrow.id, binding, private),
    )


def opened(copy: Copy, binding: Binding, *, key: hpke.PrivateKey) -> bytes:
    """Return the private half that a copy is of. Not known to be ours: `check` says so.

    Raises:
        IntegrityError: altered, or of another key, version, tenant or escrow.
    """
    try:
        return key.open(copy.sealed, _context(copy.escrow_id, binding))
    except hpke.UnopenedError:
        raise IntegrityError("a copy in escrow") from None


def check(copy: Copy, binding: Binding, private: bytes, *, check_key: bytes) -> None:
    """Raise IntegrityError where a copy is not one that we made."""
    expected = _check_value(check_key, copy.escrow_id, binding, private)
    if not hmac.compare_digest(copy.check_value, expected):
        raise IntegrityError("a copy in escrow")


def root_check(key: hpke.PrivateKey, check_key: bytes) -> bytes:
    """Say which check key an escrow was made with, to whoever has the escrow's private key."""
    return hmac.digest(key.seed, _ROOT_LABEL + check_key, hashlib.sha256)


def _check_value(check_key: bytes, escrow_id: UUID, binding: Binding, private: bytes) -> bytes:
    derived = hmac.digest(check_key, _CHECK_LABEL + escrow_id.bytes, hashlib.sha256)
    aad = binding.aad()
    return hmac.digest(derived, len(aad).to_bytes(8, "big") + aad + private, hashlib.sha256)


def _context(escrow_id: UUID, binding: Binding) -> hpke.Context:
    return hpke.Context(purpose="escrow/key/1", parts=(escrow_id.bytes, binding.aad()))
