"""`bulkhead top`: the tenants whose requests are decided at present."""

import time
from contextlib import suppress
from typing import Annotated, Final

import typer

from control_plane.cli import output
from control_plane.cli.calls.message import Message
from control_plane.cli.session import Session

TRAFFIC: Final = "bulkhead.v1.EdgeService/ListTenantTraffic"
_COLUMNS: Final = ("tenant", "admitted", "limited", "denied", "leased")
_EVERY_S: Final = 1.0


def show_top(
    session: Session,
    *,
    tenants: Annotated[int, typer.Option("--tenants", metavar="N", min=1, max=1000, help="How many to show.")] = 20,
    once: Annotated[bool, typer.Option("--once", help="Print one table, also in a terminal.")] = False,
) -> None:
    """Show the tenants with the most requests, in a terminal anew each second.

    Of each it says how many a second are admitted, limited for its rate and denied, and how many of those admitted
    passed by a lease.
    """
    if session.as_json or once or not output.repaints():
        _show(session, session.call(TRAFFIC, {"page_size": tenants}))
        return
    with suppress(KeyboardInterrupt):
        while True:
            answer = session.call(TRAFFIC, {"page_size": tenants})
            output.clear()
            _show(session, answer)
            time.sleep(_EVERY_S)


def _show(session: Session, answer: Message) -> None:
    if session.as_json:
        output.put_json(answer)
        return
    rows = [_row(one, one["tenant"].removeprefix("tenants/")) for one in answer["tenants"]]
    output.put_table([*rows, _row(answer["total"], "(all)")], _COLUMNS)
    session.say(f"requests a second, over the last {answer['window']}; {answer['live_tenants']} tenants have any")


def _row(traffic: Message, tenant: str) -> Message:
    admitted, leased = traffic["admitted_per_second"], traffic["leased_per_second"]
    return {
        "tenant": tenant,
        "admitted": f"{admitted:.1f}",
        "limited": f"{traffic['limited_per_second']:.1f}",
        "denied": f"{traffic['denied_per_second']:.1f}",
        "leased": f"{leased / admitted:.0%}" if admitted else "-",
    }
