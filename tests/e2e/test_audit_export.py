"""A tenant's log is taken along and checked where there is no platform, after its key was rotated."""

import json
from pathlib import Path
from typing import Any, Final

import pytest

from tests.fixtures.stack import Stack

TENANT: Final = "org_audited"
KEY: Final = f"tenants/{TENANT}/keys/audit"


def done(stack: Stack, *command: str) -> Any:
    ran = stack.bulkhead(*command, "--json")
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def is_signed(stack: Stack, *, version: int) -> bool:
    found = done(stack, "audit", "verify", TENANT)
    is_whole = found["unsealed_entries"] == "0" and found["signed_entries"] == found["sealed_entries"]
    return bool(is_whole and found["key_version"] == f"{KEY}/versions/{version}")


@pytest.mark.behaviour("S2.14")
@pytest.mark.timeout(180)
def test_a_log_is_checked_without_the_platform_after_its_key_was_rotated(stack: Stack, tmp_path: Path) -> None:
    done(stack, "tenants", "create", TENANT)
    stack.wait_until(lambda: is_signed(stack, version=1))
    (first,) = done(stack, "audit", "keys", TENANT)["audit_keys"]
    done(stack, "keys", "rotate", KEY)
    done(stack, "tokens", "issue", TENANT, "--subject", "bob")
    stack.wait_until(lambda: is_signed(stack, version=2))
    log, platform = tmp_path / "log.jsonl", tmp_path / "platform.pem"
    log.write_text(stack.bulkhead("audit", "export", TENANT).stdout)
    stack.bulkhead("isolation", "keys", "--out", str(platform))
    kept = tmp_path / "kept.pem"
    kept.write_text(first["public_key_pem"])
    elsewhere = Stack(tmp_path / "nothing here")
    found = done(elsewhere, "audit", "check", str(log), "--keys", str(platform))
    by_what_was_kept = done(elsewhere, "audit", "check", str(log), "--keys", str(kept))
    log.write_text(log.read_text().replace('"subject": "bob"', '"subject": "eve"', 1))
    changed = elsewhere.bulkhead("audit", "check", str(log), "--keys", str(platform))
    tree = stack.bulkhead("keys", "tree", TENANT).stdout

    assert (found["tenant"], found["key_versions"]) == (f"tenants/{TENANT}", 2)
    assert found["signed_entries"] == found["sealed_entries"] != "0"
    assert found == by_what_was_kept
    assert (changed.returncode, "does not hold from sequence" in changed.stderr) == (4, True)
    assert "audit  Ed25519" in tree
    assert not (tmp_path / "nothing here").exists()
