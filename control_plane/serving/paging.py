"""Pages of lists (AIP-158)."""

import base64
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Final, Protocol, TypeVar
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from control_plane.errors import FieldViolation, InvalidArgumentError

Row = TypeVar("Row")

DEFAULT_PAGE_SIZE: Final = 50
LARGEST_PAGE_SIZE: Final = 1000
BEYOND_ALL_IDS: Final = UUID(int=2**128 - 1)
_LIFETIME: Final = timedelta(hours=24)
_NONCE_SIZE: Final = 12


def page_size(requested: int) -> int:
    """Return how many to list: the default for 0, at most the largest.

    Raises:
        InvalidArgumentError: when negative.
    """
    if requested < 0:
        raise InvalidArgumentError(FieldViolation(field="page_size", description="must not be negative"))
    return min(requested or DEFAULT_PAGE_SIZE, LARGEST_PAGE_SIZE)


class ListRequest(Protocol):
    """What every List request has (AIP-158)."""

    page_size: int
    page_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The page that a request asks for."""

    size: int
    after: str
    """What the page before ended with; empty for the first page."""
    token: Callable[[str], str] = field(repr=False)
    """Makes the token of the page that follows a position."""

    @property
    def limit(self) -> int:
        """How many rows to read: one more than are shown, which tells whether there is another page."""
        return self.size + 1

    @property
    def before(self) -> UUID:
        """Where lists of UUIDv7 that show the newest first go on: a bound in any case, so that an index serves it."""
        return UUID(self.after) if self.after else BEYOND_ALL_IDS

    def cut(self, rows: Sequence[Row], key: Callable[[Row], object]) -> tuple[Sequence[Row], str]:
        """Return the rows to show, and the token of the next page; `key` is a row's position."""
        shown = rows[: self.size]
        return shown, self.token(str(key(shown[-1]))) if len(rows) > self.size else ""


class PageTokens:
    """Makes page tokens: opaque, and good for one method of one parent, for a day.

    A token is encrypted and authenticated, since it carries a row's key: a token of one tenant tells nothing to, and
    does nothing for, another.
    """

    def __init__(self, key: bytes) -> None:
        """Take a key of 32 bytes, the same in every replica."""
        self._cipher = AESGCM(key)

    def page(self, request: ListRequest, *, method: str, parent: str, now: datetime) -> Page:
        """Return the page of the list `method` of `parent` that is asked for.

        Raises:
            InvalidArgumentError: for a negative size, or a token that is not of this list.
        """
        return Page(
            size=page_size(request.page_size),
            after=self.decode(request.page_token, method=method, parent=parent, now=now) or "",
            token=partial(self.encode, method=method, parent=parent, now=now),
        )

    def encode(self, position: str, *, method: str, parent: str, now: datetime) -> str:
        """Make the token that continues after `position`."""
        nonce = os.urandom(_NONCE_SIZE)
        body = json.dumps([position, int((now + _LIFETIME).timestamp())]).encode()
        sealed = self._cipher.encrypt(nonce, body, _context(method, parent))
        return base64.urlsafe_b64encode(nonce + sealed).decode()

    def decode(self, token: str, *, method: str, parent: str, now: datetime) -> str | None:
        """Return the position to continue after; None for the first page.

        Raises:
            InvalidArgumentError: for a token of another list, an altered one or an old one.
        """
        if not token:
            return None
        try:
            raw = base64.b64decode(token, altchars=b"-_", validate=True)
            # Base64 leaves bits unused at its end: another spelling is an altered token.
            is_as_made = base64.urlsafe_b64encode(raw).decode() == token
            body = self._cipher.decrypt(raw[:_NONCE_SIZE], raw[_NONCE_SIZE:], _context(method, parent))
        except (ValueError, InvalidTag):
            raise _bad_token("is not a token of this list") from None
        if not is_as_made:
            raise _bad_token("is not a token of this list")
        position, expires = json.loads(body)
        if now.timestamp() > expires:
            raise _bad_token("has expired; start again at the first page")
        return str(position)


def _context(method: str, parent: str) -> bytes:
    return json.dumps([method, parent]).encode()


def _bad_token(description: str) -> InvalidArgumentError:
    return InvalidArgumentError(FieldViolation(field="page_token", description=description, reason="PAGE_TOKEN"))
