"""What commands read from files. What is secret never is an argument: every user of the machine could list it."""

import base64
from pathlib import Path
from typing import Final

from control_plane.cli.calls.endpoints import read_token
from control_plane.cli.calls.failures import failed
from control_plane.cli.calls.grpcurl import Secret

# What the API takes (`LARGEST_PAYLOAD`); more is not even read.
_LARGEST: Final = 65_536


def read_secret(secret: Secret) -> str:
    """Return a secret field's value in its JSON form: a token as it is, bytes in base64.

    Raises:
        CallFailedError: when the file cannot be read, or holds nothing that could be sent.
    """
    return base64.b64encode(_read_bytes(secret.file)).decode() if secret.is_bytes else read_token(secret.file)


def read_text(path: Path) -> str:
    """Return what a file says; raise CallFailedError where it cannot be read, or is no text."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise failed("INVALID_ARGUMENT", f"{path} cannot be read") from error


def _read_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            value = file.read(_LARGEST + 1)
    except OSError as error:
        raise failed("INVALID_ARGUMENT", f"{path} cannot be read: {error.strerror}") from error
    if not 0 < len(value) <= _LARGEST:
        raise failed("INVALID_ARGUMENT", f"{path} does not hold 1 to {_LARGEST} bytes")
    return value
