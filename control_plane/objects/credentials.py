"""Credentials for a bucket, in a file of their own: JSON that only its owner may read. They are never in `config.json`.

::

    {"access_key_id": "…", "secret_access_key": "…", "session_token": "…"}      the last of them if there is one
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from control_plane import private_file


class UnusableCredentialsError(ValueError):
    """The file cannot be used; the text says why and what to do, and nothing that is in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What S3 and what speaks its protocol asks for."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


def read_credentials(path: Path) -> Credentials:
    """Read the file. Blocks.

    Raises:
        UnusableCredentialsError: it is not there, lies open to others, or is not what it has to be.
    """
    try:
        content = private_file.read(path)
    except private_file.ExposedKeyError as error:
        raise UnusableCredentialsError(str(error)) from None
    except OSError as error:
        raise UnusableCredentialsError(f"{path} cannot be read: {error.strerror}") from None
    try:
        said = json.loads(content)
        found = Credentials(**said)
    except (TypeError, ValueError):
        raise _unusable(path) from None
    if not all(isinstance(value, str) and value for value in said.values()):
        raise _unusable(path)
    return found


def _unusable(path: Path) -> UnusableCredentialsError:
    return UnusableCredentialsError(
        f"{path} has to be a JSON object with access_key_id, secret_access_key and, if there is one, session_token"
    )
