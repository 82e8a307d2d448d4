"""Keys of 32 random bytes that processes of a cell share through files, made by whichever comes first."""

import hashlib
import hmac
import secrets
from pathlib import Path
from typing import Final

from control_plane import private_file

_SIZE: Final = 32
_PASSWORD_LABEL: Final = b"bulkhead/password/1/"


class BrokenKeyError(Exception):
    """A key's file does not hold a key. The text says what to do."""


def load_or_create(path: Path) -> bytes:
    """Return the key in that file.

    Raises:
        BrokenKeyError: when what is there is too short to be one.
        control_plane.private_file.ExposedKeyError: when others than the owner may read it.
    """
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        private_file.create(path, secrets.token_bytes(_SIZE))
    key = private_file.read(path)
    if len(key) < _SIZE:
        raise BrokenKeyError(f"{path} holds {len(key)} bytes instead of {_SIZE}: put it back, or remove it")
    return key


def password(key: bytes, user: str) -> str:
    """Derive what `user` logs in with at a server of the cell. Whoever has the key knows it, and nobody else."""
    return hmac.digest(key, _PASSWORD_LABEL + user.encode(), hashlib.sha256).hex()
