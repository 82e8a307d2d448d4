"""Fields that requests of several services have. Pure."""

from collections.abc import Collection
from typing import Final
from uuid import UUID

from google.protobuf.field_mask_pb2 import FieldMask

from control_plane.errors import Violations
from control_plane.ids import uuid_of

_LONGEST_ECHO: Final = 100


def read_request_id(text: str, violations: Violations) -> UUID | None:
    """Read the `request_id` with which a repeated request is carried out once (AIP-155); None where there is none."""
    request_id = uuid_of(text.lower())
    if text and request_id is None:
        violations.add("request_id", "must be a UUID", reason="REQUEST_ID")
    return request_id


def check_mask(mask: FieldMask, updatable: Collection[str], violations: Violations) -> None:
    """Note what is wrong with the `update_mask` (AIP-134): it names fields, and only such as can be changed."""
    if not mask.paths:
        violations.add("update_mask", "must name the fields to change")
    for path in mask.paths:
        if path not in updatable:
            what = f"{path[:_LONGEST_ECHO]} cannot be changed; {', '.join(updatable)} can"
            violations.add("update_mask", what, reason="MASK")
