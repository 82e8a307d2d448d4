"""The promise of a vault: KEKs are made in it, used in it and destroyed in it, and never leave it.

`vault_software.py` keeps the promise with files, `vault_pkcs11.py` with an HSM; `tests/contracts/test_key_vault.py` is
run over each. All methods are async because an HSM blocks: an implementation owns the threads that wait for it.
"""

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from uuid import UUID

from control_plane.keys.model import KekRef, WrappedKey

ROOT_FILE: Final = "root.key"
"""Makes a directory a software vault's."""
TOKENS_FILE: Final = "tokens.json"
"""Makes a directory a device's."""


class UnusableVaultError(Exception):
    """The vault must not be opened as it is. Says what to do; the caller is an operator."""


def check_directory(directory: Path, *, others: str) -> None:
    """Raise UnusableVaultError where strangers may write to a directory, or where it is the other kind of vault's.

    A cell has the kind of vault that it was made with. With another its keys would not be there: new ones would be made
    beside, and what the old ones sealed would look altered.
    """
    if directory.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UnusableVaultError(
            f"others may write to {directory} and so replace its keys: run `chmod 700 {directory}`"
        )
    if (directory / others).exists():
        raise UnusableVaultError(
            f"{directory} has {others}, so it is the other kind of vault, and its keys are nowhere else: open it as "
            "what it is, or begin another cell"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RootOfTrust:
    """What all keys finally rest on, as every surface shows it."""

    hsm_backed: bool
    """Whether the root and the KEKs are held by a device that does not give them out."""
    label: str
    """For people, such as `software` or the model of an HSM. No path, no secret."""
    firmware: str = ""
    """The version of what runs in the HSM; empty where there is none."""
    token: str = ""
    """The label of the token that has a tenant's KEKs; empty where there is none."""
    own_token: bool = False
    """Whether that token has the tenant's KEKs and nobody else's."""


class KeyVault(Protocol):
    """Holds one KEK for each tenant and version.

    Every method MAY be called from any task of one event loop at once, and MUST NOT block the loop. Every method raises
    UnavailableError when the device or the disk behind it is away (`VAULT_UNAVAILABLE`), or when the device refuses us
    (`VAULT_PIN_REFUSED`); nothing was done then, or (for `create_kek` and `destroy_kek`) calling again completes it. A
    call that is cancelled MUST NOT have an effect after it has ended. No method MAY put key bytes into an error, a log
    or a repr. A process that was forked MUST open the vault itself: what it inherits is the parent's.
    """

    @property
    def root_of_trust(self) -> RootOfTrust:
        """Say what holds the keys. MUST be true for every KEK in the vault: never a silent fallback to software."""
        ...

    def root_of_trust_of(self, tenant_uid: UUID) -> RootOfTrust:
        """Say what holds a tenant's keys, whether or not it has any yet, down to the token."""
        ...

    @property
    def offers_own_tokens(self) -> bool:
        """Say whether a tenant may have a token to itself here, as long as there are any left."""
        ...

    async def create_kek(self, kek: KekRef, *, own_token: bool = False) -> None:
        """Make a fresh, random KEK under this name, unless there is one.

        With `own_token` it is made in a token that has no other tenant's, and later ones of the same tenant MUST be
        made there, whether or not it is said again. Raises HsmTierUnavailableError where there is no such token, or the
        tenant has KEKs elsewhere; nothing was made then, and never in another place instead. Once the last of the
        tenant's KEKs is destroyed, others MAY have the token.

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
