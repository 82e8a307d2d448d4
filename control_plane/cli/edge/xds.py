"""`bulkhead xds`: what Envoy is told."""

import subprocess
import sys
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What Envoy is told.")


@app.command("render")
def render(
    context: typer.Context,
    *,
    tenant: Annotated[str, typer.Option(metavar="TENANT", help="The tenant: its id, or its name tenants/ID.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Print the scopes and routes that the edge gives Envoy for a tenant, as the agent last knew it."""
    # The agent renders, in a process of its own: the command line knows nothing of the edge's inside.
    command = [sys.executable, "-P", "-m", "ext_authz", "render", "--dir", str(context.obj)]
    command += ["--tenant", tenant.removeprefix("tenants/"), *(["--json"] if as_json else [])]
    raise typer.Exit(subprocess.run(command, check=False).returncode)  # noqa: S603 a program of our own
