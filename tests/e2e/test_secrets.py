"""A secret from its making to its end on a running stack: by the command line, by grpcurl, and in what they leave."""

import base64
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

from tests.fixtures.stack import Stack

TENANT = "secretive"
NAME = f"tenants/{TENANT}/secrets/crm"
VALUES = (b"first-of-its-kind\x00\n", b"second-to-none\xff")
GRPCURL: Final = Path(sys.executable).with_name("grpcurl")
DENIED, PRECONDITION = 3, 4


def done(stack: Stack, *arguments: str) -> Any:
    ran = stack.bulkhead(*arguments, "--json")
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture(scope="module")
def tokens(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of an administrator's token, and of that of somebody whom the administrator lets read values."""
    if stack.bulkhead("tenants", "get", TENANT).returncode != 0:
        done(stack, "tenants", "create", TENANT)
    folder = tmp_path_factory.mktemp("tokens")
    admin, reader = (str(folder / name) for name in ("admin", "reader"))
    subject = ("--subject", "somebody", "--out")
    done(stack, "tokens", "issue", TENANT, "--role", "tenant-admin", *subject, admin)
    done(stack, "tokens", "issue", TENANT, "--scope", "secrets.access", *subject, reader, "--token-file", admin)
    return {"admin": admin, "reader": reader}


@pytest.mark.behaviour("S9.3")
def test_a_secret_lives_and_is_found_nowhere_but_where_it_was_read(
    stack: Stack, tokens: dict[str, str], tmp_path: Path
) -> None:
    admin, reader = (("--token-file", tokens[who]) for who in ("admin", "reader"))
    value, out = tmp_path / "value", tmp_path / "out"
    value.write_bytes(VALUES[0])
    done(stack, "secrets", "create", TENANT, "crm", "--file", str(value), *admin)
    value.write_bytes(VALUES[1])
    done(stack, "secrets", "add", NAME, "--file", str(value), *admin)
    latest = done(stack, "secrets", "access", NAME, *reader)
    read = stack.bulkhead("secrets", "access", f"{NAME}/versions/1", "--out", str(out), *reader)
    # As the platform's administrator, and as the tenant's.
    codes = [stack.bulkhead("secrets", "access", NAME, *who).returncode for who in ((), admin)]
    done(stack, "secrets", "destroy", f"{NAME}/versions/1", *admin)
    gone = stack.bulkhead("secrets", "access", f"{NAME}/versions/1", *reader)
    entries = done(stack, "audit", "tail", TENANT, "--lines", "100")["audit_entries"]
    readings = [
        (entry["actor"], entry["resource"])
        for entry in entries
        if entry["method"].endswith("AccessSecretVersion") and entry["outcome"] == "EFFECT"
    ]

    assert base64.b64decode(latest["payload"]) == VALUES[1]
    assert (read.returncode, out.read_bytes(), out.stat().st_mode & 0o777) == (0, VALUES[0], 0o600)
    assert codes == [DENIED, DENIED]
    assert (gone.returncode, "SECRET_VERSION_DESTROYED" in gone.stderr) == (PRECONDITION, True)
    assert [reading for reading in readings if NAME in reading[1]] == [
        ("tenant-member:somebody", f"{NAME}/versions/{number}") for number in (2, 1)
    ]
    assert places_with(stack.dir, [value[:14] for value in VALUES]) == []


def places_with(folder: Path, wanted: list[bytes]) -> list[str]:
    """Search all that the stack keeps on disk: database, write-ahead log, objects, cache, logs."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            # What a running server has removed meanwhile is nowhere.
            with suppress(FileNotFoundError):
                content = path.read_bytes()
                found += [str(path) for form in wanted if form in content or base64.b64encode(form)[:-4] in content]
    return found


def test_the_printed_grpcurl_calls_do_the_same(stack: Stack, tokens: dict[str, str], tmp_path: Path) -> None:
    value = tmp_path / "value"
    value.write_bytes(VALUES[0])
    who = ("--token-file", tokens["admin"])
    name = f"tenants/{TENANT}/secrets/by-grpcurl"
    answers = []
    for command in (
        ("create", TENANT, "by-grpcurl", "--file", str(value), *who),
        ("access", name, "--token-file", tokens["reader"]),
        ("delete", name, *who),
    ):
        printed = stack.bulkhead("secrets", *command, "--print-grpcurl").stdout
        assert VALUES[0].decode().strip("\x00\n") not in printed
        path = f"{GRPCURL.parent}{os.pathsep}{os.environ['PATH']}"
        ran = subprocess.run(
            ["sh", "-c", printed], capture_output=True, text=True, check=True, env={**os.environ, "PATH": path}
        )
        answers.append(json.loads(ran.stdout))

    assert answers[0]["latestVersion"] == "1"
    assert base64.b64decode(answers[1]["payload"]) == VALUES[0]
    assert answers[2] == {}
