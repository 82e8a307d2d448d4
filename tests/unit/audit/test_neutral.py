"""Text in the audit log is shown, never obeyed."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.audit.model import neutral, neutral_details
from control_plane.postgres.effects import JsonValue


@pytest.mark.behaviour("T-L5")
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tenant-member:alice", "tenant-member:alice"),
        ("Zoë, 山田", "Zoë, 山田"),
        ("a\r\nb", r"a\u000d\u000ab"),
        ("\x1b[2J\x1b]0;owned\x07", r"\u001b[2J\u001b]0;owned\u0007"),
        ("\x9b31m", r"\u009b31m"),
        ("a\0b", r"a\u0000b"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("a\u2028b", r"a\u2028b"),
        ("\ud800", r"\ud800"),
        ('","outcome":"EFFECT', '","outcome":"EFFECT'),
    ],
)
def test_what_a_terminal_or_a_log_would_obey_is_shown_as_its_number(text: str, shown: str) -> None:
    assert neutral(text) == shown


@pytest.mark.behaviour("T-L5")
@given(st.text())
def test_no_neutral_text_has_a_control_character(text: str) -> None:
    assert not {unicodedata.category(character) for character in neutral(text)} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


def test_a_long_text_is_cut() -> None:
    assert neutral("x" * 5000) == "x" * 2000
    assert len(neutral("é" * 5000)) == 2000


def test_texts_at_every_depth_of_details_are_neutral_and_the_rest_is_kept() -> None:
    details: dict[str, JsonValue] = {"a\n": ["\x1b", {"b": "\r"}], "n": 1, "f": 1.5, "t": True, "none": None}

    assert neutral_details(details) == {
        r"a\u000a": [r"\u001b", {"b": r"\u000d"}],
        "n": 1,
        "f": 1.5,
        "t": True,
        "none": None,
    }
