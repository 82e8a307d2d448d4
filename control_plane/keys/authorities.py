"""A tenant's certificate authorities: the one that signs, those before it, and how one takes another's place. Pure.

All versions have the same name, and keys of their own (RFC 4210, 4.4): what a certificate was signed by, its authority
key identifier says. A new version comes with a certificate by the one before it, which whoever trusts that one alone
needs. It is self-issued, and so no length of path forbids it (RFC 5280, 6.1.4); those who count it all the same take it
of an authority that allows for one below it, as all do but those from before there were rotations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from control_plane.keys.algorithms import KeyAlgorithm, SigningKey, algorithm_of, new_key
from control_plane.keys.material import (
    MakeKey,
    Material,
    authority_certificate,
    authority_pair,
    key_identifier,
    private_der,
)
from control_plane.keys.model import IntegrityError

_CROSS: Final = "the certificate of an authority by the one before it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """One version of a tenant's certificate authority."""

    version: int
    certificate: x509.Certificate
    private_key: SigningKey = field(repr=False)
    cross: x509.Certificate | None
    """Of the same key, by the version before; None where there was none, or it had expired."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorities:
    """What a tenant's certificates are verified against."""

    signing: Authority
    others: Sequence[Authority]
    """Those that do not sign, and are not retired, the newest first."""

    @property
    def trusted(self) -> list[x509.Certificate]:
        """All, and first that which signs."""
        return [self.signing.certificate, *(each.certificate for each in self.others)]

    @property
    def crosses(self) -> list[x509.Certificate]:
        """What leads from the one that signs back to those before it, as far as they are not retired."""
        before = {key_identifier(each.certificate).digest: each for each in self.others}
        found, at = [], self.signing
        while at.cross is not None and (signer := before.pop(_signer(at.cross), None)) is not None:
            found.append(at.cross)
            at = signer
        return found


def authority_of(material: Material, *, version: int) -> Authority:
    """Parse an authority; raise IntegrityError where a certificate beside the key is not for that key and name."""
    certificate, private_key = authority_pair(material)
    return Authority(
        version=version, certificate=certificate, private_key=private_key, cross=_cross(material, certificate)
    )


def authorities(every: Sequence[Authority], *, signing: int) -> Authorities:
    """Tell the version that signs from the others; raise KeyError where it is not among them."""
    by_version = {each.version: each for each in every}
    return Authorities(signing=by_version[signing], others=[each for each in every if each.version != signing])


def next_authority(before: Material, *, now: datetime, make: MakeKey = new_key) -> tuple[Material, KeyAlgorithm]:
    """Make an authority that takes the place of another: of the same name, of a new key of the same algorithm.

    May take seconds with RSA. Raises IntegrityError where what was before is not whole.
    """
    old, old_key = authority_pair(before)
    algorithm = algorithm_of(old.public_key())
    if algorithm is None:
        message = "an authority has a key that no authority may have"
        raise RuntimeError(message)
    key = make(algorithm)
    own = authority_certificate(key, name=old.subject, now=now)
    cross = None
    if now < old.not_valid_after_utc:
        last = min(own.not_valid_after_utc, old.not_valid_after_utc)
        cross = authority_certificate(key, name=old.subject, now=now, last=last, signer=(old, old_key))
    material = Material(
        private=private_der(key),
        public=own.public_bytes(Encoding.DER),
        cross=None if cross is None else cross.public_bytes(Encoding.DER),
    )
    return material, algorithm


def _cross(material: Material, own: x509.Certificate) -> x509.Certificate | None:
    if material.cross is None:
        return None
    try:
        cross = x509.load_der_x509_certificate(material.cross)
        _signer(cross)
    except (ValueError, x509.ExtensionNotFound):
        raise IntegrityError(_CROSS) from None
    if cross.public_key() != own.public_key() or cross.subject != own.subject:
        raise IntegrityError(_CROSS)
    return cross


def _signer(cross: x509.Certificate) -> bytes:
    return cross.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier or b""
