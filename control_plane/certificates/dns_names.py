"""Which DNS names a certificate may carry (RFC 1123, RFC 5280 4.2.1.6, RFC 6125 6.4.3). Pure."""

import re
from typing import Final

_LONGEST_NAME: Final = 253
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_WILDCARD: Final = "*"
# `*.example` would cover names of strangers.
_LABELS_UNDER_A_WILDCARD: Final = 2


def dns_name_violation(name: str) -> str | None:
    """Say why `name`, in lower case, cannot be certified, or return None where it can."""
    if not 1 <= len(name) <= _LONGEST_NAME:
        return f"must have 1 to {_LONGEST_NAME} characters"
    labels = name.split(".")
    if labels[0] == _WILDCARD:
        labels = labels[1:]
        if len(labels) < _LABELS_UNDER_A_WILDCARD:
            return "has a wildcard over too much; it must stand below a name of two labels or more"
    if any(_WILDCARD in label for label in labels):
        return "has a wildcard elsewhere than as its whole leftmost label"
    if not all(_LABEL.fullmatch(label) for label in labels):
        return "must be labels of 1 to 63 letters, digits and inner hyphens, joined by dots"
    if labels[-1].isdigit():
        # RFC 1123 2.1: what ends in a number is an address.
        return "is an IP address, or ends in a number like one"
    return None
