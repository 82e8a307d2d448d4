"""What may be kept under which name, and how a value is sealed: it opens for its tenant and its name alone. Pure.

What Valkey is told of a name is a digest that only the tenant's key gives: whoever can list its keys, or has a copy of
its data, learns no names. And as all digests are equally long, so are all entries of the ledger (`cache.lua`).
"""

import base64
import hashlib
import re
import struct
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from control_plane.ids import TenantId, tenant_id_violation
from control_plane.keys.model import Binding, IntegrityError, seal, unseal

LONGEST_LIFETIME: Final = timedelta(days=7)
LARGEST_VALUE: Final = 256 << 10
"""All tenants wait while Valkey copies it, which takes a quarter of a millisecond."""

# What a path may be, and no more: nothing that a pattern, a key or a line of a log could be cut at.
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9._/-]{0,126}[a-z0-9])?", re.ASCII)
_DIGEST_BYTES: Final = 16
_PURPOSE: Final = "cache"
_VERSION: Final = 1
# Until when it is good, in milliseconds since 1970.
_HEADER: Final = struct.Struct(">Q")
_BYTES_OF_A_UNIT: Final = 16 << 10
_REMEMBERED: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheKeys:
    """A tenant's keys for what it keeps."""

    values: bytes = field(repr=False)
    """Seals values."""
    names: bytes = field(repr=False)
    """Makes digests of names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How much of its part of the cache a tenant has filled."""

    bytes: int
    """The ledger's own included."""
    values: int
    limit_bytes: int


def key_prefix(tenant_id: TenantId) -> str:
    """Return what all of a tenant's keys in Valkey begin with, and nobody else's. The braces keep them on one node.

    Raises:
        ValueError: it is no tenant's id. What a pattern reads as more than itself is none.
    """
    violation = tenant_id_violation(tenant_id)
    if violation is not None:
        message = f"{tenant_id!r} {violation}"
        raise ValueError(message)
    return f"tenant:{{{tenant_id}}}:"


def checked_name(name: str) -> str:
    """Return the name; raise ValueError where nothing can be kept under it."""
    if not _NAME.fullmatch(name):
        message = f"{name!r} is not 1 to 128 characters of a-z, 0-9, and in between of . _ - and /"
        raise ValueError(message)
    return name


def checked_lifetime(lifetime: timedelta) -> timedelta:
    """Return for how long to keep a value; raise ValueError where that is not at all, or longer than a week."""
    if not timedelta(milliseconds=1) <= lifetime <= LONGEST_LIFETIME:
        message = f"{lifetime} is not a lifetime of 1 ms to {LONGEST_LIFETIME}"
        raise ValueError(message)
    return lifetime


def digest(keys: CacheKeys, name: str) -> bytes:
    """Return what Valkey is told instead of the name: 22 characters that no pattern reads as anything else."""
    made = hashlib.blake2b(checked_name(name).encode(), key=keys.names, digest_size=_DIGEST_BYTES).digest()
    return base64.urlsafe_b64encode(made).rstrip(b"=")


def seal_value(keys: CacheKeys, value: bytes, *, tenant_uid: UUID, name: str, expires: datetime, nonce: bytes) -> bytes:
    """Seal a value that is good until `expires`. `nonce` MUST be fresh and random."""
    plaintext = _HEADER.pack(_milliseconds(expires)) + value
    return seal(keys.values, plaintext, version=_VERSION, nonce=nonce, aad=_binding(tenant_uid, name).aad())


def open_value(keys: CacheKeys, sealed: bytes, *, tenant_uid: UUID, name: str, now: datetime) -> bytes | None:
    """Return the value, or None where its time is over, whatever Valkey's clock says.

    Raises:
        IntegrityError: it was not sealed for this tenant and this name.
    """
    opened = unseal(keys.values, sealed, version=_VERSION, aad=_binding(tenant_uid, name).aad())
    if len(opened) < _HEADER.size:
        raise IntegrityError
    (expires,) = _HEADER.unpack_from(opened)
    return opened[_HEADER.size :] if _milliseconds(now) < expires else None


def _milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1000)


def _binding(tenant_uid: UUID, name: str) -> Binding:
    return Binding(tenant_uid=tenant_uid, purpose=_PURPOSE, version=_VERSION, object_name=name)


class Shares:
    """What each user has had lately of a server that has one thread: whoever keeps it busy slows all others down.

    A command is a unit, and so is each 16 KiB that it moves.
    """

    def __init__(self, units_per_second: float) -> None:
        """Give each user so much a second, and a second's worth at once."""
        self._unit_s = 1 / units_per_second
        # When a user's share is whole again. Those that have a whole one are forgotten now and then.
        self._whole_at_s: dict[str, float] = {}

    def __len__(self) -> int:
        """Tell how many users are remembered."""
        return len(self._whole_at_s)

    def has_some(self, user: str, now_s: float) -> bool:
        """Say whether anything of a user's share is left at this moment."""
        return self._whole_at_s.get(user, now_s) - now_s < 1

    def note_command(self, user: str, now_s: float, *, moved: int) -> None:
        """Note that a command is sent, which moves so many bytes."""
        self._note(user, 1 + moved // _BYTES_OF_A_UNIT, now_s)

    def note_answer(self, user: str, now_s: float, *, moved: int) -> None:
        """Note that its answer moves so many bytes."""
        self._note(user, moved // _BYTES_OF_A_UNIT, now_s)

    def _note(self, user: str, units: int, now_s: float) -> None:
        self._whole_at_s[user] = max(self._whole_at_s.get(user, now_s), now_s) + units * self._unit_s
        if len(self._whole_at_s) > _REMEMBERED:
            self._whole_at_s = {one: at_s for one, at_s in self._whole_at_s.items() if at_s > now_s}


class Outage:
    """Whether a server is worth asking. While it is away one asks now and then, and all others do without at once."""

    def __init__(self, pause: timedelta) -> None:
        """Begin with a server that is there. After a failure nobody asks for `pause`."""
        self._pause_s = pause.total_seconds()
        self._until_s: float | None = None

    def is_on(self, now_s: float) -> bool:
        """Say whether nobody is to ask at this moment."""
        return self._until_s is not None and now_s < self._until_s

    def is_worth_asking(self, now_s: float) -> bool:
        """Say whether to ask at this moment. Whoever is told to, while the server is away, is the only one."""
        if self.is_on(now_s):
            return False
        if self._until_s is not None:
            self._until_s = now_s + self._pause_s
        return True

    def begin(self, now_s: float) -> bool:
        """Note that it did not answer. True where that is news."""
        is_news = self._until_s is None
        self._until_s = now_s + self._pause_s
        return is_news

    def end(self) -> bool:
        """Note that it answered. True where that is news."""
        is_news = self._until_s is not None
        self._until_s = None
        return is_news
