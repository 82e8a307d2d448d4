"""The platform's own keys, which belong to no tenant: kept as tenants' are, under a KEK of the platform's own."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from control_plane.ids import new_uuid
from control_plane.keys import store
from control_plane.keys.material import Material, ed25519_pair
from control_plane.keys.model import PLATFORM_UID, Binding, KekRef, WrappedKey
from control_plane.keys.store import PlatformKey
from control_plane.keys.vault import KeyVault
from control_plane.postgres.database import Database
from control_plane.proofs.envelope import signed_bytes

ATTESTATIONS: Final = "attestations"
"""Signs what the platform says: what was verified, what was destroyed, and which keys sign audit logs."""

_KEK: Final = KekRef(tenant_uid=PLATFORM_UID, version=1)
_FIRST_VERSION: Final = 1
_ALGORITHM: Final = "Ed25519"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationSigner:
    """Signs attestations."""

    key_id: UUID
    private_key: Ed25519PrivateKey = field(repr=False)

    def sign(self, payload_type: str, payload: bytes) -> bytes:
        """Sign a payload as a DSSE envelope (version 1) has it: with its type, so that it passes for nothing else."""
        return self.private_key.sign(signed_bytes(payload_type, payload))


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationKey:
    """Verifies attestations, for ever."""

    key_id: UUID
    public_key: Ed25519PublicKey
    create_time: datetime


class PlatformKeys:
    """The keys of one cell's platform. Every method raises UnavailableError when the database or the vault is away."""

    def __init__(self, vault: KeyVault, database: Database) -> None:
        """Keys are opened by `vault`, and kept, wrapped, in `database`."""
        self._vault = vault
        self._system = database.system()
        self._signer: AttestationSigner | None = None
        self._vouchers: Sequence[Ed25519PublicKey] = ()

    @property
    def hsm_backed(self) -> bool:
        """Say whether an HSM holds the KEK."""
        return self._vault.root_of_trust.hsm_backed

    async def attestation_signer(self) -> AttestationSigner:
        """Return the newest key for attestations; make the first one where there is none."""
        if self._signer is None:
            keys = await self._stored() or await self._make()
            pair = ed25519_pair(await self._opened(keys[0]))
            self._signer = AttestationSigner(key_id=keys[0].id, private_key=pair)
        return self._signer

    async def attestation_keys(self) -> list[AttestationKey]:
        """List the keys that attestations have ever been signed with, the newest first."""
        return [
            AttestationKey(
                key_id=key.id,
                public_key=Ed25519PublicKey.from_public_bytes(key.public),
                create_time=key.create_time,
            )
            for key in await self._stored()
        ]

    async def vouchers(self) -> Sequence[Ed25519PublicKey]:
        """Return the public halves of those keys, each of the private half that the vault opens.

        For whoever must not believe what the database alone says. Asks the vault the first time only.

        Raises:
            IntegrityError: what is stored is not what was made.
        """
        if not self._vouchers:
            opened = [ed25519_pair(await self._opened(key)) for key in await self._stored()]
            self._vouchers = [pair.public_key() for pair in opened]
        return self._vouchers

    async def _opened(self, key: PlatformKey) -> Material:
        private = await self._vault.unwrap(_KEK, key.wrapped, aad=_binding(key).aad())
        return Material(private=private, public=key.public)

    async def _stored(self) -> list[PlatformKey]:
        return await self._system.run(lambda tx: store.platform_keys(tx, ATTESTATIONS))

    async def _make(self) -> list[PlatformKey]:
        """Make the first key; where two processes do so at once, the first one's stays."""
        await self._vault.create_kek(_KEK)
        private = Ed25519PrivateKey.generate()
        unwrapped = PlatformKey(
            id=new_uuid(),
            purpose=ATTESTATIONS,
            version=_FIRST_VERSION,
            algorithm=_ALGORITHM,
            kek_version=_KEK.version,
            public=private.public_key().public_bytes_raw(),
            wrapped=WrappedKey(b""),
            create_time=datetime.now(UTC),
        )
        wrapped = await self._vault.wrap(_KEK, private.private_bytes_raw(), aad=_binding(unwrapped).aad())
        await self._system.run(lambda tx: store.insert_platform_key(tx, unwrapped, wrapped=wrapped))
        return await self._stored()


def _binding(key: PlatformKey) -> Binding:
    return Binding(
        tenant_uid=PLATFORM_UID,
        purpose=f"platform/{key.purpose}/{key.algorithm}",
        version=key.version,
        object_name=str(key.id),
    )
