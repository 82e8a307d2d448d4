"""A tenant whose KEK is gone has its keys back by two recipients of three, with the command line alone."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest

from control_plane.app.vaults import open_vault
from control_plane.keys.model import BUILT_IN
from control_plane.settings import Settings
from control_plane.stack.processes.locks import is_held
from tests.fixtures.softhsm import library_of_its_own
from tests.fixtures.stack import Stack, empty_stack_dir
from tests.unit.certificates.signing_requests import signing_request

TENANT: Final = "initech"
PEOPLE: Final = ("ann", "bob", "cyd")
KINDS: Final = {"software": {}, "softhsm": {"BULKHEAD_VAULT": "pkcs11"}}


@pytest.fixture(params=KINDS)
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A stack that is up, with either vault."""
    with empty_stack_dir() as directory:
        made = Stack(directory, environment=KINDS[request.param])
        up = made.bulkhead("up", "--detach")
        assert up.returncode == 0, up.stderr + made.logs()
        yield made
        if is_held(directory / "lock"):
            made.bulkhead("down")


def done(stack: Stack, *arguments: str) -> Any:
    ran = stack.bulkhead(*arguments, "--json")
    assert ran.returncode == 0, ran.stderr + stack.logs()
    return json.loads(ran.stdout)


def lose_kek(stack: Stack, uid: UUID) -> None:
    """Destroy the tenant's KEKs in the vault behind everybody's back, and let nobody remember its keys."""

    async def destroy() -> None:
        vault = await open_vault(Settings.from_dir(stack.dir))
        for kek in await vault.keks():
            if kek.tenant_uid == uid:
                await vault.destroy_kek(kek)

    stack.bulkhead("down")
    with library_of_its_own():
        asyncio.run(destroy())
    assert stack.bulkhead("up", "--detach").returncode == 0


def made_up(stack: Stack, folder: Path, name: str, *by: str) -> str:
    """Have the platform, or whoever is named, issue an administrator's token."""
    file = str(folder / f"{name}.token")
    done(stack, "tokens", "issue", TENANT, "--role", "tenant-admin", "--subject", name, "--out", file, *by)
    return file


def administrators(stack: Stack, folder: Path) -> tuple[str, str]:
    """The first administrator by the invitation, and another whom the platform vouches for."""
    invitation, first = str(folder / "invitation"), str(folder / "admin.token")
    assert stack.bulkhead("tokens", "enrolment", TENANT, "--out", invitation).returncode == 0
    redeemed = stack.bulkhead("tokens", "redeem", TENANT, "--file", invitation, "--out", first)
    assert redeemed.returncode == 0, redeemed.stderr + stack.logs()
    return first, made_up(stack, folder, "dave")


def refused(stack: Stack, *arguments: str) -> tuple[int, str]:
    ran = stack.bulkhead(*arguments, "--json")
    return ran.returncode, json.loads(ran.stderr)["error"]["reason"]


def enable(stack: Stack, folder: Path, *, admin: str, dave: str) -> Any:
    """Enable it, which neither one person nor the platform does by credentials that they have made up."""
    named = []
    for person in PEOPLE:
        done(stack, "keys", "escrow", "recipient-key", "new", str(folder / person))
        named += ["--recipient", f"{person}={folder / person}.pub"]
    wish = ("keys", "escrow", "enable", TENANT, *named, "--threshold", "2", "--token-file")
    confirm = ("keys", "escrow", "confirm", TENANT, "--digest")
    platforms = done(stack, *wish, dave)["proposal"]["digest"]
    both = refused(stack, *confirm, platforms, "--token-file", made_up(stack, folder, "eve"))
    digest = done(stack, *wish, admin)["proposal"]["digest"]
    child = made_up(stack, folder, "zoe", "--token-file", admin)
    refusals = [refused(stack, *confirm, digest, "--token-file", file) for file in (admin, child)]

    assert [both, *refusals] == [(3, "SECOND_PERSON_NEEDED")] * 3
    # Nor is it the platform's.
    assert refused(stack, *confirm, digest) == (3, "ROLE_NOT_ALLOWED")
    return done(stack, *confirm, digest, "--token-file", dave)


