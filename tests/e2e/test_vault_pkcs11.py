"""The stack with its KEKs in SoftHSM: every process shares them, and a device that is away is told and waited for."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from control_plane.stack.processes.locks import is_held
from tests.fixtures.stack import Stack, empty_stack_dir
from tests.unit.certificates.signing_requests import signing_request


@pytest.fixture
def device() -> Iterator[Stack]:
    """A stack that is up, with such a vault."""
    with empty_stack_dir() as directory:
        stack = Stack(directory, environment={"BULKHEAD_VAULT": "pkcs11"})
        up = stack.bulkhead("up", "--detach")
        assert up.returncode == 0, up.stderr + stack.logs()
        yield stack
        if is_held(directory / "lock"):
            stack.bulkhead("down")


def _json(stack: Stack, *arguments: str) -> Any:
    done = stack.bulkhead(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.behaviour("S2.17")
def test_tenants_live_on_pkcs11_and_an_outage_is_told_and_ends_without_a_restart(device: Stack, tmp_path: Path) -> None:
    (tmp_path / "csr.pem").write_text(signing_request())
    issue = ("certificates", "issue", "initech", "--csr", str(tmp_path / "csr.pem"))
    # Nobody calls SoftHSM a device.
    assert _json(device, "tenants", "create", "initech")["hsm_backed"] is False
    _json(device, *issue)
    assert not (device.dir / "vault" / "root.key").exists()
    # The processes that have opened its keys end; those that come have to ask the vault.
    device.bulkhead("down")
    tokens = device.dir / "vault" / "tokens"
    away = tokens.rename(device.dir / "vault" / "away")
    assert device.bulkhead("up", "--detach").returncode == 0
    pids = device.pids()

    refused = device.bulkhead(*issue, "--json")
    assert (refused.returncode, json.loads(refused.stderr)["error"]["reason"]) == (6, "VAULT_UNAVAILABLE")
    assert device.bulkhead("tenants", "get", "initech").returncode == 0
    away.rename(tokens)
    device.wait_until(lambda: device.bulkhead(*issue, "--json").returncode == 0)
    assert device.pids() == pids


@pytest.mark.behaviour("S2.17", "I8")
def test_a_tenant_may_have_a_token_to_itself(device: Stack, tmp_path: Path) -> None:
    (tmp_path / "csr.pem").write_text(signing_request())
    made = _json(device, "tenants", "create", "initech", "--hsm-tier", "dedicated")
    other = _json(device, "tenants", "create", "hooli")
    # Another process has to find the new token.
    _json(device, "certificates", "issue", "initech", "--csr", str(tmp_path / "csr.pem"))
    rotated = device.bulkhead("keys", "rotate", "tenants/initech/keys/kek")
    shown = device.bulkhead("keys", "tree", "initech").stdout, device.bulkhead("keys", "tree", "hooli").stdout

    assert (made["hsm_tier"], other["hsm_tier"]) == ("DEDICATED", "SHARED")
    assert rotated.returncode == 0, rotated.stderr
    assert ["to itself" in tree for tree in shown] == [True, False]


def test_a_state_directory_keeps_the_kind_of_vault_that_it_was_made_with(device: Stack) -> None:
    _json(device, "tenants", "create", "initech")
    device.bulkhead("down")
    other = replace(device, environment={"BULKHEAD_VAULT": "software"}).bulkhead("up", "--detach")

    assert (other.returncode, "(STATE_DIRECTORY)" in other.stderr) == (4, True)
    assert not (device.dir / "vault" / "root.key").exists()
    assert replace(device, environment={}).bulkhead("up", "--detach").returncode == 0
    assert _json(device, "tokens", "issue", "initech", "--subject", "alice")["token"]
