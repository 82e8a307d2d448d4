"""KEKs in tokens, by name: found, used, made and destroyed, or a reason that is sure. For the library's own threads.

A KEK is named by its CKA_ID and found by a search, which is slow; so the handle is kept. A kept handle is only a guess,
since another process may have destroyed the KEK, and made it anew. So is an empty search: a token that nobody is logged
in to, or whose storage is away, shows nothing and reports no error. What is said here is sure:

* *It does not exist*: the same session sees the token's witness, and nobody logged in meanwhile.
* *It does not open*: not under any key of that name found just now, by a device that at the same moment opens what it
  has itself sealed under that key. SoftHSM has one error for a wrong tag and for a disk that is away.
* *It is wrapped*: the handle had the KEK's name after its use.
* *It is this KEK's*: the tag covers the KEK's name, too, whatever a handle names by now.
"""

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final, TypeVar
from uuid import UUID

import structlog

from control_plane.errors import UnavailableError
from control_plane.keys.model import NONCE_BYTES, Envelope, IntegrityError, KekRef, MissingKeyError
from control_plane.keys.pkcs11 import tokens
from control_plane.keys.pkcs11.codes import AMBIGUOUS, NOT_AUTHENTIC, OBJECT_GONE, SECRET_KEY, Attribute, Rv
from control_plane.keys.pkcs11.cryptoki import TAG_BYTES, CryptokiError, Handle, Session
from control_plane.keys.pkcs11.layout import (
    WITNESS,
    Layout,
    LayoutFile,
    UnknownLayoutError,
    kek_of,
    object_id,
    object_label,
)
from control_plane.keys.pkcs11.library import Library, ReadPin

T = TypeVar("T")

# A lost session, then a token that came back, and a handle that went meanwhile: each mended once.
_ATTEMPTS: Final = 4
# Of 16,384 tenants with one version each; a handle takes some 300 bytes here.
_HANDLES: Final = 16_384
_PROOF_BYTES: Final = 32

_log = structlog.get_logger(__name__)


class Handles:
    """Where KEKs were found, for as long as the library is not opened anew; the least used give way."""

    def __init__(self, capacity: int = _HANDLES) -> None:
        """Keep those of at most `capacity` KEKs."""
        self._capacity = capacity
        self._lock = threading.Lock()
        # Under the lock.
        self._kept: OrderedDict[KekRef, tuple[int, Sequence[Handle]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, kek: KekRef, *, epoch: int) -> Sequence[Handle]:
        """Return them, none where they are not known."""
        with self._lock:
            known = self._kept.get(kek)
            if known is None or known[0] != epoch:
                return ()
            self._kept.move_to_end(kek)
            return known[1]

    def put(self, kek: KekRef, found: Sequence[Handle], *, epoch: int) -> None:
        """Keep them, or forget the KEK where there are none."""
        with self._lock:
            self._kept.pop(kek, None)
            if found:
                self._kept[kek] = (epoch, found)
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)


