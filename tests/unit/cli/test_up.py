"""What `up` is told by its environment."""

import pytest
import typer

from control_plane.cli.stack import megabytes_from_environment

VARIABLE = "BULKHEAD_VALKEY_MEGABYTES"


def test_valkeys_memory_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    default = megabytes_from_environment(512)
    monkeypatch.setenv(VARIABLE, "2048")

    assert (default, megabytes_from_environment(512)) == (512, 2048)


@pytest.mark.parametrize("given", ["", "0", "15", "-512", "lots", "1gb", "1.5"])
def test_an_amount_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv(VARIABLE, given)
    with pytest.raises(typer.BadParameter, match=VARIABLE):
        megabytes_from_environment(512)
