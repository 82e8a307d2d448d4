"""Page tokens."""

import base64
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkhead.v1 import tenant_requests_pb2
from control_plane.errors import InvalidArgumentError
from control_plane.serving.paging import BEYOND_ALL_IDS, Page, PageTokens, page_size

_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_TOKENS = PageTokens(b"k" * 32)


def _token(position: str = "row-7") -> str:
    return _TOKENS.encode(position, method="/List", parent="tenants/org_1", now=_NOW)


@given(st.text())
def test_a_token_returns_its_position(position: str) -> None:
    found = _TOKENS.decode(_token(position), method="/List", parent="tenants/org_1", now=_NOW)

    assert found == position


def test_no_token_is_the_first_page() -> None:
    assert _TOKENS.decode("", method="/List", parent="tenants/org_1", now=_NOW) is None


@pytest.mark.behaviour("T-A4")
@pytest.mark.parametrize(
    ("method", "parent", "later"),
    [
        ("/List", "tenants/org_2", timedelta()),
        ("/Other", "tenants/org_1", timedelta()),
        ("/List", "tenants/org_1", timedelta(hours=25)),
    ],
    ids=["another tenant's list", "another method's list", "too old"],
)
def test_a_token_is_good_for_its_own_list_and_a_day(method: str, parent: str, later: timedelta) -> None:
    with pytest.raises(InvalidArgumentError):
        _TOKENS.decode(_token(), method=method, parent=parent, now=_NOW + later)


@pytest.mark.behaviour("T-A4")
def test_a_token_with_any_bit_flipped_is_refused() -> None:
    raw = base64.urlsafe_b64decode(_token())
    for bit in range(len(raw) * 8):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(InvalidArgumentError):
            _TOKENS.decode(base64.urlsafe_b64encode(flipped).decode(), method="/List", parent="tenants/org_1", now=_NOW)


@pytest.mark.behaviour("T-A4")
@pytest.mark.parametrize("position", ["row-7", "row-77"])
def test_another_spelling_of_a_token_is_refused(position: str) -> None:
    """Base64 of such a length has bits that mean nothing."""
    token = _token(position)
    data, padding = token.rstrip("="), token[len(token.rstrip("=")) :]
    assert padding
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = f"{data[:-1]}{alphabet[alphabet.index(data[-1]) ^ 1]}{padding}"

    assert base64.urlsafe_b64decode(other) == base64.urlsafe_b64decode(token)
    with pytest.raises(InvalidArgumentError):
        _TOKENS.decode(other, method="/List", parent="tenants/org_1", now=_NOW)


@given(st.text(min_size=1))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        _TOKENS.decode(text, method="/List", parent="tenants/org_1", now=_NOW)


def test_the_position_cannot_be_read_from_the_token() -> None:
    assert b"row-7" not in base64.urlsafe_b64decode(_token())


@pytest.mark.parametrize(("requested", "granted"), [(0, 50), (1, 1), (1000, 1000), (2**31 - 1, 1000)])
def test_the_page_size_has_a_default_and_a_limit(requested: int, granted: int) -> None:
    assert page_size(requested) == granted


def test_a_negative_page_size_is_refused() -> None:
    with pytest.raises(InvalidArgumentError):
        page_size(-1)


def _page(size: int = 0, token: str = "") -> Page:
    request = tenant_requests_pb2.ListTenantsRequest(page_size=size, page_token=token)
    return _TOKENS.page(request, method="/List", parent="tenants/org_1", now=_NOW)


@given(st.integers(0, 30), st.integers(1, 10))
def test_pages_show_each_row_once_and_end(rows: int, size: int) -> None:
    seen: list[str] = []
    token = ""
    while True:
        page = _page(size, token)
        found = [f"{row:02}" for row in range(rows) if f"{row:02}" > page.after][: page.limit]
        shown, token = page.cut(found, lambda row: row)
        seen += shown
        if not token:
            break

    assert seen == [f"{row:02}" for row in range(rows)]


def test_a_list_of_the_newest_begins_beyond_all_ids_and_goes_on_before_the_last() -> None:
    _, token = _page(1).cut([UUID(int=7), UUID(int=6)], lambda row: row)

    assert _page().before == BEYOND_ALL_IDS
    assert _page(1, token).before == UUID(int=7)
