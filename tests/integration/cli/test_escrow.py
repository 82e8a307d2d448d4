"""`bulkhead keys escrow`, as far as it needs no stack: what recipients do at machines of their own."""

import json
from pathlib import Path
from typing import Any

import pytest

from control_plane.recipients import ceremony, hpke

SESSION = hpke.PrivateKey(seed=bytes(range(32)))
TOLD = hpke.fingerprint(SESSION.public)


def test_a_recipients_key_goes_into_a_file_for_its_owner_alone(cli: Any, api: Any, tmp_path: Path) -> None:
    made = cli("keys", "escrow", "recipient-key", "new", str(tmp_path / "ann"), "--json")
    private, public = (tmp_path / "ann").read_bytes(), (tmp_path / "ann.pub").read_bytes()
    shown = cli("keys", "escrow", "recipient-key", "fingerprint", str(tmp_path / "ann.pub"), "--json")

    assert (made.code, (tmp_path / "ann").stat().st_mode & 0o777) == (0, 0o600)
    assert ceremony.read_private(private).public == ceremony.read_public(public)
    assert made.json["fingerprint"] == shown.json["fingerprint"]
    assert not set(private.decode().splitlines()[1:-1]) & set(made.out.split('"'))
    assert api.received == []


def test_a_recipients_key_takes_no_others_place(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "ann").write_text("needed")
    refused = cli("keys", "escrow", "recipient-key", "new", str(tmp_path / "ann"))

    assert (refused.code, (tmp_path / "ann").read_text()) == (4, "needed")


def test_what_is_no_public_key_has_no_fingerprint(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"x" * 32)
    refused = cli("keys", "escrow", "recipient-key", "fingerprint", str(tmp_path / "key"))

    assert (refused.code, "MLKEM768-X25519" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"session_public_key": ""}, "another one than you were told"),
        ({"shares": []}, "no share"),
        ({"name": 7}, "no recovery"),
        ({"tenant_uid": "x"}, "no recovery"),
    ],
)
def test_what_cannot_be_approved_is_said_and_nothing_is_written(
    cli: Any, tmp_path: Path, *, changes: dict[str, Any], said: str
) -> None:
    uid = "01a20aa4-e39e-7256-9624-d9e5939bc9d0"
    recovery = {
        "name": f"tenants/org_1/keyRecoveries/{uid}",
        "tenant_uid": uid,
        "escrow_id": uid,
        "session_public_key": ceremony.public_file(SESSION.public).partition("\n")[2].rpartition("\n-")[0],
        "shares": [],
        **changes,
    }
    (tmp_path / "recovery.json").write_text(json.dumps(recovery))
    cli("keys", "escrow", "recipient-key", "new", str(tmp_path / "ann"))
    refused = cli(
        "keys", "escrow", "approve", str(tmp_path / "recovery.json"),
        *("--key", str(tmp_path / "ann"), "--session", TOLD, "--out", str(tmp_path / "approval")),
    )  # fmt: skip

    assert (refused.code, said in refused.err) == (4, True), refused.err
    assert not (tmp_path / "approval").exists()


def test_what_is_no_private_key_approves_nothing(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "recovery.json").write_text("{}")
    (tmp_path / "ann").write_text("no key")
    refused = cli(
        "keys", "escrow", "approve", str(tmp_path / "recovery.json"),
        *("--key", str(tmp_path / "ann"), "--session", TOLD, "--out", str(tmp_path / "approval")),
    )  # fmt: skip

    assert (refused.code, "no key" in refused.err, "PRIVATE KEY" in refused.err) == (4, False, True)


def test_a_recipient_is_given_with_a_file(cli: Any, api: Any) -> None:
    refused = cli("keys", "escrow", "enable", "org_1", "--recipient", "ann")

    assert (refused.code, "NAME=FILE" in refused.err, api.received) == (2, True, [])
