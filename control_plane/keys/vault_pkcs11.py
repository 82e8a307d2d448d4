"""The vault in a device that speaks PKCS#11: each KEK is an object in a token, which it never leaves.

::

    DIRECTORY/tokens.json    0600: the tokens by their labels, whose order says where a tenant's KEKs are, and whose own
    DIRECTORY/lock           held while a KEK is made: PKCS#11 knows no unique names
    DIRECTORY/user.pin, so.pin, softhsm2.conf, tokens/    where no device is configured: SoftHSM's, made by us

`pkcs11/keks.py` says how it is sure of what it says; `pkcs11/library.py` how a process shares one library.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final
from uuid import UUID

from control_plane import private_file
from control_plane.errors import HsmTierUnavailableError, UnavailableError
from control_plane.keys.model import KekRef, WrappedKey
from control_plane.keys.pkcs11 import layout, softhsm, tokens
from control_plane.keys.pkcs11.cryptoki import CryptokiError, TokenInfo
from control_plane.keys.pkcs11.keks import TokenKeks
from control_plane.keys.pkcs11.layout import Layout, LayoutFile, UnknownLayoutError
from control_plane.keys.pkcs11.library import Library
from control_plane.keys.pkcs11.tokens import ForeignTokenError, NoTokenError, Pins, TokenMeans
from control_plane.keys.vault import (
    ROOT_FILE,
    TOKENS_FILE,
    RootOfTrust,
    UnusableVaultError,
    check_directory,
)
from control_plane.settings import HsmSettings
from control_plane.threads import run_to_end

USE_WITHIN: Final = timedelta(seconds=2)
"""How long a wrap or an unwrap may take, its time in the queue with it."""
LIST_WITHIN: Final = timedelta(seconds=60)
# A process that opens SoftHSM reads all tokens first, a third of a millisecond for each.
_MOST_OWN_TOKENS: Final = 1_000

_REMEDY: Final = (
    f"there is no SoftHSM here: `make setup` brings it, and so does `apt-get install softhsm2`; {softhsm.MODULE} names "
    "the library where it is elsewhere"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """What a vault is made of, before anything was asked of the device."""

    directory: Path
    module: Path
    environment: dict[str, str]
    tokens: tuple[str, ...]
    own_tokens: tuple[str, ...]
    """What tenants may have to themselves."""
    pin_file: Path
    made_by_us: Pins | None

    @property
    def means(self) -> TokenMeans:
        """What opens and makes tokens."""
        return TokenMeans(pin=partial(tokens.read_pin, self.pin_file), made_by_us=self.made_by_us)

    @property
    def layout_file(self) -> Path:
        """Where the tokens are written down."""
        return self.directory / TOKENS_FILE

    @property
    def lock(self) -> Path:
        """Held while a KEK or a token is made."""
        return self.directory / "lock"


class Pkcs11Vault:
    """Keeps the promise of `KeyVault` with a device. Several processes of one machine may have one directory open."""

    def __init__(self, library: Library, place: _Place, whole: Layout) -> None:
        """Take a vault that is made: `open` is the way in."""
        self._library = library
        self._place = place
        self._layout = LayoutFile(place.layout_file, whole)
        self._keks = TokenKeks(library, self._layout, place.means.pin)
        # What lasts is done one by one: at most one thread waits for other processes or for the disk.
        self._changing = asyncio.Lock()

    @classmethod
    async def open(cls, directory: Path, settings: HsmSettings) -> "Pkcs11Vault":
        """Open the vault in `directory`; the first time make it, for which the device has to be there.

        Later a device that is away does not matter here: calls say so, and find it when it is back.

        Raises:
            ExposedKeyError: others than the owner may read a PIN.
            UnusableVaultError: the library cannot be loaded, or this directory was made for something else.
            UnavailableError: the vault is new, and the device does not work.
        """
        try:
            place = await run_to_end(lambda: _prepare(directory, settings))
            return cls(*await run_to_end(lambda: _made(place)))
        except (OSError, ValueError, CryptokiError) as error:
            raise UnusableVaultError(
                f"the vault in {directory} cannot be opened ({error}): it must belong to the user who runs us, and its "
                "library must be one of PKCS#11"
            ) from error

    @property
    def root_of_trust(self) -> RootOfTrust:
        """Say what was last seen of the device; nothing is claimed of one that was never seen."""
        return root_of(self._library.seen(self._layout.known.tokens[0]))

    def root_of_trust_of(self, tenant_uid: UUID) -> RootOfTrust:
        """See `KeyVault`."""
        try:
            layout = self._layout.now()
        except (OSError, UnknownLayoutError):
            layout = self._layout.known
        label = layout.token_of(tenant_uid)
        return root_of(self._library.seen(label), token=label, own_token=tenant_uid in layout.own)

    @property
    def offers_own_tokens(self) -> bool:
        """See `KeyVault`."""
        return bool(self._place.own_tokens)

    async def create_kek(self, kek: KekRef, *, own_token: bool = False) -> None:
        """See `KeyVault`. A search of a token, a key's making, and a sync of the disk where it is SoftHSM's.

        A token of the tenant's own takes some tens of milliseconds more, once, and every session of this process.
        """

        def create() -> None:
            with tokens.locked(self._place.lock):
                if own_token:
                    self._dedicate(kek.tenant_uid)
                self._keks.create(kek)
            self._make_durable()

        await self._changed(create)

    async def wrap(self, kek: KekRef, key: bytes, *, aad: bytes) -> WrappedKey:
        """See `KeyVault`. Two calls of the device, and a search the first time."""
        return WrappedKey(await self._library.run_within(USE_WITHIN, lambda: self._keks.wrap(kek, key, aad=aad)))

    async def unwrap(self, kek: KekRef, wrapped: WrappedKey, *, aad: bytes) -> bytes:
        """See `KeyVault`. One call of the device, and a search the first time, or where it does not open."""
        return await self._library.run_within(USE_WITHIN, lambda: self._keks.unwrap(kek, wrapped, aad=aad))

    async def destroy_kek(self, kek: KekRef) -> None:
        """See `KeyVault`. Searches of a token, and a sync of the disk where it is SoftHSM's."""

        def destroy() -> None:
            with tokens.locked(self._place.lock):
                self._keks.destroy(kek)
                self._give_back(kek.tenant_uid)
            self._make_durable()

        await self._changed(destroy)

    async def keks(self) -> list[KekRef]:
        """See `KeyVault`. Reads two attributes of every object of every token."""
        return await self._library.run_within(LIST_WITHIN, self._keks.all)

    def _dedicate(self, tenant_uid: UUID) -> None:
        if tenant_uid in self._layout.now().own:
            return
        if self._keks.is_in_use(tenant_uid):
            raise HsmTierUnavailableError("vault", "the tenant has keys in a token that others have as well")
        try:
            tokens.dedicate(
                self._library, self._layout, tenant_uid, pool=self._place.own_tokens, means=self._place.means
            )
        except NoTokenError:
            text = "the vault has no token left that a tenant could have to itself: see docs/vault.md"
            raise HsmTierUnavailableError("vault", text) from None
        except CryptokiError as error:
            raise UnavailableError("the key vault's device is away", reason="VAULT_UNAVAILABLE") from error

    def _give_back(self, tenant_uid: UUID) -> None:
        """Let others have a tenant's own token once the last of its KEKs is gone."""
        now = self._layout.now()
        if tenant_uid in now.own and not self._keks.is_in_use(tenant_uid):
            own = {uid: label for uid, label in now.own.items() if uid != tenant_uid}
            layout.write(self._place.layout_file, replace(now, own=own))

    async def _changed(self, work: Callable[[], None]) -> None:
        try:
            async with self._changing:
                await self._library.run_to_end(work)
        except (OSError, UnknownLayoutError) as error:
            raise UnavailableError("the key vault's directory is away", reason="VAULT_UNAVAILABLE") from error

    def _make_durable(self) -> None:
        if self._place.made_by_us is not None:
            softhsm.make_durable(self._place.directory)


