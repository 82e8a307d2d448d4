"""The envelope for objects of any size, which are sealed and opened a piece at a time. Pure.

Format 2; numbers are big-endian::

    offset  bytes  field
    0       3      "BHE"
    3       1      format: 2
    4       1      algorithm: 1 is AES-256-GCM in segments of 65,536 bytes, under a key by HKDF-SHA256
    5       4      version of the tenant's key
    9       32     salt, random
    41      32     commitment
    73      n      segments, one after another, of 65,552 bytes each but for the last, which has 16 to 65,552

HKDF-SHA256 (RFC 5869) of the tenant's key, with the salt, and as info the label "bulkhead/segments/1", the first nine
bytes and what the object is bound to (`Binding.aad`), gives 64 bytes: the object's own key, and the commitment. A
header that was changed, or an object that is bound to anything else, does not have the commitment that a reader
derives, and is refused before anything of it is opened. The commitment is also why no envelope opens under two keys,
which AES-GCM alone does not promise.

Each segment is AES-256-GCM under the object's key, its tag behind it. Its nonce is seven zero bytes, its number from 0
in four, and a byte that is 1 for the last segment and 0 for all others. So a segment opens in its own place of its own
object only, and an object that lacks its end has no last segment: what is cut, moved, doubled, put on behind or taken
from another object is noticed. An empty object is one segment, the last, of nothing. This is the construction that is
known as STREAM (Hoang, Reyhanitabar, Rogaway, Vizár 2015).

Nonces count, because the key is the object's alone: the salt has 256 random bits, so there is no limit to how many
objects a tenant's key may seal, as format 1 has one. Format 1 gives the same key to AES itself: what AES makes of a key
and what HMAC-SHA256 makes of it say nothing about each other.
"""

import hmac
import struct
from collections.abc import Iterator
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from control_plane.keys.model import KEY_BYTES, IntegrityError

SALT_BYTES: Final = 32
HEADER_BYTES: Final = 73
SEGMENT_BYTES: Final = 65_536
"""Of plaintext. What a reader holds back until it is sure of it; a tag for each adds a four-thousandth."""

_TAG_BYTES: Final = 16
_COMMITMENT_BYTES: Final = 32
_MAGIC: Final = b"BHE"
_FORMAT: Final = 2
_AES_256_GCM_BY_HKDF: Final = 1
_START: Final = struct.Struct(">3sBBI")
_KIND: Final = struct.pack(">3sBB", _MAGIC, _FORMAT, _AES_256_GCM_BY_HKDF)
_NONCE: Final = struct.Struct(">7xIB")
_LABEL: Final = b"bulkhead/segments/1"
_LAST_VERSION: Final = 2**32 - 1
_MOST_SEGMENTS: Final = 2**32


def is_segmented(envelope: bytes) -> bool:
    """Say whether an envelope begins as one of format 2 does. Not authenticated."""
    return envelope.startswith(_KIND)


def segmented_version(envelope: bytes) -> int:
    """Read which version of the key an envelope asks for, from its header. Not yet authenticated: `Opener` does that.

    Raises IntegrityError for what has no whole header of format 2.
    """
    if len(envelope) < HEADER_BYTES or not is_segmented(envelope):
        raise IntegrityError
    return int(_START.unpack_from(envelope)[3])


class Sealer:
    """Seals one object, a piece after another: its `header`, what each `seal` returns, and what `end` returns."""

    def __init__(self, key: bytes, *, version: int, salt: bytes, aad: bytes) -> None:
        """Begin an object. `salt` MUST be fresh and random; `key` is the tenant's, of 32 bytes."""
        if len(key) != KEY_BYTES or len(salt) != SALT_BYTES or not 0 < version <= _LAST_VERSION:
            raise ValueError("a key has 32 bytes, a salt 32, and versions count from 1")
        start = _START.pack(_MAGIC, _FORMAT, _AES_256_GCM_BY_HKDF, version)
        object_key, commitment = _derived(key, salt, info=_LABEL + start + aad)
        self.header: Final = start + salt + commitment
        self._cipher = AESGCM(object_key)
        self._pieces = _Pieces(SEGMENT_BYTES)
        self._number = 0

    def seal(self, plaintext: bytes) -> bytes:
        """Take what comes next, and return what is sealed by now: all but at most a segment, which may be the last."""
        return b"".join(self._sealed(piece, last=False) for piece in self._pieces.cut(plaintext))

    def end(self) -> bytes:
        """Return the last segment. An object without it does not open."""
        return self._sealed(self._pieces.rest(), last=True)

    def _sealed(self, piece: memoryview, *, last: bool) -> bytes:
        nonce = _nonce(self._number, last=last)
        self._number += 1
        return self._cipher.encrypt(nonce, piece, None)


