"""Which DNS names a certificate may carry."""

import string
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.certificates.dns_names import dns_name_violation

_INNER: Final = string.ascii_lowercase + string.digits + "-"
labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
last_labels = labels.filter(lambda label: not label.isdigit())


@given(st.lists(labels, max_size=5), last_labels)
def test_labels_of_letters_digits_and_inner_hyphens_are_allowed(before: list[str], last: str) -> None:
    assert dns_name_violation(".".join([*before, last])) is None


@given(st.lists(labels, min_size=1, max_size=5), last_labels)
def test_a_wildcard_may_stand_below_two_labels_or_more(before: list[str], last: str) -> None:
    assert dns_name_violation(".".join(["*", *before, last])) is None


@given(st.text(alphabet=_INNER + ".*_ @:/\\\0ü\u200b\u2024A", max_size=80))
def test_what_is_allowed_resolves_to_itself(name: str) -> None:
    """An allowed name has no second reading: lower-case ASCII, no empty label, no wildcard but the first label."""
    if dns_name_violation(name) is None:
        parts = name.removeprefix("*.").split(".")
        assert all(part and set(part) <= set(_INNER) and part.strip("-") == part for part in parts)
        assert len(name) <= 253
        assert not parts[-1].isdigit()


@pytest.mark.parametrize("name", ["localhost", "a", "xn--mnchen-3ya.example", "1.example", "a" * 63, f"{'a.' * 126}a"])
def test_an_unusual_name_is_allowed(name: str) -> None:
    assert dns_name_violation(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "-a.example",
        "a-.example",
        "a_b.example",
        "a b.example",
        "a" * 64,
        "a." * 127 + "a",
        "münchen.example",
        "A.example",
        "a.example\0",
        "a.example\n",
        "\u0430.example",
        "user@a.example",
        "a.example:443",
        "https://a.example",
    ],
)
def test_what_is_no_host_name_is_refused(name: str) -> None:
    assert dns_name_violation(name) is not None


@pytest.mark.parametrize(
    "name", ["*", "*.", "*.example", "a.*.example", "*a.example.com", "a*.example.com", "*.*.example.com", "**.a.b"]
)
def test_a_wildcard_elsewhere_or_over_too_much_is_refused(name: str) -> None:
    assert "wildcard" in str(dns_name_violation(name)) or name == "*."


@pytest.mark.parametrize("name", ["10.0.0.1", "1", "a.example.1", "127.1"])
def test_an_address_is_refused_as_a_name(name: str) -> None:
    assert "IP address" in str(dns_name_violation(name))
