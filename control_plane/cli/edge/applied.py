"""Waiting until a change is enforced: by every worker and every proxy of every live edge."""

import time
from datetime import timedelta
from typing import Annotated, Final

import typer

from control_plane.cli.calls.failures import CallFailedError, failed, partially
from control_plane.cli.calls.message import Message
from control_plane.cli.session import Session

WAIT: Final = "bulkhead.v1.EdgeService/WaitApplied"
TIMEOUT: Final = timedelta(seconds=10)
# The server answers when the time is up; the deadline is for a server that does not answer.
_BEYOND_S: Final = 5.0

Wait = Annotated[bool, typer.Option("--wait", help="Wait until every live edge enforces it, and say how long it took.")]


def ask(session: Session, revision: int, *, timeout: timedelta) -> Message:
    """Ask the server to wait for the revision, 0 being the newest; return its answer, whatever that is."""
    seconds = timeout.total_seconds()
    request = {"revision": revision, "timeout": f"{seconds:.3f}s"}
    return session.call(WAIT, request, timeout_s=seconds + _BEYOND_S)


def check(answer: Message, *, timeout: timedelta) -> None:
    """Raise CallFailedError, which names the edges that lag, unless the revision is applied."""
    if answer["applied"]:
        return
    lagging = ", ".join(answer["lagging"])
    message = f"revision {answer['revision']} is not enforced yet after {timeout.total_seconds():g}s by {lagging}"
    hint = (
        "`{bulkhead} proxy status` shows what holds it back; "
        f"`{{bulkhead}} edges wait --revision {answer['revision']}` waits on"
    )
    raise failed("DEADLINE_EXCEEDED", message, hint=hint, reason="EDGES_LAG")


def wait_for_change(session: Session, changed: Message) -> None:
    """Wait for what an answer says that the edges must apply, and tell how long that took.

    Raises:
        CallFailedError: a partial one, since the change is made: it is not known to be enforced everywhere.
    """
    began = time.monotonic()
    try:
        answer = ask(session, int(changed["edge_revision"]), timeout=TIMEOUT)
        check(answer, timeout=TIMEOUT)
    except CallFailedError as error:
        raise partially(error) from error
    took = timedelta(seconds=time.monotonic() - began)
    session.say(f"{told(answer)} after {took / timedelta(milliseconds=1):.0f} ms")


def told(answer: Message) -> str:
    """Say that the revision is applied, and by how many."""
    count = int(answer["live_edges"])
    if not count:
        return f"no edge is live to enforce revision {answer['revision']}"
    return f"revision {answer['revision']} is enforced by every edge ({count})"
