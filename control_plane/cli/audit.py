"""`bulkhead audit`: what was done to a tenant, and by whom."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import Annotated, Final

import typer

from control_plane.cli import arguments, output
from control_plane.cli.calls.failures import CallFailedError, failed
from control_plane.cli.calls.message import Message
from control_plane.cli.command import command
from control_plane.cli.session import Session

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The audit log of a tenant.")

_LIST: Final = "bulkhead.v1.AuditService/ListAuditEntries"
_VERIFY: Final = "bulkhead.v1.AuditService/VerifyAuditLog"
_COLUMNS: Final = ("create_time", "outcome", "actor", "method", "resource", "reason", "count")
_WIDTHS: Final = (20, 7, 28, 22, 60, 20, 5)
_LARGEST_PAGE: Final = 1000
_EVERY_S: Final = 1.0

Lines = Annotated[int, typer.Option("--lines", "-n", metavar="N", min=1, help="How many entries to begin with.")]


@command(app, "tail")
def tail_audit_log(
    session: Session,
    tenant: arguments.Tenant,
    *,
    lines: Lines = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with each new entry, until Ctrl-C.")] = False,
) -> None:
    """Print the last entries of a tenant's audit log, oldest first. With --follow --json: one object a line."""
    # By when it happened: a denial is written a moment after it, so perhaps behind what came later.
    entries = sorted(_newest(session, tenant, lines), key=_moment)
    if follow:
        _follow(session, tenant, entries)
    elif session.as_json:
        output.put_json({"audit_entries": entries})
    else:
        output.put_table([_readable(entry) for entry in entries], _COLUMNS)


@command(app, "verify")
def verify_audit_log(session: Session, tenant: arguments.Tenant) -> None:
    """Recompute the hashes over a tenant's sealed entries. Fails where the chain is broken."""
    answer = session.call(_VERIFY, {"parent": tenant}, timeout_s=60)
    session.show(answer)
    broken = int(answer["first_broken_sequence"])
    if broken:
        hint = f"compare the entries from there on with a backup: `{{bulkhead}} audit tail {tenant}`"
        message = f"the audit log of {tenant} does not hold from sequence {broken} on"
        raise failed("FAILED_PRECONDITION", message, hint=hint, reason="AUDIT_CHAIN_BROKEN")


def _newest(session: Session, tenant: str, limit: int) -> Iterator[Message]:
    """Read the newest entries, newest first, at most `limit`."""
    request = {"parent": tenant, "page_size": min(limit, _LARGEST_PAGE)}
    left = limit
    for page in session.pages(_LIST, request):
        yield from page["audit_entries"][:left]
        left -= len(page["audit_entries"])
        if left <= 0:
            return


def _follow(session: Session, tenant: str, entries: list[Message]) -> None:
    seen: set[str] = set()
    while True:
        for entry in entries:
            _print_line(session, entry)
        seen |= {entry["name"] for entry in entries}
        time.sleep(_EVERY_S)
        entries = _patiently(session, partial(_unseen, session, tenant, seen=seen))


def _patiently(session: Session, read: Callable[[], list[Message]]) -> list[Message]:
    """Read, as often as it takes while the control plane is away."""
    is_told = False
    while True:
        try:
            return read()
        except CallFailedError as error:
            if error.failure.code not in {"UNAVAILABLE", "DEADLINE_EXCEEDED"}:
                raise
            if not is_told:
                session.say(f"waiting: {error.failure.headline}")
            is_told = True
            time.sleep(_EVERY_S)


def _unseen(session: Session, tenant: str, *, seen: set[str]) -> list[Message]:
    """Read what came since, oldest first.

    An entry of a slow transaction may come in beneath newer ones: a page is looked through whole.
    """
    found: list[Message] = []
    for page in session.pages(_LIST, {"parent": tenant, "page_size": 200}):
        fresh = [entry for entry in page["audit_entries"] if entry["name"] not in seen]
        found += fresh
        if len(fresh) < len(page["audit_entries"]):
            break
    return found[::-1]


def _moment(entry: Message) -> datetime:
    return datetime.fromisoformat(entry["create_time"])


def _print_line(session: Session, entry: Message) -> None:
    if session.as_json:
        output.put(json.dumps(entry))
        return
    row = _readable(entry)
    cells = (output.plain(row[column]).ljust(width) for column, width in zip(_COLUMNS, _WIDTHS, strict=True))
    output.put("  ".join(cells).rstrip())


def _readable(entry: Message) -> Message:
    return {
        **entry,
        "method": entry["method"].rpartition("/")[2],
        "create_time": output.moment(entry["create_time"]),
        "count": "" if entry["count"] == "1" else f"{entry['count']} times",
    }
