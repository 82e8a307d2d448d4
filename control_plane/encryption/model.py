"""What may be sealed, and what it is bound to. Pure."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from control_plane.errors import Violations
from control_plane.keys.model import Binding
from control_plane.keys.model import Purpose as KeyPurpose
from control_plane.tenants.model import reason_violation

SERVICES: Final = KeyPurpose.SERVICES.value
"""The key of a use that names none."""
LARGEST_PLAINTEXT: Final = 64 << 10
# What sealing adds is far less; and whatever is larger was never sealed here.
LARGEST_CIPHERTEXT: Final = LARGEST_PLAINTEXT + 256
DEFAULT_KEY_BYTES: Final = 32
_KEY_BYTES: Final = range(16, 65)
_MOST_ENTRIES: Final = 16
_KEY: Final = re.compile(r"[a-z0-9_.-]{1,64}", re.ASCII)
_LONGEST_VALUE: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Purpose:
    """What a key is used for, as its user says it; whatever is wrong with it is noted by `check`."""

    context: Mapping[str, str] = field(default_factory=dict)
    """What is sealed is bound to this, and it is not secret."""
    reason: str = ""

    @property
    def binding(self) -> str:
        """Write the context as one text. Two contexts never have the same one."""
        return json.dumps(dict(sorted(self.context.items())), separators=(",", ":"))

    def aad(self, tenant_uid: UUID, key_id: str, version: int) -> bytes:
        """Say what is authenticated with what this version of the key seals: its name, too."""
        purpose = SERVICES if key_id == SERVICES else f"encryption/{key_id}"
        return Binding(tenant_uid=tenant_uid, purpose=purpose, version=version, object_name=self.binding).aad()

    def check(self, violations: Violations, *, field: str = "encryption_context") -> None:
        """Note everything that is wrong with it; `field` is what the request calls the context."""
        violations.add("reason", reason_violation(self.reason))
        if len(self.context) > _MOST_ENTRIES:
            violations.add(field, f"must have at most {_MOST_ENTRIES} entries", reason="CONTEXT")
            return
        for key, value in self.context.items():
            if not _KEY.fullmatch(key):
                text = "keys must be 1 to 64 characters of a-z, 0-9, _, . and -"
                violations.add(field, text, reason="CONTEXT")
            if len(value) > _LONGEST_VALUE:
                text = f"values must have at most {_LONGEST_VALUE} characters"
                violations.add(field, text, reason="CONTEXT")


def check_plaintext(plaintext: bytes, violations: Violations) -> None:
    """Note why this cannot be sealed."""
    if not 0 < len(plaintext) <= LARGEST_PLAINTEXT:
        violations.add("plaintext", f"must have 1 to {LARGEST_PLAINTEXT} bytes", reason="SIZE")


def check_ciphertext(ciphertext: bytes, violations: Violations) -> None:
    """Note why this cannot be opened, before it is tried."""
    if not 0 < len(ciphertext) <= LARGEST_CIPHERTEXT:
        violations.add("ciphertext", f"must have 1 to {LARGEST_CIPHERTEXT} bytes", reason="SIZE")


def check_key_bytes(asked: int, violations: Violations) -> int:
    """Return how long a key is to be, and note it where that cannot be."""
    wanted = asked or DEFAULT_KEY_BYTES
    if wanted not in _KEY_BYTES:
        violations.add("key_bytes", f"must be {_KEY_BYTES.start} to {_KEY_BYTES.stop - 1}", reason="SIZE")
    return wanted


def check_key(name: str, tenant_name: str, violations: Violations) -> str:
    """Return the id of the key that is named, or of the one for services; note a name that is none of this tenant's."""
    if not name:
        return SERVICES
    parent, _, key_id = name.rpartition("/keys/")
    if parent != tenant_name or not key_id or "/" in key_id:
        violations.add("key", f"must be like {tenant_name}/keys/{{key}}", reason="NAME")
    return key_id
