"""`bulkhead up`, `down` and `status`: the embedded stack of the state directory."""

import sys
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from control_plane.cli import output
from control_plane.cli.calls.failures import OK, UNAVAILABLE, Failure
from control_plane.cli.session import Session

if TYPE_CHECKING:
    from control_plane.stack.failures import StackError
    from control_plane.stack.layout import StateDir
    from control_plane.stack.progress import Progress

T = TypeVar("T")

_INTERRUPTED: Final = 130

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def up(
    context: typer.Context,
    *,
    detach: Annotated[bool, typer.Option("--detach", help="Return when it is ready, and leave it running.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start the embedded stack in the state directory, which is made if need be. Ctrl-C stops it."""
    with _reporting(context, as_json=as_json):
        state_dir, progress = _state_dir(context), _progress()
        if detach:
            from control_plane.stack.background import start_in_background  # noqa: PLC0415 a client needs no stack

            _put_endpoints(start_in_background(state_dir, progress), as_json=as_json)
            return
        _supervise(state_dir, progress, as_json=as_json)


def down(context: typer.Context, *, as_json: AsJson = False) -> None:
    """Stop the embedded stack, and wait until nothing of it is left. Its data stays."""
    with _reporting(context, as_json=as_json):
        from control_plane.stack.control import down as stop  # noqa: PLC0415 a client needs no stack

        was_running = _run(stop(_state_dir(context), _progress()))
        if as_json:
            output.put_json({"was_running": was_running})
        elif not was_running:
            output.say(f"no stack runs in {output.plain(context.obj)}")


def status(context: typer.Context, *, as_json: AsJson = False) -> None:
    """Show how the embedded stack is. Exits with 0 when it is ready, else with 6."""
    with _reporting(context, as_json=as_json):
        from control_plane.stack.components import State  # noqa: PLC0415 a client needs no stack
        from control_plane.stack.control import status as look  # noqa: PLC0415 the same

        now = look(_state_dir(context))
        if as_json:
            output.put_json(
                {"state": now.state, "pid": now.pid, "components": list(now.components), "endpoints": now.endpoints}
            )
        else:
            running = f" (supervisor {now.pid})" if now.pid else ""
            output.put(f"the stack of {output.plain(context.obj)} is {now.state}{running}")
            if now.components:
                output.put_table(now.components, ["name", "state", "pid", "restarts"])
            for name, value in now.endpoints.items():
                output.put(f"{name:30}{output.plain(value)}")
        raise typer.Exit(OK if now.state is State.READY else UNAVAILABLE)


def _supervise(state_dir: "StateDir", progress: "Progress", *, as_json: bool) -> None:
    from control_plane.stack.progress import Progress, log_lines  # noqa: PLC0415 a client needs no stack
    from control_plane.stack.supervisor import Supervisor  # noqa: PLC0415 the same

    def ready(endpoints: Mapping[str, str]) -> None:
        _put_endpoints(endpoints, as_json=as_json)
        output.say("Ctrl-C stops it")

    audiences = (*progress.audiences, log_lines(state_dir.log("supervisor")))
    _run(Supervisor(state_dir, Progress(audiences)).run(ready))


def _put_endpoints(endpoints: Mapping[str, str], *, as_json: bool) -> None:
    if as_json:
        output.put_json(dict(endpoints))
        return
    for name, value in endpoints.items():
        output.put(f"{name:30}{output.plain(value)}")


def _state_dir(context: typer.Context) -> "StateDir":
    from control_plane.stack.layout import StateDir  # noqa: PLC0415 a client needs no stack

    return StateDir(context.obj.resolve())


def _progress() -> "Progress":
    from control_plane.stack.progress import Progress, plain_lines, terminal  # noqa: PLC0415 a client needs no stack

    return Progress((terminal() if output.coloured(sys.stderr) else plain_lines,))


def _run(work: Coroutine[Any, Any, T]) -> T:
    import asyncio  # noqa: PLC0415 a client needs no loop

    return asyncio.run(work)


@contextmanager
def _reporting(context: typer.Context, *, as_json: bool) -> Iterator[None]:
    """Report what goes wrong as every other command does."""
    from control_plane.stack.failures import StackError, end_of_log  # noqa: PLC0415 a client needs no stack

    with Session(context.obj, as_json=as_json) as session:
        try:
            yield
        except StackError as error:
            failure = _failure(error)
            if error.log and not as_json:
                output.say(f"the end of {output.plain(error.log)}:", faint=True)
                for line in end_of_log(error.log):
                    output.say(f"  {output.plain(line)}", faint=True)
            session.report(failure)
            raise typer.Exit(failure.exit_code) from None
        except KeyboardInterrupt:
            output.say("interrupted; nothing was left running")
            raise typer.Exit(_INTERRUPTED) from None


def _failure(error: "StackError") -> Failure:
    metadata = {"log": str(error.log)} if error.log else {}
    return Failure(code=error.code, message=error.message, reason=error.reason, hint=error.remedy, metadata=metadata)
