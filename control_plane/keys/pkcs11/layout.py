"""Which token a tenant's KEKs are in, and that this never changes. Pure but for the file that says so.

Tokens are shards: a search in a token takes time linear in what it holds, and the number of tokens costs each process
at its start. The tenant's uid, which is never used twice, chooses the shard. How many there are, and in which order, is
written down when the vault is made: with another number most KEKs would be looked for where they are not.

Some tenants have a token to themselves. Which, is written down before the token has a KEK of theirs, and every process
reads the file again when it was changed.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import UUID

from control_plane import private_file
from control_plane.keys.model import KekRef

WITNESS: Final = b"bulkhead-witness"
"""Names the key that each token has from its making on: where it is not seen, the token hides its keys or lost them."""
OWN_WITNESS_LABEL: Final = WITNESS + b" own"
"""What that key is labelled in a token that is one tenant's."""

# What knows no tokens of tenants' own would look for their KEKs elsewhere, so it must not understand the file.
_SHARDS_ONLY: Final = 1
_WITH_OWN_TOKENS: Final = 2
_UID_BYTES: Final = 16
_VERSION_BYTES: Final = 4


class UnknownLayoutError(Exception):
    """The file says something that this version does not know, or nothing that can be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The tokens of a vault, by their labels."""

    tokens: tuple[str, ...]
    is_made: bool
    """Whether all of them have been there, each with its witness: from then on none is ever made again."""
    own: Mapping[UUID, str] = field(default_factory=dict)
    """The tokens of the tenants that have one to themselves."""

    @property
    def labels(self) -> tuple[str, ...]:
        """All tokens that may have KEKs."""
        return (*self.tokens, *self.own.values())

    def token_of(self, tenant_uid: UUID) -> str:
        """Return the label of the token that has all KEKs of this tenant."""
        if tenant_uid in self.own:
            return self.own[tenant_uid]
        digest = hashlib.sha256(tenant_uid.bytes).digest()
        return self.tokens[int.from_bytes(digest, "big") % len(self.tokens)]

    def witness_label(self, token: str) -> bytes:
        """Return the CKA_LABEL of a token's witness: which shard it is, of how many; or that it is no shard."""
        if token not in self.tokens:
            return OWN_WITNESS_LABEL
        return f"{WITNESS.decode()} {self.tokens.index(token) + 1}/{len(self.tokens)}".encode()


def read(path: Path) -> Layout | None:
    """Read what was written down; None where there is nothing yet.

    Raises:
        UnknownLayoutError: it cannot be understood.
    """
    try:
        said = json.loads(private_file.read(path))
        if said["format"] not in {_SHARDS_ONLY, _WITH_OWN_TOKENS} or not said["tokens"]:
            raise UnknownLayoutError
        own = {UUID(uid): str(label) for uid, label in said.get("own", {}).items()}
        return Layout(tokens=tuple(map(str, said["tokens"])), is_made=bool(said["is_made"]), own=own)
    except FileNotFoundError:
        return None
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UnknownLayoutError from None


def write(path: Path, layout: Layout) -> None:
    """Write it down, durably."""
    said = {"format": _SHARDS_ONLY, "tokens": layout.tokens, "is_made": layout.is_made}
    if layout.own:
        said |= {"format": _WITH_OWN_TOKENS, "own": {str(uid): label for uid, label in layout.own.items()}}
    private_file.replace(path, json.dumps(said, indent=2).encode() + b"\n")


def shard_labels(count: int) -> tuple[str, ...]:
    """Name the tokens that we make ourselves."""
    return tuple(f"bulkhead-{number:02d}" for number in range(count))


def own_labels(count: int) -> tuple[str, ...]:
    """Name the tokens that we make for tenants that have one to themselves."""
    return tuple(f"bulkhead-own-{number:04d}" for number in range(1, count + 1))


class LayoutFile:
    """The layout as it is now, in whatever process changed it. Costs a look at the file's times where nothing did."""

    def __init__(self, path: Path, known: Layout) -> None:
        """Begin with what was read."""
        self.path = path
        self._known: tuple[tuple[int, int] | None, Layout] = (None, known)

    def now(self) -> Layout:
        """Return it.

        Raises:
            OSError: the file is not there, and what is known may be wrong by now.
            UnknownLayoutError: it cannot be understood.
        """
        found = self.path.stat()
        # It is always replaced whole, so it is another file after each change.
        seen = (found.st_ino, found.st_mtime_ns)
        if self._known[0] != seen:
            layout = read(self.path)
            if layout is None:
                raise FileNotFoundError(self.path)
            self._known = (seen, layout)
        return self._known[1]

    @property
    def known(self) -> Layout:
        """Return what was read last."""
        return self._known[1]


def object_id(kek: KekRef) -> bytes:
    """Return the CKA_ID of a KEK."""
    return kek.tenant_uid.bytes + kek.version.to_bytes(_VERSION_BYTES, "big")


def object_label(kek: KekRef) -> bytes:
    """Return the CKA_LABEL of a KEK, which says the same to people."""
    return f"{kek.tenant_uid}.{kek.version}".encode()


def kek_of(identity: bytes, label: bytes) -> KekRef | None:
    """Return whose object it is; None for one that is no KEK of ours."""
    if len(identity) != _UID_BYTES + _VERSION_BYTES:
        return None
    kek = KekRef(tenant_uid=UUID(bytes=identity[:_UID_BYTES]), version=int.from_bytes(identity[_UID_BYTES:], "big"))
    return kek if object_label(kek) == label else None
