"""Markers that stand for a tenant where only that tenant's own eyes may fall on them. Pure.

Each tenant has one, in a row and in an object of its own that nobody ever asks for. It cannot be guessed, and whoever
holds the cell's key can tell by itself a real one from a text that merely looks like one, and whose it is. So a marker
that turns up among another tenant's rows, or in an answer to another tenant, has come through a wall.
"""

import hmac
import re
from typing import Final
from uuid import UUID

_PREFIX: Final = "bulkhead_canary_"
_MARKER: Final = re.compile(rb"bulkhead_canary_([0-9a-f]{32})_([0-9a-f]{32})")
MARKER_BYTES: Final = len(_PREFIX) + 32 + 1 + 32
"""How long a marker is: whoever looks at parts of a whole looks at as much of the part before."""
_LABEL: Final = b"canary 1/"
_MAC_BYTES: Final = 16


class BreachError(Exception):
    """Something of one tenant's was about to reach another. It has been held back, and is to be told.

    Its text names nobody: it may end where callers read it.
    """

    def __init__(self, owner_uid: UUID, finder_uid: UUID | None, *, channel: str) -> None:
        """Say whose it was, whom it was about to reach, and where.

        That is in a `row`, a `response`, an `object`, the `cache` or the `context` of a transaction.
        """
        super().__init__(f"another tenant's marker turned up in a {channel}")
        self.owner_uid = owner_uid
        self.finder_uid = finder_uid
        self.channel = channel


class Canaries:
    """Makes markers, and recognises them."""

    def __init__(self, key: bytes) -> None:
        """Make and recognise those of the cell whose key this is."""
        self._key = key

    def marker(self, uid: UUID) -> str:
        """Return the tenant's marker, the same one each time."""
        return f"{_PREFIX}{uid.hex}_{self._mac(uid)}"

    def check(self, data: bytes | str, *, own: UUID | None, channel: str) -> None:
        """Raise BreachError for a real marker of any tenant's but `own`. Costs one search where there is none."""
        if isinstance(data, str):
            if _PREFIX not in data:
                return
            data = data.encode(errors="replace")
        for found in _MARKER.finditer(data):
            owner = UUID(hex=found[1].decode())
            if owner != own and hmac.compare_digest(found[2].decode(), self._mac(owner)):
                raise BreachError(owner, own, channel=channel)

    def _mac(self, uid: UUID) -> str:
        return hmac.digest(self._key, _LABEL + uid.bytes, "sha256")[:_MAC_BYTES].hex()
