"""The vault without an HSM: a root key in a file, and each KEK in a file of its own, wrapped under the root.

::

    DIRECTORY/root.key                 0600: "BHR1", 32 random bytes, the first 8 bytes of their SHA-256
    DIRECTORY/keks/<uid>.<version>     0600: an envelope (`model.py`), sealed under the root

The KEKs lie outside the database and the object store on purpose: a dump of both opens nothing, and destroying a KEK is
the removal of one file that no backup of the database holds. Whoever backs up this directory backs up the means to
read everything. On a device that keeps old blocks, a removed KEK is as secret as the root that it was wrapped under.
"""

import hashlib
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar
from uuid import UUID

from control_plane import private_file
from control_plane.errors import HsmTierUnavailableError, UnavailableError
from control_plane.keys.model import (
    KEY_BYTES,
    NONCE_BYTES,
    Binding,
    IntegrityError,
    KekRef,
    MissingKeyError,
    WrappedKey,
    seal,
    unseal,
)
from control_plane.keys.vault import (
    ROOT_FILE,
    TOKENS_FILE,
    RootOfTrust,
    UnusableVaultError,
    check_directory,
)
from control_plane.threads import run_to_end

T = TypeVar("T")

_ROOT_MAGIC: Final = b"BHR1"
_ROOT_VERSION: Final = 1
_CHECK_BYTES: Final = 8
_KEK_FILE: Final = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.([1-9][0-9]{0,9})", re.ASCII)


class SoftwareVault:
    """Keeps the promise of `KeyVault` with files. Several processes may have one directory open.

    KEKs are read for each use and not cached, so that a destroyed one is gone for every process at once.
    """

    def __init__(self, directory: Path, *, root: bytes) -> None:
        """Take an opened root: `open` is the way in."""
        self._keks = directory / "keks"
        self._root = root

    @classmethod
    async def open(cls, directory: Path) -> "SoftwareVault":
        """Open the vault in `directory`; make it, with a new root, where there is none.

        Raises:
            ExposedKeyError: others than the owner may read the root.
            UnusableVaultError: the root is lost or damaged, others may write to the vault, or we may not.
        """
        try:
            return cls(directory, root=await run_to_end(lambda: _open_root(directory)))
        except OSError as error:
            raise UnusableVaultError(
                f"the vault in {directory} cannot be opened ({error.strerror}): it must belong to the user who runs us"
            ) from error

    @property
    def root_of_trust(self) -> RootOfTrust:
        """Say that it is software."""
        return RootOfTrust(hsm_backed=False, label="software")

    def root_of_trust_of(self, tenant_uid: UUID) -> RootOfTrust:  # noqa: ARG002 all tenants have the same
        """See `KeyVault`."""
        return self.root_of_trust

    @property
    def offers_own_tokens(self) -> bool:
        """See `KeyVault`: there are no tokens."""
        return False

    async def create_kek(self, kek: KekRef, *, own_token: bool = False) -> None:
        """See `KeyVault`. Two syncs of the disk."""
        if own_token:
            raise HsmTierUnavailableError("vault", "the vault is software, which has no tokens")

        def create() -> None:
            content = seal(
                self._root,
                secrets.token_bytes(KEY_BYTES),
                version=_ROOT_VERSION,
                nonce=secrets.token_bytes(NONCE_BYTES),
                aad=_binding(kek).aad(),
            )
            private_file.create(self._path(kek), content)

        await self._in_thread(create)

    async def wrap(self, kek: KekRef, key: bytes, *, aad: bytes) -> WrappedKey:
        """See `KeyVault`. One read of a small file."""

        def wrap() -> WrappedKey:
            nonce = secrets.token_bytes(NONCE_BYTES)
            return WrappedKey(seal(self._read(kek), key, version=kek.version, nonce=nonce, aad=aad))

        return await self._in_thread(wrap)

    async def unwrap(self, kek: KekRef, wrapped: WrappedKey, *, aad: bytes) -> bytes:
        """See `KeyVault`. One read of a small file."""
        return await self._in_thread(lambda: unseal(self._read(kek), wrapped, version=kek.version, aad=aad))

    async def destroy_kek(self, kek: KekRef) -> None:
        """See `KeyVault`. The file is removed and the directory synced."""
        await self._in_thread(lambda: private_file.remove(self._path(kek)))

    async def keks(self) -> list[KekRef]:
        """See `KeyVault`. Reads the names in one directory."""

        def names() -> list[KekRef]:
            found = (_KEK_FILE.fullmatch(path.name) for path in self._keks.iterdir())
            return sorted(KekRef(tenant_uid=UUID(match[1]), version=int(match[2])) for match in found if match)

        return await self._in_thread(names)

    def _path(self, kek: KekRef) -> Path:
        return self._keks / f"{kek.tenant_uid}.{kek.version}"

    def _read(self, kek: KekRef) -> bytes:
        try:
            content = private_file.read(self._path(kek))
        except FileNotFoundError:
            if self._keks.is_dir():
                raise MissingKeyError(kek.title) from None
            raise
        try:
            return unseal(self._root, content, version=_ROOT_VERSION, aad=_binding(kek).aad())
        except IntegrityError:
            raise IntegrityError(kek.title) from None

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            return await run_to_end(work)
        except OSError as error:
            raise UnavailableError("the key vault is away", reason="VAULT_UNAVAILABLE") from error


def _binding(kek: KekRef) -> Binding:
    return Binding(tenant_uid=kek.tenant_uid, purpose="kek", version=kek.version, object_name="vault")


def _open_root(directory: Path) -> bytes:
    keks = directory / "keks"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    keks.mkdir(mode=0o700, exist_ok=True)
    for folder in (directory, directory.parent):
        private_file.sync_directory(folder)
    for folder in (directory, keks):
        check_directory(folder, others=TOKENS_FILE)
    path = directory / ROOT_FILE
    # Looked at before the root: a root always comes into being before the first KEK.
    has_keks = any(_KEK_FILE.fullmatch(entry.name) for entry in keks.iterdir())
    if not has_keks:
        private_file.create(path, _root_file(secrets.token_bytes(KEY_BYTES)))
    try:
        content = private_file.read(path)
    except FileNotFoundError:
        raise UnusableVaultError(
            f"{path} is gone, but there are tenants' keys that only it opens: put it back from your backup of it"
        ) from None
    root = content[len(_ROOT_MAGIC) : -_CHECK_BYTES]
    if content != _root_file(root) or len(root) != KEY_BYTES:
        raise UnusableVaultError(f"{path} is damaged: put it back from your backup of it")
    return root


def _root_file(root: bytes) -> bytes:
    return _ROOT_MAGIC + root + hashlib.sha256(root).digest()[:_CHECK_BYTES]
