"""What reaches a terminal."""

import io
import json
from contextlib import redirect_stdout
from typing import Any

import pytest
from typing_extensions import override

from control_plane.cli import output

HOSTILE = "\x1b[2Jgone\r\n\x9b31m\u202etxt.exe\u2066\ue000"


class Terminal(io.StringIO):
    @override
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")


def test_a_tenants_text_cannot_act_on_a_terminal() -> None:
    shown = output.plain({"name": [HOSTILE], HOSTILE: 1})

    assert shown.isprintable()
    assert "\\x1b[2Jgone\\r\\n\\x9b31m\\u202etxt.exe" in shown


def test_text_in_other_scripts_is_shown_as_it_is() -> None:
    assert output.plain("Zoë 日本 ελ") == "Zoë 日本 ελ"


def test_json_is_ascii_and_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    output.put_json({"name": HOSTILE})
    printed = capsys.readouterr().out

    assert printed.isascii()
    assert printed.replace("\n", "").isprintable()
    assert json.loads(printed) == {"name": HOSTILE}


def test_a_table_in_a_pipe_is_aligned_text(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"name": "tenants/a", "state": "ACTIVE", "x": {"y": 1}}, {"name": "tenants/long", "state": "", "x": {}}]
    output.put_table(rows, ("name", "state", "x.y"))

    assert capsys.readouterr().out == "NAME          STATE   Y\ntenants/a     ACTIVE  1\ntenants/long\n"


def test_a_column_that_no_row_fills_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    output.put_table([{"name": "a", "labels": {}}, {"name": "b", "reason": ""}], ("name", "labels", "reason"))

    assert capsys.readouterr().out == "NAME\na\nb\n"


def test_an_empty_table_is_its_heading(capsys: pytest.CaptureFixture[str]) -> None:
    output.put_table([], ("name", "state"))

    assert capsys.readouterr().out == "NAME  STATE\n"


def test_a_table_on_a_terminal_is_coloured_and_takes_no_orders_from_its_cells() -> None:
    with redirect_stdout(Terminal()) as terminal:
        output.put_table([{"name": "[bold]x[/bold]\x1b[2J", "state": "SUSPENDED"}], ("name", "state"))
    shown = terminal.getvalue()

    assert "\x1b[33mSUSPENDED" in shown
    assert "[bold]x[/bold]\\x1b[2J" in shown


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colour_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with redirect_stdout(Terminal()) as terminal:
        output.put_table([{"state": "ACTIVE"}], ("state",))
        output.put_details({"state": "ACTIVE"})

    assert "\x1b" not in terminal.getvalue()


def test_details_leave_out_what_says_nothing_but_keep_a_no(capsys: pytest.CaptureFixture[str]) -> None:
    resource: dict[str, Any] = {
        "name": "tenants/a",
        "suspend_reason": "",
        "labels": {},
        "hsm_backed": False,
        "pem": "long",
        "create_time": "2026-11-23T22:17:00.123456Z",
    }
    output.put_details(resource, leave_out=["pem"])

    assert capsys.readouterr().out == ("name         tenants/a\nhsm_backed   no\ncreate_time  2026-11-23T22:17:00Z\n")
