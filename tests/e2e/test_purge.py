"""A tenant is deleted by its administrator and goes, on the real processes: at the doors, at the edge, and for good."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from control_plane.settings import Settings
from tests.fixtures.stack import Stack
from tests.fixtures.synthetic import registry

_TENANT: Final = "leaving"
_PRECONDITION, _USAGE = 4, 2
# The schedule looks every ten seconds.
_PURGED_WITHIN_S: Final = 60.0


def _json(stack: Stack, *arguments: str) -> Any:
    done = stack.bulkhead(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _let_time_pass(stack: Stack) -> None:
    """Have the waiting period end now."""
    with registry(Settings.from_dir(stack.dir)) as connection:
        connection.execute("UPDATE csm_system.tenants SET purge_time = now() WHERE id = %s", (_TENANT,))


def _known_to_the_edge(stack: Stack) -> bool:
    return _TENANT in stack.bulkhead("xds", "render", "--tenant", _TENANT).stdout


def _wait(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PURGED_WITHIN_S
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.mark.behaviour("S4.10", "S4.11", "S2.15")
def test_a_deleted_tenant_is_purged_by_itself_and_leaves_its_log_and_a_receipt(stack: Stack, tmp_path: Path) -> None:
    _json(stack, "tenants", "create", _TENANT, "--admin-email", "ada@leaving.example")
    token = _json(stack, "tokens", "issue", _TENANT, "--subject", "alice", "--scope", "certificates.read")["token"]
    asked = {"authorization": f"Bearer {token}"}
    url = f"http://{stack.endpoints['edge_http']}/api/v1/tenants/{_TENANT}/certificates"
    mistyped = stack.bulkhead("tenants", "delete", _TENANT, "--confirm", "leave", "--reason", "it leaves")
    delete = ("tenants", "delete", _TENANT, "--confirm", _TENANT, "--reason", "it leaves")
    deleted = _json(stack, *delete, "--waiting-period", "1h", "--wait")
    assert mistyped.returncode == _USAGE
    assert deleted["state"] == "PENDING_DELETION"
    assert httpx.get(url, headers=asked).status_code == httpx.codes.FORBIDDEN
    assert stack.bulkhead("tenants", "unseal", _TENANT, "--reason", "no").returncode == _PRECONDITION
    # It writes down what it knows from time to time.
    _wait(lambda: _known_to_the_edge(stack))

    _let_time_pass(stack)
    _wait(lambda: _json(stack, "tenants", "get", _TENANT)["state"] == "PURGED")
    left = _json(stack, "tenants", "get", _TENANT)

    assert "ada@leaving.example" not in json.dumps(left)
    assert _TENANT not in json.dumps(_json(stack, "tenants", "list", "--all"))
    assert httpx.get(url, headers=asked).status_code == httpx.codes.FORBIDDEN
    _wait(lambda: not _known_to_the_edge(stack))
    assert _json(stack, "audit", "verify", _TENANT)["first_broken_sequence"] in {"0", 0}
    entries = json.dumps(_json(stack, "audit", "tail", _TENANT))
    assert all(state in entries for state in ("PENDING_DELETION", "PURGING", "PURGED"))
    (receipt,) = _json(stack, "keys", "receipts", _TENANT)["destruction_receipts"]
    files = {name: str(tmp_path / name) for name in ("receipt.json", "keys.pem")}
    assert stack.bulkhead("keys", "receipt", receipt["name"], "--out", files["receipt.json"]).returncode == 0
    assert stack.bulkhead("isolation", "keys", "--out", files["keys.pem"]).returncode == 0
    checked = stack.bulkhead("keys", "check", files["receipt.json"], "--keys", files["keys.pem"], "--json")
    assert checked.returncode == 0, checked.stderr
    assert {each["key"] for each in json.loads(checked.stdout)["lost"]} >= {"storage", "tokens", "authority"}
    again = stack.bulkhead("tenants", "create", _TENANT)
    assert (again.returncode, "ALREADY_EXISTS" in again.stderr) == (_PRECONDITION, True)
