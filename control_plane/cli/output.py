"""What is printed: data on stdout, talk on stderr; tables for people, JSON for programs.

Names and reasons are chosen by tenants, and an administrator's terminal obeys control characters. None is let through.
"""

import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Final, TextIO

import typer

from control_plane.cli.calls.message import Message

_WRITTEN_OUT: Final = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})
_STATE_STYLES: Final = {
    "ACTIVE": "green",
    "DONE": "green",
    "EFFECT": "green",
    "SYNCED": "green",
    "STALE": "yellow",
    "SUSPENDED": "yellow",
    "READ_ONLY": "yellow",
    "SEALED": "red",
    "PENDING_DELETION": "red",
    "PURGING": "red",
    "RUNNING": "yellow",
    "REVOKED": "red",
    "FAILED": "red",
    "DENIED": "red",
    "NACK": "red",
}


def put(data: str | bytes = "") -> None:
    """Print a line, or some, of data on stdout, at once; bytes as they are."""
    typer.echo(data, nl=isinstance(data, str))


def put_json(value: Any) -> None:
    """Print one JSON document on stdout. Pure ASCII: what is in it cannot act on a terminal."""
    put(json.dumps(value, indent=2))


def put_table(rows: Sequence[Message], columns: Sequence[str]) -> None:
    """Print a line for each row under a heading; in colour on a terminal.

    A column is a field, or a path of fields. One that no row fills is left out.
    """
    shown = [column for column in columns if not rows or any(_cell(row, column) for row in rows)]
    cells = [[_cell(row, column) for column in shown] for row in rows]
    titles = [column.rpartition(".")[2].replace("_", " ").upper() for column in shown]
    if not coloured(sys.stdout):
        put("\n".join(aligned([titles, *cells])))
        return
    from rich import box, console, table, text  # noqa: PLC0415 only a terminal's tables wait for rich

    drawn = table.Table(*titles, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for line in cells:
        drawn.add_row(*(text.Text(cell, style=_STATE_STYLES.get(cell, "")) for cell in line))
    console.Console().print(drawn)


def put_details(message: Message, *, leave_out: Iterable[str] = ()) -> None:
    """Print a line for each field that says something."""
    hidden = set(leave_out)
    names = [name for name, value in message.items() if name not in hidden and value not in ("", [], {})]
    shown = [[name, _cell(message, name)] for name in names]
    lines = aligned(shown)
    if coloured(sys.stdout):
        width = max((len(name) for name, _ in shown), default=0)
        lines = [f"\x1b[2m{line[:width]}\x1b[0m{line[width:]}" for line in lines]
    put("\n".join(lines))


def say(text: str, *, faint: bool = False) -> None:
    """Print a line of talk on stderr."""
    typer.echo(f"\x1b[2m{text}\x1b[0m" if faint and coloured(sys.stderr) else text, err=True)


def plain(value: Any) -> str:
    """Write a value of a message in one line, in which nothing moves a cursor or turns the direction of writing."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{plain(key)}={plain(entry)}" for key, entry in value.items())
    if isinstance(value, list):
        return ", ".join(plain(entry) for entry in value)
    return "".join(_visible(character) for character in str(value))


def moment(timestamp: str) -> str:
    """Write a time to the second, which is enough for reading."""
    return f"{timestamp[:19]}Z"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Pad cells so that columns begin below each other."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def repaints() -> bool:
    """Say whether stdout is a terminal on which a table can take the place of the one before."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def clear() -> None:
    """Begin at the top of an empty screen."""
    typer.echo("\x1b[H\x1b[2J", nl=False, color=True)


def coloured(stream: TextIO) -> bool:
    """Say whether a stream is a terminal that wants colour (see no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _cell(message: Message, path: str) -> str:
    value: Any = message
    for field in path.split("."):
        value = value.get(field, "")
    return moment(plain(value)) if path.endswith("_time") and value else plain(value)


def _visible(character: str) -> str:
    if unicodedata.category(character) in _WRITTEN_OUT:
        return character.encode("unicode_escape").decode()
    return character
