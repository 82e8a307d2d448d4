"""A message of the API in its JSON form, with the field names of the protos."""

from typing import Any

Message = dict[str, Any]
"""Keys are field names. Absent from a request: not set. In an answer every field without presence is there."""


def without_blanks(fields: Message) -> Message:
    """Leave out what is not set, so that a request carries what was asked for and no more."""
    return {name: value for name, value in fields.items() if value not in (None, "", [], {}, False, 0)}
