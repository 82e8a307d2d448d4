"""Read a tenant's audit log, verify it, and take it along to verify it elsewhere."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from control_plane.cli import arguments, output
from control_plane.cli.calls.failures import CallFailedError, failed
from control_plane.cli.calls.message import Message
from control_plane.cli.calls.values import read_text
from control_plane.cli.command import command
from control_plane.cli.session import Session

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The audit log of a tenant.")

_LIST: Final = "bulkhead.v1.AuditService/ListAuditEntries"
_VERIFY: Final = "bulkhead.v1.AuditService/VerifyAuditLog"
_EXPORT: Final = "bulkhead.v1.AuditService/ExportAuditLog"
_KEYS: Final = "bulkhead.v1.AuditService/ListAuditKeys"
_KEY_COLUMNS: Final = ("key_version", "key_id", "start_time", "end_time")
_COLUMNS: Final = ("create_time", "outcome", "actor", "method", "resource", "reason", "count")
_WIDTHS: Final = (20, 7, 28, 22, 60, 20, 5)
_LARGEST_PAGE: Final = 1000
_EXPORTED_PAGE: Final = 200
_EVERY_S: Final = 1.0
_PUBLIC: Final = 0o644
_COMPARE_KEYS: Final = "compare the keys with `{bulkhead} audit keys TENANT` and `{bulkhead} isolation keys`"

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
    """Recompute the hashes over a tenant's sealed entries, and what was signed. Fails where it is broken."""
    answer = session.call(_VERIFY, {"parent": tenant}, timeout_s=60)
    session.show(answer)
    _check(answer, f"the audit log of {tenant}", hint=f"compare it with a backup: `{{bulkhead}} audit tail {tenant}`")


@command(app, "keys")
def list_audit_keys(
    session: Session, tenant: arguments.Tenant, *, paging: arguments.Paging, out: arguments.OutFile = None
) -> None:
    """List the keys that a tenant's audit log was ever signed with, newest first. --out writes them all in PEM."""
    if out:
        pems = [key["public_key_pem"] for key in _audit_keys(session, tenant)]
        session.deliver("".join(pems), out, mode=_PUBLIC)
    else:
        session.show_list(_KEYS, {"parent": tenant}, columns=_KEY_COLUMNS, paging=paging)


@command(app, "export")
def export_audit_log(session: Session, tenant: arguments.Tenant) -> None:
    """Print a tenant's whole sealed log with all that was signed of it, an object a line, for `audit check`."""
    from control_plane.cli.audit import export  # noqa: PLC0415 only who exports waits for cryptography

    is_more, after = True, 0
    while is_more:
        part = session.call(_EXPORT, {"parent": tenant, "after_sequence": str(after), "page_size": _EXPORTED_PAGE})
        for line in export.part_lines(part):
            output.put(line)
        after = int(part["last_sequence"])
        is_more = after > 0
    # Last: whatever has signed by now is among them, and a file that was cut has none.
    for line in export.key_lines(_audit_keys(session, tenant)):
        output.put(line)


@command(app, "check")
def check_export(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `audit export` printed.")],
    *,
    keys: Annotated[
        Path, typer.Option(metavar="FILE", help="What `isolation keys --out` wrote; or `audit keys --out`, once.")
    ],
) -> None:
    """Check an export against public keys. Needs no stack. Fails where entries, checkpoints or keys are not genuine."""
    from control_plane.cli.audit import export  # noqa: PLC0415 the same

    try:
        answer = export.check(lambda: _lines(file), read_text(keys)).shown()
    except export.UntrustedKeyError as error:
        raise failed(
            "FAILED_PRECONDITION", f"{file}: {error}", hint=_COMPARE_KEYS, reason="AUDIT_KEY_FORGED"
        ) from error
    except export.ExportError as error:
        raise failed("INVALID_ARGUMENT", f"{file}: {error}") from error
    session.show(answer)
    _check(answer, str(file), hint="compare it with another copy, or with a backup of the log")
    if answer["signed_entries"] == "0":
        raise failed(
            "FAILED_PRECONDITION",
            f"{file}: no entry is signed, so it proves nothing",
            hint="export it again a few seconds after the tenant was used",
            reason="AUDIT_LOG_UNSIGNED",
        )


def _check(answer: Message, subject: str, *, hint: str) -> None:
    """Fail the command where something of a log does not hold."""
    if int(answer["first_broken_sequence"]):
        message = f"{subject} does not hold from sequence {answer['first_broken_sequence']} on"
        raise failed("FAILED_PRECONDITION", message, hint=hint, reason="AUDIT_CHAIN_BROKEN")
    if answer.get("first_forged_key_version"):
        message = f"{answer['first_forged_key_version']}, which is published, is not vouched for by the platform"
        raise failed("FAILED_PRECONDITION", message, hint=_COMPARE_KEYS, reason="AUDIT_KEY_FORGED")
    if int(answer["first_forged_checkpoint"]):
        message = f"{subject}: no key of the log has signed the checkpoint at {answer['first_forged_checkpoint']}"
        raise failed("FAILED_PRECONDITION", message, hint=hint, reason="AUDIT_CHECKPOINT_FORGED")


def _audit_keys(session: Session, tenant: str) -> list[Message]:
    return [key for page in session.pages(_KEYS, {"parent": tenant}) for key in page["audit_keys"]]


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from file
    except (OSError, UnicodeDecodeError) as error:
        raise failed("INVALID_ARGUMENT", f"{path} cannot be read") from error


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
