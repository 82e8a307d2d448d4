"""The promise of a vault: KEKs are made in it, used in it and destroyed in it, and never leave it.

`vault_software.py` keeps the promise with files, `vault_pkcs11.py` with an HSM; `tests/contracts/test_key_vault.py` is
run over each. All methods are async because an HSM blocks: an implementation owns the threads that wait for it.
"""

from dataclasses import dataclass
from typing import Protocol

from control_plane.keys.model import KekRef, WrappedKey


@dataclass(frozen=True, slots=True, kw_only=True)
class RootOfTrust:
    """What all keys finally rest on, as every surface shows it."""

    hsm_backed: bool
    """Whether the root and the KEKs are held by a device that does not give them out."""
    label: str
    """For people, such as `software` or the name of an HSM's token. No path, no secret."""


class KeyVault(Protocol):
    """Holds one KEK for each tenant and version.

    Every method MAY be called from any task of one event loop at once, and MUST NOT block the loop. Every method raises
    UnavailableError when the device or the disk behind it is away; nothing was done then, or (for `create_kek` and
    `destroy_kek`) calling again completes it. A call that is cancelled MUST NOT have an effect after it has ended. No
    method MAY put key bytes into an error, a log or a repr.
    """

    @property
    def root_of_trust(self) -> RootOfTrust:
        """Say what holds the keys. MUST be true for every KEK in the vault: never a silent fallback to software."""
        ...

    async def create_kek(self, kek: KekRef) -> None:
        """Make a fresh, random KEK under this name, unless there is one.

        MUST be safe to call again, at once from elsewhere too, and to be killed in: the first KEK that was made under
        the name stays the one. The effect MUST be durable on return, also where the KEK was there before.
        """
        ...

    async def wrap(self, kek: KekRef, key: bytes, *, aad: bytes) -> WrappedKey:
        """Encrypt `key` (1 to 4096 bytes) under the KEK, bound to `aad` (which is not secret, and not stored).

        MUST give a different result each time. Raises MissingKeyError when there is no such KEK.
        """
        ...

    async def unwrap(self, kek: KekRef, wrapped: WrappedKey, *, aad: bytes) -> bytes:
        """Return the key that was wrapped under this KEK with this `aad`.

        MUST raise IntegrityError for anything else: altered or cut bytes, another KEK's, another `aad`; and
        MissingKeyError when there is no such KEK. MUST NOT return a key that it is not sure of.
        """
        ...

    async def destroy_kek(self, kek: KekRef) -> None:
        """Destroy the KEK: what it wrapped is lost for good, wherever copies of it lie.

        MUST be durable on return and seen by every process's next call; safe to call again, and where there was none.
        """
        ...

    async def keks(self) -> list[KekRef]:
        """List all KEKs, for the census: each must belong to a tenant. Costs time linear in their number."""
        ...
