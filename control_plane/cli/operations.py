"""`bulkhead operations`: long work, and how far it is."""

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Annotated, Final

import typer

from control_plane.cli import arguments, output
from control_plane.cli.calls.failures import CallFailedError, failed, from_status, with_hint
from control_plane.cli.calls.message import Message
from control_plane.cli.command import command
from control_plane.cli.session import Session

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Long-running operations.")

_COLUMNS: Final = ("name", "done", "metadata.tenant", "metadata.create_time")
_GET: Final = "google.longrunning.Operations/GetOperation"
_WAIT: Final = "google.longrunning.Operations/WaitOperation"
_LIST: Final = "google.longrunning.Operations/ListOperations"
# A tenant is made in about a third of a second: the first looks come soon, the later ones cost little.
_LOOKS_S: Final = (0.05, 0.05, 0.1, 0.1, 0.2, 0.2, 0.5)
_LONGEST_WAIT_S: Final = 10.0
_STEP_ENDS: Final = {"DONE": "✓", "FAILED": "✗"}

Timeout = Annotated[
    timedelta,
    typer.Option(metavar="SPAN", parser=arguments.time_span, show_default="2m", help="How long to wait, such as 30s."),
]
TIMEOUT: Final = timedelta(minutes=2)


@command(app, "get")
def get_operation(session: Session, operation: arguments.Operation) -> None:
    """Show one operation: whether it is done, its steps, and what came of it."""
    _show(session, session.call(_GET, {"name": operation}))


@command(app, "list")
def list_operations(session: Session, paging: arguments.Paging) -> None:
    """List operations, newest first."""
    session.show_list(_LIST, {"name": "operations"}, columns=_COLUMNS, paging=paging)


@command(app, "wait")
def wait_for_operation(session: Session, operation: arguments.Operation, *, timeout: Timeout = TIMEOUT) -> None:
    """Wait until an operation is done. The exit code says what came of it."""
    done = until_done({"name": operation}, timeout=timeout, look=waits(session))
    _show(session, done)
    result(done)


@command(app, "watch")
def watch_operation(session: Session, operation: arguments.Operation, *, timeout: Timeout = TIMEOUT) -> None:
    """Show the steps of an operation as they end, until it is done."""
    done = follow(session, session.call(_GET, {"name": operation}), timeout=timeout)
    _show(session, done)
    result(done)


def follow(session: Session, operation: Message, *, timeout: timedelta) -> Message:
    """Tell each step of an operation as it ends, and return the operation when it is done.

    A control plane that is away for a while is waited for.

    Raises:
        CallFailedError: when it is not done in time, or cannot be looked at. It goes on all the same.
    """
    told: set[str] = set()

    def look(name: str, left: timedelta) -> Message:
        found = session.call(_GET, {"name": name}, timeout_s=max(left.total_seconds(), 1))
        _tell_steps(session, found, told)
        return found

    _tell_steps(session, operation, told)
    try:
        return until_done(operation, timeout=timeout, look=look)
    except KeyboardInterrupt:
        session.say("it goes on without you")
        session.hint("operations", "watch", str(operation["name"]))
        raise


def until_done(operation: Message, *, timeout: timedelta, look: Callable[[str, timedelta], Message]) -> Message:
    """Look at an operation until it is done.

    Raises:
        CallFailedError: DEADLINE_EXCEEDED when it is not done in time.
    """
    name, ends = str(operation["name"]), time.monotonic() + timeout.total_seconds()
    away: CallFailedError | None = None
    for pause in _pauses():
        left = ends - time.monotonic()
        if operation.get("done"):
            return operation
        if left <= 0:
            break
        time.sleep(min(pause, left))
        try:
            operation, away = look(name, timedelta(seconds=left)), None
        except CallFailedError as error:
            if error.failure.code not in {"UNAVAILABLE", "DEADLINE_EXCEEDED"}:
                raise
            away = error
    hint = f"it goes on: `{{bulkhead}} operations watch {name}`"
    if away:
        raise with_hint(away, hint) from away
    raise failed("DEADLINE_EXCEEDED", f"{name} is not done after {timeout.total_seconds():g}s", hint=hint)


def result(operation: Message) -> Message:
    """Return what a done operation made.

    Raises:
        CallFailedError: when it failed.
    """
    if "error" in operation:
        raise CallFailedError(from_status(operation["error"]))
    return {name: value for name, value in operation.get("response", {}).items() if name != "@type"}


def _pauses() -> Iterator[float]:
    yield 0.0
    yield from _LOOKS_S
    while True:
        yield _LOOKS_S[-1]


def waits(session: Session) -> Callable[[str, timedelta], Message]:
    """Return a look for `until_done` that the server answers when the operation is done."""

    def wait(name: str, left: timedelta) -> Message:
        seconds = min(left.total_seconds(), _LONGEST_WAIT_S)
        # The server answers when the time is up; the deadline is for a server that does not answer.
        return session.call(_WAIT, {"name": name, "timeout": f"{seconds:.3f}s"}, timeout_s=seconds + 5)

    return wait


def _tell_steps(session: Session, operation: Message, told: set[str]) -> None:
    for step in operation.get("metadata", {}).get("steps", []):
        if step["state"] in _STEP_ENDS and step["name"] not in told:
            told.add(step["name"])
            again = f"  begun {step['attempts']} times" if step["attempts"] > 1 else ""
            session.say(f"  {_STEP_ENDS[step['state']]} {step['name']:<14}{_took(step):>9}{again}")


def _took(step: Message) -> str:
    if "start_time" not in step or "end_time" not in step:
        return ""
    took = datetime.fromisoformat(step["end_time"]) - datetime.fromisoformat(step["start_time"])
    return f"{took / timedelta(milliseconds=1):.0f} ms"


def _show(session: Session, operation: Message) -> None:
    if session.as_json:
        session.show(operation)
        return
    metadata = operation.get("metadata", {})
    outcome = operation.get("error", {}).get("message") or operation.get("response", {}).get("name", "")
    session.show(
        {
            "name": operation["name"],
            "done": operation["done"],
            "tenant": metadata.get("tenant", ""),
            "outcome": outcome,
            "create_time": metadata.get("create_time", ""),
        }
    )
    if steps := metadata.get("steps"):
        output.put()
        output.put_table(steps, ("name", "state", "attempts", "start_time", "end_time"))
