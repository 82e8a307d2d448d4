"""What may be signed, and with what. Pure."""

from collections.abc import Sequence
from typing import Final

from control_plane.errors import FieldViolation, InvalidArgumentError, Violations
from control_plane.keys.algorithms import KeyAlgorithm
from control_plane.keys.named.signatures import HASHES, Content

LARGEST_DATA: Final = 64 << 10
LARGEST_SIGNATURE: Final = 16 << 10
MOST_TRIED: Final = 10
"""How many versions are tried where none is named."""


def check_data(data: bytes, violations: Violations) -> None:
    """Note why this cannot be signed."""
    if not 0 < len(data) <= LARGEST_DATA:
        violations.add("data", f"must have 1 to {LARGEST_DATA} bytes", reason="SIZE")


def check_signature(signature: bytes, violations: Violations) -> None:
    """Note why this is no signature, before it is tried."""
    if not 0 < len(signature) <= LARGEST_SIGNATURE:
        violations.add("signature", f"must have 1 to {LARGEST_SIGNATURE} bytes", reason="SIZE")


def check_digest(content: Content, said: str, *, algorithm: KeyAlgorithm) -> None:
    """Raise InvalidArgumentError where a digest, made by what is `said`, is none that such a key signs."""
    if not content.is_digest:
        return
    used = HASHES.get(algorithm)
    violations: list[FieldViolation] = []
    if used is None:
        text = f"{algorithm} signs data, not digests"
        violations.append(FieldViolation(field="digest", description=text, reason="DIGEST"))
    else:
        wanted = f"SHA_{used.digest_size * 8}"
        if said != wanted:
            text = f"{algorithm} signs {wanted}"
            violations.append(FieldViolation(field="digest.algorithm", description=text, reason="DIGEST"))
        if len(content.data) != used.digest_size:
            text = f"must have {used.digest_size} bytes"
            violations.append(FieldViolation(field="digest.value", description=text, reason="DIGEST"))
    if violations:
        raise InvalidArgumentError(*violations)


def tried(versions: Sequence[int], asked: int) -> Sequence[int]:
    """Say which versions a signature may be of: the one that is asked for, or the newest ones, newest first."""
    return [version for version in versions if version == asked] if asked else versions[:MOST_TRIED]
