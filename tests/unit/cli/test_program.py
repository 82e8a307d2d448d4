"""The command line as a whole: its weight, its options, its manners."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from control_plane.cli.program import app, run

HEAVY = ("grpc", "google.protobuf", "bulkhead", "psycopg", "cryptography", "rich", "structlog", "asyncio")
SERVERS = ("app", "audit", "certificates", "keys", "objects", "operations", "postgres", "serving", "settings",
           "stack", "tenants", "tokens")  # fmt: skip
# Commands that stand for no RPC.
LOCAL = {"version", "up", "down", "status", "demo", "xds render", "serve control-plane", "serve certificates"}


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Walk over every command, with its path."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


ALL = dict(commands(typer.main.get_command(app)))
RPCS = sorted(set(ALL) - LOCAL)
GROUPS = sorted({name.split()[0] for name in ALL if " " in name})


def modules_after(arguments: list[str]) -> set[str]:
    """Run the command in a fresh interpreter, and return the modules that it has loaded."""
    script = (
        "import sys; from control_plane.cli.program import run; code = run(sys.argv[1:]);"
        "print(*sys.modules, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True, text=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([group, "--help"] for group in GROUPS)], ids=str)
def test_help_and_version_load_neither_grpc_nor_a_server(arguments: list[str]) -> None:
    loaded = modules_after(arguments)

    assert loaded & set(HEAVY) == set()
    assert loaded & {f"control_plane.{name}" for name in SERVERS} == set()


@pytest.mark.parametrize("name", RPCS)
def test_every_command_that_calls_takes_the_common_options(name: str) -> None:
    options = {option for parameter in ALL[name].params for option in parameter.opts}

    assert options >= {"--json", "--print-grpcurl", "--token-file"}


@pytest.mark.parametrize("name", [name for name in ALL if not name.startswith("serve")])
def test_every_command_can_print_json(name: str) -> None:
    assert any("--json" in parameter.opts for parameter in ALL[name].params)


@pytest.mark.parametrize("name", ALL)
def test_every_command_says_what_it_does(name: str) -> None:
    assert ALL[name].help.rstrip().endswith(".")


def test_a_mistyped_command_is_a_usage_error_with_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["tenants", "creat", "x"])
    captured = capsys.readouterr()

    assert code == 2
    assert captured.out == ""
    assert "Did you mean 'create'?" in captured.err
    assert "next: `bulkhead tenants --help`" in captured.err


def test_with_json_a_usage_error_is_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["tokens", "issue", "org_1", "--subject", "s", "--ttl", "soon", "--json"])
    error = json.loads(capsys.readouterr().err)["error"]

    assert (code, error["exit_code"], error["code"], error["reason"]) == (2, 2, "INVALID_ARGUMENT", "USAGE")
    assert "soon" in error["message"]


def test_a_group_alone_shows_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["certificates"])

    assert code == 2
    assert "revoke" in capsys.readouterr().err


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version", "--json"]) == 0
    version = json.loads(capsys.readouterr().out)["version"]
    assert run(["--version"]) == 0

    assert capsys.readouterr().out == f"bulkhead {version}\n"
