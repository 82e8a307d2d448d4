"""What the path of an object may be, and where in a bucket it leads. Pure.

A path is accepted because it is of the one form that we make ourselves, never because nothing bad was found in it: so
there is nothing to decode, to normalise or to fold. Escapes (`%2e`), NUL, backslashes, absolute paths, `..`, other
alphabets' look-alikes and upper case (which some file systems fold) all fail to be of that form.
"""

import re
from typing import Final

from control_plane.errors import FieldViolation, InvalidArgumentError
from control_plane.ids import TenantId, tenant_id_violation

_ROOT: Final = "storage"
# Words of a-z and 0-9 joined by single dots, hyphens or underscores: `..` and hidden names cannot be written.
_SEGMENT: Final = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*", re.ASCII)
# Every file system takes names of 255 bytes; the staging name of a local bucket is shorter than that too.
_LONGEST_SEGMENT: Final = 128
_MOST_SEGMENTS: Final = 8


def object_key(tenant_id: TenantId, path: str) -> str:
    """Return the key of a tenant's object in a bucket, such as `storage/org_1/certificates/….pem`.

    Raises:
        InvalidArgumentError: the path, or the id, is not of the form that leads there and nowhere else.
    """
    _refuse(("tenant", tenant_id_violation(tenant_id)), ("path", path_violation(path)))
    return f"{_ROOT}/{tenant_id}/{path}"


def folder_key(tenant_id: TenantId, folder: str) -> str:
    """Return the key of a tenant's folder, or of all that the tenant has for `""`. Raises like `object_key`."""
    if folder:
        return object_key(tenant_id, folder)
    _refuse(("tenant", tenant_id_violation(tenant_id)))
    return f"{_ROOT}/{tenant_id}"


def path_violation(path: str) -> str | None:
    """Say why `path` cannot be an object's path below its tenant's folder, or return None where it can."""
    segments = path.split("/")
    if len(segments) > _MOST_SEGMENTS:
        return f"must have at most {_MOST_SEGMENTS} parts"
    if any(len(segment) > _LONGEST_SEGMENT for segment in segments):
        return f"must have parts of at most {_LONGEST_SEGMENT} characters"
    if not all(_SEGMENT.fullmatch(segment) for segment in segments):
        return "must be parts joined by '/', each lower-case words of a-z and 0-9 joined by single '.', '-' or '_'"
    return None


def _refuse(*found: tuple[str, str | None]) -> None:
    violations = [FieldViolation(field=name, description=text) for name, text in found if text is not None]
    if violations:
        raise InvalidArgumentError(*violations)