class Opener:
    """Opens one object, a piece after another, and gives out nothing that it is not sure of."""

    def __init__(self, key: bytes, header: bytes, *, version: int, aad: bytes) -> None:
        """Begin with the first `HEADER_BYTES` of an envelope.

        Raises IntegrityError unless it was sealed under this very key, version and binding.
        """
        if segmented_version(header) != version:
            raise IntegrityError
        start, salt = header[: _START.size], header[_START.size : _START.size + SALT_BYTES]
        object_key, commitment = _derived(key, salt, info=_LABEL + start + aad)
        if not hmac.compare_digest(commitment, header[_START.size + SALT_BYTES :]):
            raise IntegrityError
        self._cipher = AESGCM(object_key)
        self._pieces = _Pieces(SEGMENT_BYTES + _TAG_BYTES)
        self._number = 0

    def open(self, ciphertext: bytes) -> bytes:
        """Take what comes next, and return what is opened by now; raise IntegrityError where it was altered."""
        return b"".join([self._opened(piece, last=False) for piece in self._pieces.cut(ciphertext)])

    def end(self) -> bytes:
        """Return what the last segment holds; raise IntegrityError unless it is the last and the object is whole."""
        return self._opened(self._pieces.rest(), last=True)

    def _opened(self, piece: memoryview, *, last: bool) -> bytes:
        try:
            plaintext = self._cipher.decrypt(_nonce(self._number, last=last), piece, None)
        except InvalidTag:
            raise IntegrityError from None
        self._number += 1
        return plaintext


def seal_whole(key: bytes, plaintext: bytes, *, version: int, salt: bytes, aad: bytes) -> bytes:
    """Seal what is in memory already. Raises, and costs, as `Sealer` does: less than a millisecond for each MiB."""
    sealer = Sealer(key, version=version, salt=salt, aad=aad)
    return sealer.header + sealer.seal(plaintext) + sealer.end()


def open_whole(key: bytes, envelope: bytes, *, version: int, aad: bytes) -> bytes:
    """Open what is in memory already; raise IntegrityError for all that `Opener` refuses."""
    opener = Opener(key, envelope[:HEADER_BYTES], version=version, aad=aad)
    return opener.open(envelope[HEADER_BYTES:]) + opener.end()


class _Pieces:
    """Cuts what comes in portions of any size into pieces of one size, and holds the newest back: it may be the last.

    A piece is to be used before the next call.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._held = bytearray()

    def cut(self, portion: bytes) -> Iterator[memoryview]:
        """Go through the pieces that are whole, and known not to be the last."""
        if len(self._held) + len(portion) <= self._size:
            self._held += portion
            return
        fresh = memoryview(portion)
        if self._held:
            missing = self._size - len(self._held)
            filled, fresh = self._held + fresh[:missing], fresh[missing:]
            yield memoryview(filled)
        # One byte less, so that a piece which ends with the portion is held back.
        whole = (len(fresh) - 1) // self._size
        self._held = bytearray(fresh[whole * self._size :])
        for number in range(whole):
            yield fresh[number * self._size : (number + 1) * self._size]

    def rest(self) -> memoryview:
        """Return the last piece: up to a whole one, or nothing."""
        return memoryview(self._held)


def _derived(key: bytes, salt: bytes, *, info: bytes) -> tuple[bytes, bytes]:
    derived = HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES + _COMMITMENT_BYTES, salt=salt, info=info).derive(key)
    return derived[:KEY_BYTES], derived[KEY_BYTES:]


def _nonce(number: int, *, last: bool) -> bytes:
    if number >= _MOST_SEGMENTS:
        raise ValueError("an object has at most 2**32 segments")
    return _NONCE.pack(number, last)
