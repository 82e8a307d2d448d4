"""What is done with KEKs: they are made and destroyed, and keys are wrapped and opened under them."""

import hmac
import secrets
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

import structlog

from control_plane.ids import new_uuid
from control_plane.keys.material import Material
from control_plane.keys.model import KEY_BYTES, IntegrityError, KekRef, MissingKeyError, Purpose, WrappedKey
from control_plane.keys.store import StoredKey
from control_plane.keys.vault import KeyVault

FIRST_VERSION: Final = 1
_SAMPLE: Final = b"bulkhead/destruction sample/1"
_log: Final = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenKey:
    """A key, opened."""

    id: UUID
    version: int
    material: Material = field(repr=False)


class Keks:
    """The KEKs of all tenants, in a vault. Every method raises UnavailableError while that is away."""

    def __init__(self, vault: KeyVault) -> None:
        """Use the KEKs in `vault`."""
        self._vault = vault

    async def create(self, kek: KekRef) -> None:
        """Make a KEK, unless it is there. Nothing is wrapped under it yet."""
        await self._vault.create_kek(kek)

    async def rewrapped(self, stored: StoredKey, *, kek: KekRef) -> StoredKey:
        """Return the key wrapped under another KEK of its tenant; stores nothing. Unwraps twice, and wraps once.

        It was opened under the new KEK and found to be the same: who destroys the old one cannot come back.

        Raises:
            IntegrityError: what is stored, or what came of it, does not open.
        """
        opened = await self.unwrapped(stored)
        unwrapped = replace(stored, kek_version=kek.version)
        wrapped = await self._vault.wrap(kek, opened.material.private, aad=unwrapped.binding.aad())
        made = replace(unwrapped, wrapped=wrapped)
        if not hmac.compare_digest((await self.unwrapped(made)).material.private, opened.material.private):
            raise IntegrityError("a key that was wrapped anew")
        return made

    async def sample(self, kek: KekRef) -> WrappedKey:
        """Wrap something random under a KEK, and open it, to show later that it does not open any more."""
        sample = await self._vault.wrap(kek, secrets.token_bytes(KEY_BYTES), aad=_SAMPLE)
        await self._vault.unwrap(kek, sample, aad=_SAMPLE)
        return sample

    async def opens(self, kek: KekRef, sample: WrappedKey) -> bool:
        """Say whether a sample opens: no, where there is no such KEK any more. Else raises IntegrityError."""
        try:
            await self._vault.unwrap(kek, sample, aad=_SAMPLE)
        except MissingKeyError:
            return False
        return True

    async def destroy(self, kek: KekRef) -> None:
        """Destroy a KEK: what is wrapped under it is lost for good. Safe to call again."""
        await self._vault.destroy_kek(kek)

    async def wrapped(
        self,
        material: Material,
        *,
        purpose: Purpose,
        algorithm: str,
        kek: KekRef,
        version: int = FIRST_VERSION,
    ) -> StoredKey:
        """Return a new key as it is to be stored."""
        unwrapped = StoredKey(
            id=new_uuid(),
            tenant_uid=kek.tenant_uid,
            purpose=purpose,
            version=version,
            algorithm=algorithm,
            kek_version=kek.version,
            public=material.public,
            wrapped=WrappedKey(b""),
        )
        wrapped = await self._vault.wrap(kek, material.private, aad=unwrapped.binding.aad())
        return replace(unwrapped, wrapped=wrapped)

    async def unwrapped(self, stored: StoredKey) -> OpenKey:
        """Open what is stored; raise IntegrityError where it was changed or moved, and log that."""
        try:
            private = await self._vault.unwrap(stored.kek, stored.wrapped, aad=stored.binding.aad())
        except IntegrityError:
            # Someone has changed, or moved, what is in the database.
            _log.error("wrapped_key_refused", tenant_uid=str(stored.tenant_uid), purpose=stored.purpose.value)
            raise
        return OpenKey(id=stored.id, version=stored.version, material=Material(private=private, public=stored.public))