def root_of(seen: TokenInfo | None, *, token: str = "", own_token: bool = False) -> RootOfTrust:
    """Say what a token is to those whose keys it has. SoftHSM gives them to whoever has its files and its PIN."""
    if seen is None:
        return RootOfTrust(hsm_backed=False, label="not seen yet", token=token, own_token=own_token)
    is_device = not seen.model.startswith(softhsm.MODEL)
    return RootOfTrust(hsm_backed=is_device, label=seen.model, firmware=seen.firmware, token=token, own_token=own_token)


def _prepare(directory: Path, settings: HsmSettings) -> _Place:
    """Make the directory, and find out which library and which tokens are meant."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    private_file.sync_directory(directory.parent)
    check_directory(directory, others=ROOT_FILE)
    device = settings.device
    if device is not None:
        tokens.read_pin(device.pin_file)
        return _Place(
            directory=directory,
            module=device.module,
            environment={},
            tokens=device.tokens,
            own_tokens=device.own_tokens,
            pin_file=device.pin_file,
            made_by_us=None,
        )
    module = softhsm.find_module(os.environ)
    if module is None:
        raise UnusableVaultError(_REMEDY)
    pins = Pins(user=directory / "user.pin", security_officer=directory / "so.pin")
    return _Place(
        directory=directory,
        module=module,
        environment=softhsm.configure(directory),
        tokens=layout.shard_labels(settings.shards),
        own_tokens=layout.own_labels(_MOST_OWN_TOKENS),
        pin_file=pins.user,
        made_by_us=pins,
    )


def _made(place: _Place) -> tuple[Library, _Place, Layout]:
    """Return the layout of a vault that is made, or make it."""
    with tokens.locked(place.lock):
        # Not before: a library that is opened while another process makes a token knows it unfinished.
        library = Library.shared(place.module, place.environment)
        try:
            written = layout.read(place.layout_file)
        except UnknownLayoutError:
            raise UnusableVaultError(f"{place.layout_file} is damaged: put it back from your backup of it") from None
        _check_layout(place, written)
        library.look()
        if written is not None and written.is_made:
            return library, place, written
        wanted = written or Layout(tokens=place.tokens, is_made=False)
        try:
            whole = library.run(lambda: tokens.complete(library, place.layout_file, wanted, means=place.means))
        except CryptokiError as error:
            raise UnavailableError("the key vault's device is away", reason="VAULT_UNAVAILABLE") from error
        except ForeignTokenError as error:
            raise UnusableVaultError(f"{error}: name the tokens as they were, in the same order") from error
        return library, place, whole


def _check_layout(place: _Place, written: Layout | None) -> None:
    if written is None and place.made_by_us is not None and softhsm.has_tokens(place.directory):
        raise UnusableVaultError(
            f"{place.layout_file} is gone, but there are tenants' keys: put it back from your backup of it"
        )
    if written is not None and place.made_by_us is None and written.tokens != place.tokens:
        raise UnusableVaultError(
            f"tenants' keys are in the tokens {', '.join(written.tokens)}, and would be looked for elsewhere: name "
            "these, in this order"
        )
