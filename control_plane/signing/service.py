"""Signs and verifies, each use with its entry in the tenant's audit log: nothing goes out without."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from control_plane.encryption.model import Purpose
from control_plane.encryption.uses import KeyUses
from control_plane.errors import NotFoundError
from control_plane.key_policies.gate import KeyGate
from control_plane.key_policies.model import KeyUse
from control_plane.keys.algorithms import KeyAlgorithm
from control_plane.keys.model import MissingKeyError
from control_plane.keys.named.model import NamedKey
from control_plane.keys.named.signatures import Content, read_private, read_public, sign, verify
from control_plane.keys.service import TenantKeys
from control_plane.postgres.database import TenantHandle
from control_plane.postgres.effects import JsonValue
from control_plane.postgres.placement import Placement
from control_plane.signing.model import check_digest, tried


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be signed, or was; by which key, the use says."""

    content: Content
    digest_algorithm: str
    """What the digest is said to be made by; nothing where there is none."""
    purpose: Purpose
    use: KeyUse


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A signature, and which version of the key made it."""

    signature: bytes = field(repr=False)
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicHalf:
    """The public half of a version, in SubjectPublicKeyInfo DER."""

    algorithm: str
    der: bytes


class Signing:
    """The keys that sign, of every tenant; whose, the handle says.

    `sign` and `verify` raise InvalidArgumentError for a digest that such a key does not sign, UnavailableError where
    the key cannot be had, and what `KeyUses.authorise` raises; then nothing was done.
    """

    def __init__(self, keys: TenantKeys, gate: KeyGate) -> None:
        """Use the tenants' `keys`, where `gate` lets pass."""
        self._keys = keys
        self._uses = KeyUses(keys, gate)

    async def sign(self, asked: Asked, handle: TenantHandle) -> Signed:
        """Sign by the newest version."""
        algorithm = await self._authorised(asked, handle)
        try:
            key = await self._keys.named_key(handle.placement, asked.use.key)
        except MissingKeyError:
            raise NotFoundError(key_name(handle.placement, asked.use.key)) from None
        signature = await asyncio.to_thread(_signed, key.private, asked.content, algorithm=algorithm)
        await self._record(handle, asked, key.version, details={})
        return Signed(signature=signature, version=key.version)

    async def verify(self, asked: Asked, signature: bytes, handle: TenantHandle, *, version: int) -> int | None:
        """Return the version that has signed this: that one, or where it is 0 a newest one; None where none has."""
        algorithm = await self._authorised(asked, handle)
        halves = await self._keys.public_halves(handle.placement, asked.use.key)
        chosen = {each: halves[each] for each in tried([*halves], version)}
        if not chosen:
            raise NotFoundError(f"{key_name(handle.placement, asked.use.key)}/versions/{version}")
        found = await asyncio.to_thread(_signer, chosen, asked.content, algorithm=algorithm, signature=signature)
        await self._record(handle, asked, found, details={"verified": found is not None})
        return found

    async def public_half(self, placement: Placement, key_id: str, version: int) -> PublicHalf:
        """Return the public half of a version; raise NotFoundError where there is none. Not a use of the key."""
        named = await self._keys.named(placement, key_id)
        halves = {} if named is None else await self._keys.public_halves(placement, key_id)
        if named is None or version not in halves:
            raise NotFoundError(f"{key_name(placement, key_id)}/versions/{version}")
        return PublicHalf(algorithm=named.kind.algorithm, der=halves[version])

    async def _authorised(self, asked: Asked, handle: TenantHandle) -> KeyAlgorithm:
        algorithm = _algorithm(await self._uses.authorise(asked.use, handle))
        check_digest(asked.content, asked.digest_algorithm, algorithm=algorithm)
        return algorithm

    async def _record(
        self, handle: TenantHandle, asked: Asked, version: int | None, *, details: Mapping[str, JsonValue]
    ) -> None:
        name = key_name(handle.placement, asked.use.key)
        context: dict[str, JsonValue] = dict(asked.purpose.context)
        await self._uses.recorded(
            asked.use,
            handle,
            resource=name if version is None else f"{name}/versions/{version}",
            details={"context": context, **details},
        )


def key_name(placement: Placement, key_id: str) -> str:
    """Name a key as a resource."""
    return f"tenants/{placement.tenant_id}/keys/{key_id}"


def _algorithm(named: NamedKey | None) -> KeyAlgorithm:
    if named is None:
        message = "a key that signs is of a tenant's own"
        raise RuntimeError(message)
    return named.kind.signs_with


def _signed(private: bytes, content: Content, *, algorithm: KeyAlgorithm) -> bytes:
    return sign(read_private(private, algorithm), content, algorithm=algorithm)


def _signer(halves: Mapping[int, bytes], content: Content, *, algorithm: KeyAlgorithm, signature: bytes) -> int | None:
    for version, der in halves.items():
        if verify(read_public(der, algorithm), content, algorithm=algorithm, signature=signature):
            return version
    return None
