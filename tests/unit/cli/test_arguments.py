"""How the command line reads names, lengths of time and labels."""

import base64
import json
from datetime import timedelta

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from control_plane.cli import arguments


@pytest.mark.parametrize("text", ["org_1", "tenants/org_1"])
def test_a_tenant_is_named_by_its_id_or_by_its_name(text: str) -> None:
    assert arguments.tenant_name(text) == "tenants/org_1"


@pytest.mark.parametrize("text", ["0192", "operations/0192"])
def test_an_operation_is_named_by_its_id_or_by_its_name(text: str) -> None:
    assert arguments.operation_name(text) == "operations/0192"


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("45s", timedelta(seconds=45)),
        ("1h30m", timedelta(minutes=90)),
        ("90d", timedelta(days=90)),
        ("1d1h1m1s", timedelta(days=1, hours=1, minutes=1, seconds=1)),
    ],
)
def test_a_length_of_time_is_read_with_its_units(text: str, span: timedelta) -> None:
    assert arguments.time_span(text) == span


@pytest.mark.parametrize("text", ["", "90", "1.5h", "-1h", "1h 30m", "30m1h", "1w", "٣s", "999999999999999d"])
def test_what_is_no_length_of_time_is_a_usage_error(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        arguments.time_span(text)


@given(st.integers(0, 10**9 - 1))
def test_a_duration_is_sent_in_whole_seconds(seconds: int) -> None:
    assert arguments.duration(arguments.time_span(f"{seconds}s")) == f"{seconds}s"


def test_a_label_may_hold_an_equals_sign_in_its_value() -> None:
    assert arguments.labels(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}


def test_a_label_without_a_value_is_a_usage_error() -> None:
    with pytest.raises(typer.BadParameter, match="key=value"):
        arguments.labels(["a=1", "b"])


def _token(**claims: str) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{payload}.c2ln"


def test_a_token_is_named_by_its_name_or_by_itself() -> None:
    assert arguments.token_name("tenants/org_1/tokens/7") == "tenants/org_1/tokens/7"
    assert arguments.token_name(_token(tid="org_1", jti="7")) == "tenants/org_1/tokens/7"


@pytest.mark.parametrize("text", ["", "x", "a.b", "a.!!.c", "a.W10.c", _token(sub="root")])
def test_what_is_neither_a_tokens_name_nor_a_token_is_not_repeated(text: str) -> None:
    with pytest.raises(typer.BadParameter) as refused:
        arguments.token_name(text)

    assert "neither" in str(refused.value)
