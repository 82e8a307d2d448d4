"""`bulkhead up`, `down` and `status`: the embedded stack of the state directory."""

import json
import os
import sys
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from control_plane.cli import output
from control_plane.cli.calls.failures import OK, UNAVAILABLE, CallFailedError, Failure
from control_plane.cli.session import Session

if TYPE_CHECKING:
    from control_plane.stack.failures import StackError
    from control_plane.stack.layout import StateDir
    from control_plane.stack.processes.size import StackSize
    from control_plane.stack.progress import Progress

T = TypeVar("T")

_INTERRUPTED: Final = 130
_UNSAFE_TENANTS: Final = "BULKHEAD_UNSAFE_TENANTS"
_RESTRICT: Final = "restrict"
_REPORT: Final = "report"
_VAULT: Final = "BULKHEAD_VAULT"
_VAULTS: Final = ("software", "pkcs11")
_VALKEY_MEGABYTES: Final = "BULKHEAD_VALKEY_MEGABYTES"
_LEAST_MEGABYTES: Final = 16

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """How `up` is to go about it."""

    demo: bool
    as_json: bool


def up(
    context: typer.Context,
    *,
    detach: Annotated[bool, typer.Option("--detach", help="Return when it is ready, and leave it running.")] = False,
    demo: Annotated[
        bool, typer.Option("--demo", help="Make two demo tenants if need be, and print how to call the edge as each.")
    ] = False,
    proxy_workers: Annotated[int, typer.Option(metavar="N", min=1, max=64, help="Envoy's threads.")] = 2,
    check_workers: Annotated[int, typer.Option(metavar="N", min=1, max=64, help="Processes that decide.")] = 2,
    tenant_connections: Annotated[
        int, typer.Option(metavar="N", min=2, max=1000, help="Database connections for all tenants together.")
    ] = 40,
    as_json: AsJson = False,
) -> None:
    """Start the embedded stack in the state directory, which is made if need be. Ctrl-C stops it."""
    with _reporting(context, as_json=as_json):
        from control_plane.stack.processes.size import VALKEY_MEGABYTES, StackSize  # noqa: PLC0415 a client needs no stack

        state_dir, progress = _state_dir(context), _progress()
        size = StackSize(
            proxy_workers=proxy_workers,
            check_workers=check_workers,
            tenant_connections=tenant_connections,
            restricts_unsafe=_restricts_unsafe(),
            vault=_vault(),
            valkey_megabytes=megabytes_from_environment(VALKEY_MEGABYTES),
        )
        asked = _Asked(demo=demo, as_json=as_json)
        if detach:
            from control_plane.stack.background import start_in_background  # noqa: PLC0415 a client needs no stack

            _put_ready(state_dir, start_in_background(state_dir, progress, size=size), asked=asked)
            return
        _supervise(state_dir, progress, size=size, asked=asked)


def _restricts_unsafe() -> bool:
    """Read what is seldom set from the environment: what becomes of a tenant whose isolation does not hold."""
    given = os.environ.get(_UNSAFE_TENANTS, _RESTRICT)
    if given not in {_RESTRICT, _REPORT}:
        raise typer.BadParameter(f"{_UNSAFE_TENANTS} must be {_RESTRICT} or {_REPORT}")
    return given == _RESTRICT


def _vault() -> str | dict[str, Any]:
    """Return what kind of vault a new state directory is to have, or what a file says of it; empty for either."""
    given = os.environ.get(_VAULT, "")
    if given in {"", *_VAULTS}:
        return given
    try:
        said = json.loads(Path(given).read_text())
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{_VAULT} must be {', '.join(_VAULTS)}, or a file in JSON") from error
    if not isinstance(said, dict) or said.get("kind") not in _VAULTS:
        raise typer.BadParameter(f"the file that {_VAULT} names must have an object, with a `kind`")
    return said


def megabytes_from_environment(default: int) -> int:
    """Return how much memory Valkey may have. It is seldom set, so there is no option for it."""
    given = os.environ.get(_VALKEY_MEGABYTES, str(default))
    if not given.isdecimal() or int(given) < _LEAST_MEGABYTES:
        raise typer.BadParameter(f"{_VALKEY_MEGABYTES} must be a whole number from {_LEAST_MEGABYTES} on")
    return int(given)


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


def _supervise(state_dir: "StateDir", progress: "Progress", *, size: "StackSize", asked: _Asked) -> None:
    import threading  # noqa: PLC0415 a client needs no thread

    from control_plane.stack.progress import Progress, log_lines  # noqa: PLC0415 a client needs no stack
    from control_plane.stack.supervisor import Supervisor  # noqa: PLC0415 the same

    def tell(endpoints: Mapping[str, str]) -> None:
        _put_ready(state_dir, endpoints, asked=asked, note="Ctrl-C stops it")

    def ready(endpoints: Mapping[str, str]) -> None:
        # Not here, where the stack is watched: making tenants takes a while. Whoever stops the stack does not wait.
        threading.Thread(target=tell, args=(endpoints,), daemon=True).start()

    audiences = (*progress.audiences, log_lines(state_dir.log("supervisor")))
    _run(Supervisor(state_dir, Progress(audiences), size=size).run(ready if asked.demo else tell))


def _put_ready(state_dir: "StateDir", endpoints: Mapping[str, str], *, asked: _Asked, note: str = "") -> None:
    """Print where the stack answers and, where that was asked for, how each demo tenant calls the edge."""
    if not asked.as_json:
        for name, value in endpoints.items():
            output.put(f"{name:30}{output.plain(value)}")
    if note:
        output.say(note)
    curls = _demo_curls(state_dir, as_json=asked.as_json) if asked.demo else {}
    if asked.as_json:
        output.put_json({**endpoints, **({"demo": curls} if asked.demo else {})})
    else:
        for curl in curls.values():
            output.put(output.plain(curl))


def _demo_curls(state_dir: "StateDir", *, as_json: bool) -> dict[str, str]:
    """Prepare the demo tenants; return a command for each. What goes wrong is told, and the stack stays up."""
    from control_plane.cli.edge.demo_tenants import prepare  # noqa: PLC0415 only the demo waits for it
    from control_plane.stack.components import State  # noqa: PLC0415 a client needs no stack
    from control_plane.stack.control import status as look  # noqa: PLC0415 the same

    try:
        return {tenant.tenant_id: tenant.curl for tenant in prepare(state_dir.root)}
    except CallFailedError as error:
        # Whoever stops the stack meanwhile need not hear that it does not answer.
        if look(state_dir).state is not State.STOPPING:
            with Session(state_dir.root, as_json=as_json) as session:
                session.say("the stack is up, but not its demo tenants")
                session.report(error.failure)
        return {}


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
