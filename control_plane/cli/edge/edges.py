"""`bulkhead edges`: the agents that decide, and how far each is."""

from datetime import timedelta
from typing import Annotated, Final

import typer

from control_plane.cli import arguments, output
from control_plane.cli.command import command
from control_plane.cli.edge import applied
from control_plane.cli.session import Session

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Edges: where tenants' requests are decided.")

LIST: Final = "bulkhead.v1.EdgeService/ListEdges"
_COLUMNS: Final = ("name", "live", "revision", "proxies", "last_seen_time")
_LONGEST: Final = timedelta(seconds=60)


@command(app, "list")
def list_edges(session: Session) -> None:
    """List the edges, and the revision that each enforces."""
    answer = session.call(LIST, {})
    if session.as_json:
        output.put_json(answer)
        return
    output.put_table([{**edge, "proxies": len(edge["proxies"])} for edge in answer["edges"]], _COLUMNS)
    session.say(f"the newest revision is {answer['revision']}")


@command(app, "wait")
def wait_for_edges(
    session: Session,
    *,
    revision: Annotated[int, typer.Option(metavar="N", min=0, help="Which; the newest if none is named.")] = 0,
    timeout: Annotated[
        timedelta,
        typer.Option(metavar="SPAN", parser=arguments.time_span, show_default="10s", help="For how long; 60s at most."),
    ] = applied.TIMEOUT,
) -> None:
    """Wait until every live edge enforces a revision. Fails when time is up, and names those that lag."""
    if timeout > _LONGEST:
        raise typer.BadParameter("--timeout must be 60s at most")
    answer = applied.ask(session, revision, timeout=timeout)
    if session.as_json:
        output.put_json(answer)
    applied.check(answer, timeout=timeout)
    if not session.as_json:
        output.put(applied.told(answer))
