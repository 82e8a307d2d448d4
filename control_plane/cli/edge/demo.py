"""`bulkhead demo`: what the edge does for tenants, shown on the running stack."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from control_plane.cli import output
from control_plane.cli.calls.failures import CallFailedError
from control_plane.cli.calls.message import Message
from control_plane.cli.session import Session

if TYPE_CHECKING:
    from control_plane.cli.edge.scenes import Stage

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def demo(context: typer.Context, *, as_json: AsJson = False) -> None:
    """Show on the running stack how tenants are kept apart at the edge, with what was measured.

    Two demo tenants are made if need be, and are as before in the end.
    """
    with _reporting(context.obj, as_json=as_json) as administrator:
        from control_plane.cli.edge import scenes  # noqa: PLC0415 --help need not wait for it
        from control_plane.cli.edge.demo_tenants import prepare  # noqa: PLC0415 the same

        tenant, other = prepare(context.obj)
        stage = scenes.Stage(administrator=administrator, tenant=tenant, other=other)
        shown = _play(
            stage,
            {
                "certificate": (scenes.certificate, "a certificate is issued and read through the edge"),
                "cross_tenant": (
                    scenes.cross_tenant,
                    f"{other.tenant_id}'s certificates are refused like those of a tenant that does not exist",
                ),
                "suspension": (
                    scenes.suspension,
                    f"{tenant.tenant_id} is suspended; measured from SuspendTenant's answer",
                ),
                "flood": (scenes.flood, f"a flood of {other.tenant_id}'s requests is cut to its limit"),
            },
            aloud=not as_json,
        )
        if as_json:
            output.put_json(shown)


_Scenes = dict[str, tuple[Callable[["Stage"], Message], str]]


def _play(stage: "Stage", scenes: _Scenes, *, aloud: bool) -> Message:
    """Play the scenes one after the other, and tell each once it is over."""
    shown: Message = {}
    for number, (name, (scene, title)) in enumerate(scenes.items(), 1):
        shown[name] = scene(stage)
        if aloud:
            _tell(f"{number}. {title}", shown[name])
    return shown


def _tell(title: str, seen: Message) -> None:
    coloured = output.coloured(sys.stdout)
    output.put(f"\x1b[1m{title}\x1b[0m" if coloured else title)
    facts = [_fact(name, value) for name, value in seen.items() if name != "requests"]
    for line in output.aligned(facts):
        output.put(f"   {line}")
    for request in seen["requests"]:
        line = f"{request['method']:4} {request['path']}  {request['status']}  {request['milliseconds']} ms"
        output.put(f"   \x1b[2m{output.plain(line)}\x1b[0m" if coloured else f"   {output.plain(line)}")


def _fact(name: str, value: object) -> tuple[str, str]:
    """Say a field for people, its unit with its value."""
    unit = next((unit for unit in ("ms", "s") if name.endswith(f"_{unit}")), "")
    return name.removesuffix(f"_{unit}").replace("_", " "), f"{output.plain(value)} {unit}".rstrip()


@contextmanager
def _reporting(directory: Path, *, as_json: bool) -> Iterator[Session]:
    """Work as the administrator, and report what goes wrong as every other command does."""
    with Session(directory, as_json=as_json) as session:
        try:
            yield session
        except CallFailedError as error:
            session.report(error.failure)
            raise typer.Exit(error.failure.exit_code) from error
