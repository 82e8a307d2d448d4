"""What the path of an object may be, and where in a bucket it leads. Pure.

A path is accepted because it is of the one form that we make ourselves, never because nothing bad was found in it: so
there is nothing to decode, to normalise or to fold. Escapes (`%2e`), NUL, backslashes, absolute paths, `..`, other
alphabets' look-alikes and upper case (which some file systems fold) all fail to be of that form.

The first version of an object lies under its path, and each further one beside it, behind an `@` that no path has::

    storage/org_1/exports/a.json        version 1
    storage/org_1/exports/a.json@2      version 2
"""

import re
from dataclasses import dataclass
from typing import Final

from control_plane.errors import FieldViolation, InvalidArgumentError
from control_plane.ids import TenantId, tenant_id_violation
from control_plane.keys.model import FIRST_OBJECT_VERSION

_ROOT: Final = "storage"
# Words of a-z and 0-9 joined by single dots, hyphens or underscores: `..` and hidden names cannot be written.
_SEGMENT: Final = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*", re.ASCII)
# With its version a name has at most 148 bytes; every file system takes 255.
_LONGEST_SEGMENT: Final = 128
_MOST_SEGMENTS: Final = 8
# With tenant, version and a bucket's own prefix a key stays below the 1,024 bytes that S3 and others take.
_LONGEST_PATH: Final = 512
_LAST_VERSION: Final = 2**63 - 1
_VERSION: Final = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class ObjectName:
    """One version of an object, as its tenant names it."""

    path: str
    """Below the tenant's folder."""
    version: int = FIRST_OBJECT_VERSION


def object_key(tenant_id: TenantId, path: str, *, version: int = FIRST_OBJECT_VERSION) -> str:
    """Return the key of a tenant's object in a bucket, such as `storage/org_1/certificates/….pem`.

    Raises:
        InvalidArgumentError: the path, the version or the id is not of the form that leads there and nowhere else.
    """
    _refuse(
        ("tenant", tenant_id_violation(tenant_id)),
        ("path", path_violation(path)),
        ("version", _version_violation(version)),
    )
    suffix = "" if version == FIRST_OBJECT_VERSION else f"@{version}"
    return f"{_ROOT}/{tenant_id}/{path}{suffix}"


def folder_key(tenant_id: TenantId, folder: str) -> str:
    """Return the key of a tenant's folder, or of all that the tenant has for `""`. Raises like `object_key`."""
    if folder:
        return object_key(tenant_id, folder)
    _refuse(("tenant", tenant_id_violation(tenant_id)))
    return f"{_ROOT}/{tenant_id}"


def object_name(tenant_id: TenantId, key: str) -> ObjectName | None:
    """Return which object of this tenant a key is of, or None for a key that `object_key` never gives this tenant."""
    path, _, version = key.removeprefix(f"{_ROOT}/{tenant_id}/").partition("@")
    name = ObjectName(path=path, version=int(version) if _VERSION.fullmatch(version) else FIRST_OBJECT_VERSION)
    try:
        return name if object_key(tenant_id, name.path, version=name.version) == key else None
    except InvalidArgumentError:
        return None


def path_violation(path: str) -> str | None:
    """Say why `path` cannot be an object's path below its tenant's folder, or return None where it can."""
    segments = path.split("/")
    if len(path) > _LONGEST_PATH:
        return f"must have at most {_LONGEST_PATH} characters"
    if len(segments) > _MOST_SEGMENTS:
        return f"must have at most {_MOST_SEGMENTS} parts"
    if any(len(segment) > _LONGEST_SEGMENT for segment in segments):
        return f"must have parts of at most {_LONGEST_SEGMENT} characters"
    if not all(_SEGMENT.fullmatch(segment) for segment in segments):
        return "must be parts joined by '/', each lower-case words of a-z and 0-9 joined by single '.', '-' or '_'"
    return None


def _version_violation(version: int) -> str | None:
    return None if FIRST_OBJECT_VERSION <= version <= _LAST_VERSION else "must be from 1 to 2**63 - 1"


def _refuse(*found: tuple[str, str | None]) -> None:
    violations = [FieldViolation(field=name, description=text) for name, text in found if text is not None]
    if violations:
        raise InvalidArgumentError(*violations)
