"""`bulkhead serve`: one process of the platform in the foreground. `up` starts these; so may any supervisor."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from control_plane.cli import output
from control_plane.cli.calls.failures import PRECONDITION

if TYPE_CHECKING:
    from control_plane.settings import Settings

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Run one process of the platform.")

Directory = Annotated[
    Path | None, typer.Option("--dir", metavar="DIR", help="The state directory; that of `bulkhead --dir` if not said.")
]


@app.command("control-plane")
def serve_control_plane(context: typer.Context, *, directory: Directory = None) -> None:
    """Serve tenants, tokens, operations and the audit log, until SIGTERM."""
    from control_plane.app.control_plane import run_control_plane  # noqa: PLC0415 a client's command needs no server

    _serve(directory or context.obj, run_control_plane)


@app.command("certificates")
def serve_certificates(context: typer.Context, *, directory: Directory = None) -> None:
    """Serve certificates, until SIGTERM."""
    from control_plane.app.certificates import run_certificates  # noqa: PLC0415 a client's command needs no server

    _serve(directory or context.obj, run_certificates)


def _serve(directory: Path, run: Callable[["Settings"], Awaitable[None]]) -> None:
    import uvloop  # noqa: PLC0415 a client's command needs no loop

    from control_plane.config_file import SettingsError  # noqa: PLC0415 a client's command needs no settings
    from control_plane.settings import Settings  # noqa: PLC0415 the same

    async def serve() -> None:
        await run(Settings.from_dir(directory))

    try:
        uvloop.run(serve())
    except SettingsError as error:
        output.say(output.plain(f"error: {error}"))
        raise typer.Exit(PRECONDITION) from None
