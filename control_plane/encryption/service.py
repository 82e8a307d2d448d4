"""Seals and opens, each use with its entry in the tenant's audit log: nothing goes out without.

Each use passes the tenant's key policy twice: before the key is opened, and in the transaction of its entry.
"""

import secrets
from dataclasses import dataclass, field

from control_plane.encryption.model import SERVICES, Purpose
from control_plane.encryption.uses import KeyUses
from control_plane.errors import FieldViolation, InvalidArgumentError, PreconditionError
from control_plane.key_policies.gate import KeyGate
from control_plane.key_policies.model import KeyUse
from control_plane.keys.model import NONCE_BYTES, IntegrityError, MissingKeyError, seal, sealed_version, unseal
from control_plane.keys.sealing.objects import StorageKey
from control_plane.keys.service import TenantKeys
from control_plane.postgres.database import TenantHandle
from control_plane.postgres.effects import JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """An envelope, and which version of the key sealed it."""

    ciphertext: bytes
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What was in an envelope, and which version of the key had sealed it."""

    plaintext: bytes = field(repr=False)
    version: int


class Encryption:
    """The keys that seal, of every tenant; whose, the handle says, and which, the use: what passes is what is used.

    Every method raises what `KeyUses.authorise` raises, and UnavailableError when the key cannot be had; then nothing
    was done.
    """

    def __init__(self, keys: TenantKeys, gate: KeyGate) -> None:
        """Use the tenants' `keys`, where `gate` lets pass."""
        self._keys = keys
        self._uses = KeyUses(keys, gate)

    async def seal(self, plaintext: bytes, purpose: Purpose, handle: TenantHandle, *, use: KeyUse) -> Sealed:
        """Seal it under the newest version."""
        await self._uses.authorise(use, handle)
        sealed = await self._sealed(plaintext, purpose, handle, use=use)
        await self._record(handle, purpose, sealed.version, use=use)
        return sealed

    async def open(self, ciphertext: bytes, purpose: Purpose, handle: TenantHandle, *, use: KeyUse) -> Opened:
        """Open it.

        Raises:
            InvalidArgumentError: it was not sealed here, for this tenant and this context, or was altered since.
            PreconditionError: the version that sealed it is not used any more.
        """
        await self._uses.authorise(use, handle)
        opened = await self._opened(ciphertext, purpose, handle, use=use)
        await self._record(handle, purpose, opened.version, use=use)
        return opened

    async def rewrap(self, ciphertext: bytes, purpose: Purpose, handle: TenantHandle, *, use: KeyUse) -> Sealed:
        """Open it and seal it under the newest version of the same key. Raises like `open`."""
        await self._uses.authorise(use, handle)
        opened = await self._opened(ciphertext, purpose, handle, use=use)
        sealed = await self._sealed(opened.plaintext, purpose, handle, use=use)
        await self._record(handle, purpose, sealed.version, use=use, before=opened.version)
        return sealed

    async def _key(self, use: KeyUse, handle: TenantHandle, *, version: int | None = None) -> StorageKey:
        if use.key == SERVICES:
            return await self._keys.services_key(handle.placement, version=version)
        return await self._keys.named_key(handle.placement, use.key, version=version)

    async def _sealed(self, plaintext: bytes, purpose: Purpose, handle: TenantHandle, *, use: KeyUse) -> Sealed:
        key = await self._key(use, handle)
        aad = purpose.aad(handle.placement.uid, use.key, key.version)
        nonce = secrets.token_bytes(NONCE_BYTES)
        ciphertext = seal(key.private, plaintext, version=key.version, nonce=nonce, aad=aad)
        return Sealed(ciphertext=ciphertext, version=key.version)

    async def _opened(self, ciphertext: bytes, purpose: Purpose, handle: TenantHandle, *, use: KeyUse) -> Opened:
        try:
            version = sealed_version(ciphertext)
            key = await self._key(use, handle, version=version)
            aad = purpose.aad(handle.placement.uid, use.key, version)
            plaintext = unseal(key.private, ciphertext, version=version, aad=aad)
        except IntegrityError:
            text = "does not open: altered, or sealed elsewhere, for another tenant or with another context"
            raise InvalidArgumentError(
                FieldViolation(field="ciphertext", description=text, reason="CIPHERTEXT")
            ) from None
        except MissingKeyError as error:
            name = f"tenants/{handle.placement.tenant_id}/keys/{use.key}"
            text = "what sealed this is not used any more, or never was"
            raise PreconditionError(name, text, reason="KEY_VERSION_UNUSABLE") from error
        return Opened(plaintext=plaintext, version=version)

    async def _record(
        self, handle: TenantHandle, purpose: Purpose, version: int, *, use: KeyUse, before: int | None = None
    ) -> None:
        context: dict[str, JsonValue] = dict(purpose.context)
        details: dict[str, JsonValue] = {"encryption_context": context}
        if before is not None:
            details["sealed_before_by"] = before
        resource = key_version_name(handle, use.key, version)
        await self._uses.recorded(use, handle, resource=resource, details=details)


def key_version_name(handle: TenantHandle, key_id: str, version: int) -> str:
    """Name a version of a key as a resource."""
    return f"tenants/{handle.placement.tenant_id}/keys/{key_id}/versions/{version}"
