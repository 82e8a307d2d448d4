"""The command line: global options, the groups of commands, and how a mistyped one is answered."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from control_plane.cli import certificates, operations, output, serve, stack, tokens
from control_plane.cli.audit import commands as audit
from control_plane.cli.calls.failures import USAGE, Failure, to_json
from control_plane.cli.command import command
from control_plane.cli.edge import demo, edges, proxy, top, xds
from control_plane.cli.encryption import commands as encryption
from control_plane.cli.escrow import commands as escrow
from control_plane.cli.isolation import commands as isolation
from control_plane.cli.keyring import commands as keys
from control_plane.cli.keyring import named
from control_plane.cli.secrets import commands as secrets
from control_plane.cli.session import DEFAULT_DIRECTORY
from control_plane.cli.signing import commands as signing
from control_plane.cli.tenants import commands as tenants
from control_plane.cli.tenants import life

_INTERRUPTED: Final = 130
_HELP: Final = """Bulkhead keeps the tenants of one platform apart.

Data is printed on stdout, everything else on stderr. Exit codes: 0 ok, 1 a fault of ours, 2 usage or invalid argument,
3 not found or denied, 4 precondition or conflict, 5 quota, 6 unavailable, 7 partial.
"""

app = typer.Typer(
    name="bulkhead", help=_HELP, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)
app.command("up")(stack.up)
app.command("down")(stack.down)
app.command("status")(stack.status)
app.command("demo")(demo.demo)
command(app, "top")(top.show_top)
command(tenants.app, "suspend")(life.suspend_tenant)
command(tenants.app, "reactivate")(life.reactivate_tenant)
command(tenants.app, "seal")(life.seal_tenant)
command(tenants.app, "unseal")(life.unseal_tenant)
command(tenants.app, "delete")(life.delete_tenant)
command(tenants.app, "undelete")(life.undelete_tenant)
app.add_typer(tenants.app, name="tenants")
app.add_typer(tokens.app, name="tokens")
app.add_typer(certificates.app, name="certificates")
app.add_typer(secrets.app, name="secrets")
app.add_typer(operations.app, name="operations")
app.add_typer(audit.app, name="audit")
command(keys.app, "create")(named.create_key)
command(keys.app, "import")(named.import_key)
command(keys.app, "import-job")(named.create_import_job)
command(keys.app, "import-wrapped")(named.import_wrapped_key)
command(keys.app, "destroy")(named.schedule_destruction)
command(keys.app, "restore")(named.restore_key)
app.add_typer(keys.app, name="keys")
keys.app.add_typer(escrow.app, name="escrow")
app.add_typer(isolation.app, name="isolation")
app.add_typer(encryption.app, name="encryption")
app.add_typer(signing.app, name="signing")
app.add_typer(edges.app, name="edges")
app.add_typer(proxy.app, name="proxy")
app.add_typer(xds.app, name="xds")
app.add_typer(serve.app, name="serve")


def _version() -> str:
    from importlib.metadata import version  # noqa: PLC0415 only --version waits for the look-up

    return version("bulkhead")


def _print_version(asked: bool) -> None:  # noqa: FBT001 typer gives a callback the value alone
    if asked:
        output.put(f"bulkhead {_version()}")
        raise typer.Exit


@app.callback()
def choose_stack(
    context: typer.Context,
    *,
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", envvar="BULKHEAD_DIR", help="The state directory of the stack.")
    ] = DEFAULT_DIRECTORY,
    version: Annotated[  # noqa: ARG001 its callback prints and ends
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Keep the global options for the command that follows."""
    context.obj = directory


@app.command("version")
def print_version(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print the version."""
    if as_json:
        output.put_json({"version": _version()})
    else:
        output.put(f"bulkhead {_version()}")


def run(args: Sequence[str]) -> int:
    """Run one command line, and return its exit code."""
    try:
        code = typer.main.get_command(app)(list(args), prog_name="bulkhead", standalone_mode=False)
    except typer.TyperException as error:
        return _refuse(error, as_json="--json" in args)
    except typer.Abort:
        return _INTERRUPTED
    return code if isinstance(code, int) else 0


def _refuse(error: Any, *, as_json: bool) -> int:
    context = getattr(error, "ctx", None)
    message = error.format_message()
    if context is not None and message == context.get_help():
        # A group without a command: its help says which there are.
        output.say(message)
        return USAGE
    path = context.command_path if context is not None else "bulkhead"
    next_step = f"`{path} --help` says what it takes"
    if as_json:
        failure = Failure(code="INVALID_ARGUMENT", message=message, reason="USAGE")
        output.say(json.dumps(to_json(failure, next_step=next_step)))
    else:
        output.say(output.plain(f"error: {message}"))
        output.say(output.plain(f"next: {next_step}"), faint=True)
    return int(error.exit_code)
