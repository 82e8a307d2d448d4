"""How the command line reads names, lengths of time and labels."""

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
