"""How a vault's tokens come to be: made by us in SoftHSM, or found in a device; and the one place that makes keys.

Everything here is done by one process at a time (`locked`), and can be killed anywhere and begun again: a token is
made where there is none of its label, its PIN set where it has none, its witness made last. Once all witnesses were
seen, that is written down, and no token is ever made again: a lost one must be noticed, not replaced by an empty one.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from uuid import UUID

from control_plane import private_file
from control_plane.keys.pkcs11 import layout
from control_plane.keys.pkcs11.codes import AES, SECRET_KEY, SO, Attribute, Rv
from control_plane.keys.pkcs11.cryptoki import Cryptoki, CryptokiError, Handle, Session, Template, TokenInfo
from control_plane.keys.pkcs11.layout import WITNESS, Layout, LayoutFile
from control_plane.keys.pkcs11.library import Library, ReadPin

_KEY_BYTES: Final = 32
_PIN_BYTES: Final = 16


class NoTokenError(Exception):
    """There is no token left that a tenant could have to itself."""


class ForeignTokenError(Exception):
    """A token has the keys of another layout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """The files with the PINs of the tokens that we make ourselves."""

    user: Path
    security_officer: Path

    def make(self) -> None:
        """Choose them, where there are none yet."""
        for path in (self.user, self.security_officer):
            private_file.create(path, secrets.token_hex(_PIN_BYTES).encode())


def read_pin(path: Path) -> bytes:
    """Read a PIN; raise OSError or ExposedKeyError."""
    return private_file.read(path).strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenMeans:
    """What opens tokens, and what makes them where we do."""

    pin: ReadPin
    made_by_us: Pins | None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only one, in all processes and threads of this machine, who holds this lock; a dead holder lets it go."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def complete(library: Library, file: Path, wanted: Layout, *, means: TokenMeans) -> Layout:
    """Make what is missing of a layout, and write down that it is whole. Call it `locked`.

    Raises:
        CryptokiError: a token is not there, or the device fails; calling again goes on from there.
        ForeignTokenError: a token has a place in another layout already.
        UnavailableError: the PIN is not a token's.
    """
    if means.made_by_us is not None:
        means.made_by_us.make()
    layout.write(file, wanted)
    # What another process has made meanwhile is seen by a library that is opened now, and must not be made twice.
    library.renew()
    for label in wanted.tokens:
        if means.made_by_us is not None:
            _keep_token(library, label, means.made_by_us)
        with library.session(label, means.pin) as session:
            _keep_witness(library.cryptoki, session, wanted.witness_label(label))
    whole = replace(wanted, is_made=True)
    layout.write(file, whole)
    return whole


def dedicate(library: Library, file: LayoutFile, tenant_uid: UUID, *, pool: Sequence[str], means: TokenMeans) -> None:
    """Give a tenant that has no KEK yet a token to itself, the first of `pool` that has no key of anybody's.

    Call it `locked`.

    Raises:
        CryptokiError: the device fails; calling again goes on from there.
        NoTokenError: none is left.
        UnavailableError: the PIN is not the token's.
    """
    whole = file.now()
    # As above.
    library.renew()
    for label in pool:
        if label in whole.labels:
            continue
        if means.made_by_us is not None:
            _keep_token(library, label, means.made_by_us)
        try:
            with library.session(label, means.pin) as session:
                if not is_spare(library.cryptoki, session):
                    continue
                _keep_witness(library.cryptoki, session, layout.OWN_WITNESS_LABEL)
        except CryptokiError as error:
            if error.code == Rv.TOKEN_NOT_PRESENT:
                continue
            raise
        except ForeignTokenError:
            continue
        layout.write(file.path, replace(whole, own={**whole.own, tenant_uid: label}))
        return
    raise NoTokenError


def is_spare(cryptoki: Cryptoki, session: Session) -> bool:
    """Say whether a token has no key at all but, perhaps, a witness."""
    keys = cryptoki.find(session, {Attribute.CLASS: SECRET_KEY})
    return set(keys) == set(find_witness(cryptoki, session))


def make_key(cryptoki: Cryptoki, session: Session, *, identity: bytes, label: bytes) -> Handle:
    """Make a KEK: it never leaves the token, and does nothing but encrypt and decrypt."""
    template: Template = {
        Attribute.CLASS: SECRET_KEY,
        Attribute.KEY_TYPE: AES,
        Attribute.VALUE_LEN: _KEY_BYTES,
        Attribute.ID: identity,
        Attribute.LABEL: label,
        Attribute.TOKEN: True,
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
        Attribute.MODIFIABLE: False,
        Attribute.ENCRYPT: True,
        Attribute.DECRYPT: True,
        Attribute.WRAP: False,
        Attribute.UNWRAP: False,
        Attribute.SIGN: False,
        Attribute.VERIFY: False,
        Attribute.DERIVE: False,
    }
    return cryptoki.generate_aes_key(session, template)


def find_witness(cryptoki: Cryptoki, session: Session) -> list[Handle]:
    """Find the key that says that the token shows what it has."""
    return cryptoki.find(session, {Attribute.CLASS: SECRET_KEY, Attribute.ID: WITNESS})


def _keep_witness(cryptoki: Cryptoki, session: Session, label: bytes) -> None:
    found = find_witness(cryptoki, session)
    if not found:
        make_key(cryptoki, session, identity=WITNESS, label=label)
    for handle in found:
        if cryptoki.attributes(session, handle, [Attribute.LABEL]) != [label]:
            raise ForeignTokenError("a token was another shard of a vault, or one of another number of them")


def _keep_token(library: Library, label: str, pins: Pins) -> None:
    with library.tokens() as tokens:
        cryptoki = library.cryptoki
        so_pin = read_pin(pins.security_officer)
        found = next((token for token in tokens if token.is_initialized and token.label == label), None)
        if found is None:
            free = next((token for token in tokens if not token.is_initialized), None)
            if free is None:
                raise CryptokiError("GetSlotList", Rv.TOKEN_NOT_PRESENT)
            cryptoki.init_token(free.slot, so_pin, label)
            found = free
        if not found.has_user_pin:
            _set_pin(cryptoki, found, so_pin=so_pin, pin=read_pin(pins.user))


def _set_pin(cryptoki: Cryptoki, token: TokenInfo, *, so_pin: bytes, pin: bytes) -> None:
    session = cryptoki.open_session(token.slot)
    try:
        cryptoki.login(session, SO, so_pin)
        cryptoki.init_pin(session, pin)
        cryptoki.logout(session)
    finally:
        with suppress(CryptokiError):
            cryptoki.close_session(session)
