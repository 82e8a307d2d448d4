"""What every command has: the options of all of them, and one way to fail.

A command is a function whose first parameter is its session. A parameter whose type is a dataclass stands for an
option per field, so that ten options are one value.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, Final, get_type_hints

import typer

from control_plane.cli.calls.failures import CallFailedError
from control_plane.cli.session import Session

Run = Callable[..., None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Everywhere:
    """The options that every command takes."""

    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and errors as JSON on stderr.")] = False
    print_grpcurl: Annotated[
        bool, typer.Option("--print-grpcurl", help="Print the call as a grpcurl command, and do not make it.")
    ] = False
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="BULKHEAD_TOKEN_FILE",
            exists=True,
            dir_okay=False,
            help="Whose token to show. The administrator's of the state directory, if none is named.",
        ),
    ] = None


_CONTEXT: Final = Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context)


def command(group: typer.Typer, name: str) -> Callable[[Run], Run]:
    """Make a function the command `name` of a group. Its docstring is the help."""

    def register(function: Run) -> Run:
        hints = get_type_hints(function, include_extras=True)
        hints.pop("return")
        session_name = next(iter(inspect.signature(function).parameters))
        del hints[session_name]

        def run(context: typer.Context, **given: Any) -> None:
            everywhere = {field.name: given.pop(field.name) for field in fields(Everywhere)}
            with Session(context.obj, **everywhere) as session:
                try:
                    function(session, **dict(_gathered(hints, given)))
                except CallFailedError as error:
                    session.report(error.failure)
                    raise typer.Exit(error.failure.exit_code) from error

        parameters = [_CONTEXT, *_parameters(function, hints), *_options(Everywhere)]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        group.command(name, help=inspect.getdoc(function))(run)
        return function

    return register


def _parameters(function: Run, hints: Mapping[str, Any]) -> Iterator[Parameter]:
    declared = inspect.signature(function).parameters
    for name, annotation in hints.items():
        if is_dataclass(annotation):
            yield from _options(annotation)
        else:
            yield declared[name].replace(kind=Parameter.KEYWORD_ONLY, annotation=annotation)


def _options(options: Any) -> Iterator[Parameter]:
    annotations = get_type_hints(options, include_extras=True)
    for field in fields(options):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        yield Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if default is MISSING else default,
            annotation=annotations[field.name],
        )


def _gathered(hints: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, annotation in hints.items():
        if is_dataclass(annotation) and isinstance(annotation, type):
            yield name, annotation(**{field.name: given[field.name] for field in fields(annotation)})
        else:
            yield name, given[name]
