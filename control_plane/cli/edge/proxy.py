"""`bulkhead proxy`: the Envoys behind the edges."""

from collections.abc import Iterator
from typing import Final

import typer

from control_plane.cli import output
from control_plane.cli.calls.message import Message
from control_plane.cli.command import command
from control_plane.cli.edge.edges import LIST
from control_plane.cli.session import Session

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Proxies: what each Envoy has accepted.")

_COLUMNS: Final = ("edge", "node", "type", "state", "resources", "revision", "error")


@command(app, "status")
def show_proxy_status(session: Session) -> None:
    """Show each proxy: whether it is SYNCED, STALE, or has refused (NACK) something, by type of resource."""
    answer = session.call(LIST, {})
    if session.as_json:
        output.put_json(answer)
    else:
        output.put_table([row for edge in answer["edges"] for row in _rows(edge)], _COLUMNS)
        session.say(f"the newest revision is {answer['revision']}")


def _rows(edge: Message) -> Iterator[Message]:
    """Make a row for each type of each proxy; what is not there has a row that says so."""
    name = edge["name"].removeprefix("edges/")
    if not edge["live"]:
        # What it said last may be long past.
        error = f"not heard of since {output.moment(edge['last_seen_time'])}"
        yield {"edge": name, "state": "STALE", "revision": edge["revision"], "error": error}
        return
    if not edge["proxies"]:
        yield {"edge": name, "state": "STALE", "revision": edge["revision"], "error": "no proxy is connected"}
    for proxy in edge["proxies"]:
        for kind in proxy["types"]:
            short = kind["type_url"].rpartition(".")[2]
            yield {"edge": name, "node": proxy["node"], **kind, "type": short}
        if not proxy["types"]:
            yield {"edge": name, "node": proxy["node"], "state": "STALE", "error": "has asked for nothing yet"}