def approve(stack: Stack, folder: Path, person: str, *, file: Path, session: str) -> list[str]:
    """Approve on the recipient's own machine: there is no stack there. Return how it is handed in."""
    out = folder / f"{person}.approval"
    elsewhere = Stack(folder / "nothing here")
    said = done(
        elsewhere, "keys", "escrow", "approve", str(file),
        *("--key", str(folder / person), "--session", session, "--out", str(out)),
    )  # fmt: skip
    assert (said["recipient"], out.stat().st_mode & 0o777) == (person, 0o600)
    assert (said["beginner"], said["reason"]) == ("tenant-admin:admin", "the device is gone")
    return ["keys", "escrow", "submit", said["recovery"], "--recipient", person, "--file", str(out)]


@pytest.mark.behaviour("S2.13")
@pytest.mark.timeout(240)
def test_a_lost_kek_is_recovered_by_the_command_line_alone(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "csr.pem").write_text(signing_request())
    issue = ("certificates", "issue", TENANT, "--csr", str(tmp_path / "csr.pem"))
    uid = UUID(done(stack, "tenants", "create", TENANT)["uid"])
    before = done(stack, *issue)
    first_admin, dave = administrators(stack, tmp_path)
    enabled = enable(stack, tmp_path, admin=first_admin, dave=dave)
    lose_kek(stack, uid)
    lost = [stack.bulkhead("certificates", "get", before["name"]), stack.bulkhead(*issue)]
    # Nobody but the tenant begins it: it has not agreed to that.
    stranger = stack.bulkhead("keys", "escrow", "begin", TENANT, "--reason", "to look")
    file = tmp_path / "recovery.json"
    admin = ("--token-file", first_admin)
    begun = done(stack, "keys", "escrow", "begin", TENANT, "--reason", "the device is gone", "--out", str(file), *admin)
    session = begun["session_fingerprint"]
    wrong = stack.bulkhead(
        "keys", "escrow", "approve", str(file),
        *("--key", str(tmp_path / "ann"), "--session", "0" * 64, "--out", str(tmp_path / "none")),
    )  # fmt: skip
    first = approve(stack, tmp_path, "ann", file=file, session=session)
    done(stack, *first, *admin)
    again = stack.bulkhead(*first, *admin)
    # Of the platform's administrator, too, a share is taken: it shows whose it is.
    done(stack, *approve(stack, tmp_path, "cyd", file=file, session=session))
    show = ("keys", "escrow", "recovery", begun["name"], *admin)
    stack.wait_until(lambda: done(stack, *show)["state"] in {"SUCCEEDED", "FAILED"})
    ended, renewed = done(stack, *show), done(stack, "keys", "escrow", "show", TENANT, *admin)
    after = done(stack, "certificates", "get", before["name"])

    assert (enabled["state"], len(enabled["key_versions"])) == ("ON", len(BUILT_IN))
    assert [one.returncode == 0 for one in lost] == [False, False]
    assert (stranger.returncode, "ESCROW_CONSENT_MISSING" in stranger.stderr) == (3, True)
    assert (wrong.returncode, (tmp_path / "none").exists()) == (4, False)
    assert "RECOVERY_APPROVED_BEFORE" in again.stderr
    assert ended["state"] == "SUCCEEDED", stack.logs()
    assert after["pem_chain"] == before["pem_chain"]
    assert done(stack, *issue)["pem_chain"]
    assert done(stack, "tokens", "issue", TENANT, "--subject", "eve")["token"]
    assert renewed["state"] == "ON"
    assert renewed["escrow_id"] != enabled["escrow_id"]
    assert done(stack, "audit", "verify", TENANT)
    done(stack, "keys", "escrow", "disable", TENANT, *admin)
    assert done(stack, "keys", "escrow", "show", TENANT, *admin)["state"] == "OFF"