class TokenKeks:
    """The KEKs of one vault. Every method blocks, and raises UnavailableError where the device or the PIN fails."""

    def __init__(self, library: Library, layout: LayoutFile, pin: ReadPin) -> None:
        """Look for them in the tokens of `layout`, as it is at each use."""
        self._library = library
        self._cryptoki = library.cryptoki
        self._layout = layout
        self._pin = pin
        self._handles = Handles()

    def create(self, kek: KekRef) -> None:
        """Make it, unless it is there. To be called by one at a time in all the world: see `tokens.locked`."""

        def create(session: Session) -> None:
            if not self._look_up(session, kek):
                tokens.make_key(self._cryptoki, session, identity=object_id(kek), label=object_label(kek))

        self._in_its_token(kek, create)

    def wrap(self, kek: KekRef, key: bytes, *, aad: bytes) -> bytes:
        """Seal a key in an envelope."""
        return self._in_its_token(kek, lambda session: self._seal(session, kek, key, aad))

    def unwrap(self, kek: KekRef, wrapped: bytes, *, aad: bytes) -> bytes:
        """Open the envelope; raise IntegrityError where it is sure that this is none of the KEK's."""
        return self._in_its_token(kek, lambda session: self._open(session, kek, wrapped, aad))

    def destroy(self, kek: KekRef) -> None:
        """Destroy every object of that name."""

        def destroy(session: Session) -> None:
            while found := self._look_up(session, kek):
                for handle in found:
                    try:
                        self._cryptoki.destroy(session, handle)
                    except CryptokiError as error:
                        # Another was faster.
                        if error.code not in OBJECT_GONE:
                            raise

        self._in_its_token(kek, destroy)

    def all(self) -> list[KekRef]:
        """List every KEK once; a token that cannot be listed whole is an error, and no shorter list."""
        return sorted({kek for label in self._now().labels for kek in self._in_token(label, self._list)})

    def is_in_use(self, tenant_uid: UUID) -> bool:
        """Say whether the token that a tenant's KEKs are in has any of that tenant's."""
        label = self._now().token_of(tenant_uid)
        return any(kek.tenant_uid == tenant_uid for kek in self._in_token(label, self._list))

    def _in_its_token(self, kek: KekRef, work: Callable[[Session], T]) -> T:
        return self._in_token(self._now().token_of(kek.tenant_uid), work)

    def _now(self) -> Layout:
        """Return the layout; a token that another process has made since is seen by a library that is opened anew."""
        before = self._layout.known
        try:
            now = self._layout.now()
        except (OSError, UnknownLayoutError) as error:
            _log.error("vault_layout_away", error=type(error).__name__)
            raise UnavailableError("the key vault's directory is away", reason="VAULT_UNAVAILABLE") from error
        if now is not before and any(self._library.seen(label) is None for label in now.own.values()):
            with suppress(CryptokiError):
                self._library.renew()
        return now

    def _in_token(self, label: str, work: Callable[[Session], T]) -> T:
        for attempt in range(1, _ATTEMPTS + 1):
            epoch = self._library.epoch
            try:
                with self._library.session(label, self._pin) as session:
                    return work(session)
            except CryptokiError as error:
                if attempt == _ATTEMPTS or not self._library.mend(error, label, epoch=epoch):
                    _log.error("vault_unavailable", token=label, error=str(error))
                    raise UnavailableError("the key vault's device is away", reason="VAULT_UNAVAILABLE") from error
        raise AssertionError

    def _seal(self, session: Session, kek: KekRef, key: bytes, aad: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        head = Envelope.head_of(kek.version)
        for handles, is_guess in self._candidates(session, kek):
            try:
                sealed = self._cryptoki.encrypt_gcm(session, handles[0], key, nonce=nonce, aad=_bound(head, kek, aad))
                # After its use: a device may have given a destroyed object's handle to another one meanwhile.
                (named,) = self._cryptoki.attributes(session, handles[0], [Attribute.ID])
            except CryptokiError as error:
                if is_guess and error.code in OBJECT_GONE:
                    continue
                raise
            if named == object_id(kek) and len(sealed) == len(key) + TAG_BYTES:
                return head + nonce + sealed
        raise CryptokiError("GetAttributeValue", Rv.OBJECT_HANDLE_INVALID)

    def _open(self, session: Session, kek: KekRef, wrapped: bytes, aad: bytes) -> bytes:
        for handles, is_guess in self._candidates(session, kek):
            envelope = Envelope.parse(wrapped, version=kek.version)
            for handle in handles:
                bound = _bound(envelope.head, kek, aad)
                opened = self._opened(session, handle, envelope=envelope, bound=bound, is_guess=is_guess)
                if opened is not None:
                    return opened
        raise IntegrityError

    def _opened(
        self, session: Session, handle: Handle, *, envelope: Envelope, bound: bytes, is_guess: bool
    ) -> bytes | None:
        """Return what is in the envelope, or None where the device is sure that this key does not open it."""

        def decrypt() -> bytes:
            return self._cryptoki.decrypt_gcm(session, handle, envelope.sealed, nonce=envelope.nonce, aad=bound)

        for is_proven in (False, True):
            try:
                return decrypt()
            except CryptokiError as error:
                if error.code in NOT_AUTHENTIC or (is_guess and error.code in OBJECT_GONE | AMBIGUOUS):
                    return None
                if error.code not in AMBIGUOUS:
                    raise
            if not is_proven:
                self._prove(session, handle)
        return None

    def _prove(self, session: Session, handle: Handle) -> None:
        """Raise CryptokiError unless the device seals and opens something of our own under this very key."""
        nonce, proof = secrets.token_bytes(NONCE_BYTES), secrets.token_bytes(_PROOF_BYTES)
        sealed = self._cryptoki.encrypt_gcm(session, handle, proof, nonce=nonce, aad=WITNESS)
        if self._cryptoki.decrypt_gcm(session, handle, sealed, nonce=nonce, aad=WITNESS) != proof:
            raise CryptokiError("Decrypt", Rv.DEVICE_ERROR)

    def _candidates(self, session: Session, kek: KekRef) -> Iterator[tuple[Sequence[Handle], bool]]:
        """Give the handles that are kept, which is a guess, and if these are of no use those that are found now.

        Several objects have one name where a maker was killed while the device still worked for it. Each of them may
        have wrapped something, so each is tried.
        """
        epoch = self._library.epoch
        if kept := self._handles.get(kek, epoch=epoch):
            yield kept, True
        found = self._look_up(session, kek)
        self._handles.put(kek, found, epoch=epoch)
        if not found:
            raise MissingKeyError(kek.title)
        yield found, False

    def _look_up(self, session: Session, kek: KekRef) -> Sequence[Handle]:
        label = self._layout.known.token_of(kek.tenant_uid)
        logins = self._library.logins(label)
        found = self._cryptoki.find(session, {Attribute.CLASS: SECRET_KEY, Attribute.ID: object_id(kek)})
        if not found:
            self._check_nothing_is_hidden(session, label, logins=logins)
        return sorted(found)

    def _check_nothing_is_hidden(self, session: Session, label: str, *, logins: int) -> None:
        self._library.check_logged_in(session)
        if not tokens.find_witness(self._cryptoki, session):
            raise CryptokiError("FindObjects", Rv.TOKEN_NOT_RECOGNIZED)
        if self._library.logins(label) != logins:
            raise CryptokiError("FindObjects", Rv.USER_NOT_LOGGED_IN)

    def _list(self, session: Session) -> list[KekRef]:
        named = []
        for handle in self._cryptoki.find(session, {Attribute.CLASS: SECRET_KEY}):
            try:
                named.append(self._cryptoki.attributes(session, handle, [Attribute.ID, Attribute.LABEL]))
            except CryptokiError as error:
                # Destroyed since.
                if error.code not in OBJECT_GONE:
                    raise
        self._library.check_logged_in(session)
        if WITNESS not in {identity for identity, _ in named}:
            raise CryptokiError("FindObjects", Rv.TOKEN_NOT_RECOGNIZED)
        return [kek for identity, label in named if (kek := kek_of(identity, label))]


def _bound(head: bytes, kek: KekRef, aad: bytes) -> bytes:
    """Return what the tag covers. The first two parts are of one length each, so nothing else gives the same bytes."""
    return head + object_id(kek) + aad
