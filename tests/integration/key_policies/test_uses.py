"""A key is used where its tenant's policy lets it be used, and each use and each refusal is told."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import grpc
import psycopg
import pytest
from google.rpc import error_details_pb2
from psycopg.rows import DictRow

from bulkhead.v1 import encryption_pb2, secret_versions_pb2, secrets_pb2
from control_plane.errors import PolicyDeniedError
from control_plane.ids import TenantId
from control_plane.key_policies.gate import KeyGate
from control_plane.key_policies.model import KeyUse, Operation, ReasonCode
from control_plane.keys.service import TenantKeys
from control_plane.postgres.database import Isolation
from tests.fixtures.cell import Cell, Metadata, bearer, reason_of, status_of
from tests.fixtures.eventually import eventually
from tests.integration.key_policies.conftest import ALLOWS, Code, Desk

Superuser = psycopg.AsyncConnection[DictRow]
Told = Callable[[], Awaitable[list[tuple[str, str, str]]]]
READS: Final = {**ALLOWS, "keys": ["storage"], "operations": ["READ_SECRET"]}


def unmatched(error: grpc.aio.AioRpcError) -> str:
    """Say what of a use did not match, as its caller reads it."""
    info = error_details_pb2.ErrorInfo()
    assert status_of(error).details[0].Unpack(info)
    return info.metadata.get("unmatched", "")


@pytest.mark.behaviour("S2.11", "S2.12")
async def test_each_use_passes_the_policy_and_is_told_with_its_reason(
    desk: Desk, admin: Metadata, member: Metadata, superuser: Superuser
) -> None:
    before = await desk.encrypt(member, "REASON_CODE_UNSPECIFIED")
    await desk.update(admin, enforced=True, rules=[ALLOWS])
    await desk.encrypt(member, reason="invoice 7")
    (entry,) = await (
        await superuser.execute("SELECT * FROM tenant_org_1.audit_entries WHERE details ? 'reason_code'")
    ).fetchall()

    assert before
    assert (entry["actor"], entry["details"]["reason"]) == ("tenant-member:mia", "invoice 7")
    assert entry["details"]["reason_code"] == "CUSTOMER_INITIATED"


@pytest.mark.behaviour("S2.11", "S2.12")
async def test_what_the_policy_denies_is_told_to_its_own_and_in_the_log(
    desk: Desk, admin: Metadata, member: Metadata, told: Told
) -> None:
    ciphertext = await desk.encrypt(member)
    await desk.update(admin, enforced=True, rules=[{**ALLOWS, "operations": ["DECRYPT"]}])
    refusals = []
    for call in (
        desk.encrypt(member),
        desk.encrypt(admin),
        *(
            desk.encryption.Decrypt(
                encryption_pb2.DecryptRequest(parent="tenants/org_1", ciphertext=ciphertext, reason_code=code),
                metadata=member,
            )
            for code in (Code.BACKUP, Code.REASON_CODE_UNSPECIFIED)
        ),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        refusals.append((reason_of(refused.value), unmatched(refused.value)))

    assert refusals == [
        ("KEY_POLICY_DENIED", "OPERATION"),
        ("KEY_POLICY_DENIED", "OPERATION"),
        ("KEY_POLICY_DENIED", "REASON_CODE"),
        ("KEY_POLICY_DENIED", "REASON_CODE"),
    ]
    assert {entry for entry in await told() if entry[2]} == {
        ("tenant-member:mia", "Encrypt", "KEY_POLICY_DENIED_OPERATION"),
        ("tenant-admin:ann", "Encrypt", "KEY_POLICY_DENIED_OPERATION"),
        ("tenant-member:mia", "Decrypt", "KEY_POLICY_DENIED_REASON_CODE"),
    }


@pytest.mark.behaviour("S2.11")
async def test_every_operation_passes_the_policy(desk: Desk, admin: Metadata, member: Metadata) -> None:
    ciphertext = await desk.encrypt(member)
    await desk.update(admin, enforced=True)
    named = {"parent": "tenants/org_1", "reason_code": Code.CUSTOMER_INITIATED}
    calls = {
        "GenerateDataKey": encryption_pb2.GenerateDataKeyRequest(**named),  # type: ignore[arg-type]  # of two types
        "Encrypt": encryption_pb2.EncryptRequest(plaintext=b"x", **named),  # type: ignore[arg-type]  # likewise
        "Decrypt": encryption_pb2.DecryptRequest(ciphertext=ciphertext, **named),  # type: ignore[arg-type]  # likewise
        "Rewrap": encryption_pb2.RewrapRequest(ciphertext=ciphertext, **named),  # type: ignore[arg-type]  # likewise
    }
    for method, asked in calls.items():
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await getattr(desk.encryption, method)(asked, metadata=member)
        assert unmatched(refused.value) == "KEY"


async def test_a_secret_is_read_where_the_policy_lets_it_be(
    cell: Cell, desk: Desk, admin: Metadata, member: Metadata, superuser: Superuser
) -> None:
    named = "tenants/org_1/secrets/crm/versions/1"
    async with cell.secrets() as secrets:
        new = secrets_pb2.CreateSecretRequest(parent="tenants/org_1", secret_id="crm", payload=b"pass")
        await secrets.CreateSecret(new, metadata=admin)
        await desk.update(admin, enforced=True, rules=[READS])
        asked = secret_versions_pb2.AccessSecretVersionRequest(name=named, reason="sync")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await secrets.AccessSecretVersion(asked, metadata=member)
        asked.reason_code = Code.CUSTOMER_INITIATED
        read = await secrets.AccessSecretVersion(asked, metadata=member)
    (entry,) = await (
        await superuser.execute("SELECT * FROM tenant_org_1.audit_entries WHERE method LIKE '%AccessSecretVersion'")
    ).fetchall()

    assert (reason_of(refused.value), unmatched(refused.value)) == ("KEY_POLICY_DENIED", "REASON_CODE")
    assert read.payload == b"pass"
    assert entry["details"] == {"reason": "sync", "reason_code": "CUSTOMER_INITIATED"}


async def test_a_stranger_learns_nothing_of_a_policy(cell: Cell, desk: Desk, admin: Metadata, member: Metadata) -> None:
    await desk.update(admin, enforced=True, rules=[ALLOWS])
    stranger = bearer(await cell.token(await cell.tenant("org_2")))
    for call in (desk.encrypt(stranger), desk.update(stranger, enforced=False)):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert (refused.value.details(), reason_of(refused.value)) == ("the caller may not do this", "TENANT_MISMATCH")

    assert await desk.encrypt(member)


@pytest.mark.behaviour("S2.11")
async def test_a_policy_of_one_tenant_is_none_of_another(cell: Cell, desk: Desk, admin: Metadata) -> None:
    other = bearer(await cell.token(await cell.tenant("org_2")))
    await desk.update(admin, enforced=True)

    assert await desk.encrypt(other, "REASON_CODE_UNSPECIFIED", parent="tenants/org_2")


async def test_no_key_is_opened_for_a_use_that_is_denied(
    desk: Desk, admin: Metadata, member: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    key = TenantKeys.services_key

    async def watched(self: TenantKeys, placement: Any, **more: Any) -> Any:
        opened.append(placement)
        return await key(self, placement, **more)

    ciphertext = await desk.encrypt(member)
    await desk.update(admin, enforced=True)
    # What was known a moment ago lets the key be opened, and nothing be given out; from now on it is known better.
    with pytest.raises(grpc.aio.AioRpcError):
        await desk.encrypt(member)
    monkeypatch.setattr(TenantKeys, "services_key", watched)
    for call in (
        desk.encrypt(member),
        desk.encryption.Decrypt(
            encryption_pb2.DecryptRequest(parent="tenants/org_1", ciphertext=ciphertext), metadata=member
        ),
        desk.encryption.Rewrap(
            encryption_pb2.RewrapRequest(parent="tenants/org_1", ciphertext=ciphertext), metadata=member
        ),
    ):
        with pytest.raises(grpc.aio.AioRpcError):
            await call
        assert opened == []
    await desk.update(admin, enforced=False)
    await desk.encrypt(member)

    assert len(opened) == 1


@pytest.mark.parametrize(
    "spoilt",
    ["[7]", '[{"keys": ["services"]}]', '[{"keys": 1}]', "{}", "null"],
    ids=["no rule", "half a rule", "another type", "no list", "nothing"],
)
async def test_without_a_policy_that_can_be_read_no_key_is_used(
    desk: Desk, admin: Metadata, member: Metadata, superuser: Superuser, spoilt: str
) -> None:
    await desk.update(admin, enforced=True, rules=[ALLOWS])
    await desk.encrypt(member)
    await superuser.execute("UPDATE tenant_org_1.key_policies SET rules = %s::jsonb", (spoilt,))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await desk.encrypt(member)

    assert reason_of(refused.value) in {"KEY_POLICY_UNREADABLE", "KEY_POLICY_DENIED"}


async def test_a_zone_that_is_gone_is_no_policy_that_can_be_read(
    desk: Desk, admin: Metadata, member: Metadata, superuser: Superuser
) -> None:
    await desk.update(admin, enforced=True, rules=[{**ALLOWS, "time_windows": [{"time_zone": "Europe/Berlin"}]}])
    await desk.encrypt(member)
    await superuser.execute(
        "UPDATE tenant_org_1.key_policies SET rules = replace(rules::text, 'Berlin', 'Atlantis')::jsonb"
    )
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await desk.encrypt(member)

    assert reason_of(refused.value) == "KEY_POLICY_UNREADABLE"


@pytest.mark.behaviour("S2.11")
@pytest.mark.parametrize("isolation", ["POOLED", "STRICT"])
async def test_what_is_remembered_lets_nothing_pass_that_the_policy_denies(cell: Cell, isolation: str) -> None:
    """Two processes: one remembers a policy of a moment ago, the other has changed it."""
    placement = await cell.tenant("org_7", isolation=isolation)
    handle = cell.database.tenant(placement, isolation=Isolation.READ_COMMITTED)
    gate = KeyGate(now=lambda: datetime(2026, 11, 25, 12, tzinfo=UTC))
    use = KeyUse(key="services", operation=Operation.SIGN, principal="tenant-member:mia")
    passed: list[KeyUse] = []

    async def record(tx: Any, _: Any) -> None:
        tx.unchanged()
        passed.append(use)

    await gate.check(handle, use)
    await handle.run(lambda tx: tx.execute("INSERT INTO key_policies (enforced, revision) VALUES (true, 1)"))
    await gate.check(handle, use)
    with pytest.raises(PolicyDeniedError):
        await gate.run(handle, use, record)

    assert passed == []


@pytest.mark.behaviour("S2.11", "S2.12")
@pytest.mark.parametrize("is_serializable", [False, True], ids=["read committed", "serializable"])
async def test_no_use_goes_on_by_the_old_policy_once_the_new_one_was_acknowledged(
    cell: Cell, desk: Desk, admin: Metadata, member: Metadata, superuser: Superuser, *, is_serializable: bool
) -> None:
    """A use that has read the old policy is held up: the change is committed, and not acknowledged before it ends."""
    entry = await cell.directory.find(TenantId("org_1"))
    assert entry is not None
    pooling = replace(entry.placement.pooling, is_serializable=is_serializable)
    handle = cell.database.tenant(replace(entry.placement, pooling=pooling), isolation=Isolation.READ_COMMITTED)
    use = KeyUse(key="services", operation=Operation.SIGN, principal="tenant-member:mia")
    gate, has_read, may_end = KeyGate(), asyncio.Event(), asyncio.Event()

    async def record(tx: Any, _: Any) -> str:
        tx.unchanged()
        has_read.set()
        await may_end.wait()
        return "used"

    going_on = asyncio.create_task(gate.run(handle, use, record))
    await has_read.wait()
    change = asyncio.create_task(desk.update(admin, enforced=True))
    await _until(superuser, "SELECT FROM tenant_org_1.key_policies WHERE enforced")
    # It looks each 20 ms, and has looked when all of these were answered one after the other.
    for _ in range(20):
        with pytest.raises(grpc.aio.AioRpcError):
            await desk.encrypt(member)
    assert not change.done()
    may_end.set()

    assert await going_on == "used"
    assert (await change).enforced
    with pytest.raises(PolicyDeniedError):
        await gate.run(handle, use, record)


@pytest.mark.behaviour("S2.11")
async def test_of_many_uses_at_once_none_succeeds_that_began_after_the_acknowledgement(
    desk: Desk, admin: Metadata, member: Metadata
) -> None:
    await desk.update(admin, enforced=True, rules=[ALLOWS])
    is_denied = asyncio.Event()
    late: list[int] = []
    passed: list[int] = []
    refusals: set[str] = set()

    async def use() -> None:
        for _ in range(100):
            began_after = is_denied.is_set()
            try:
                await desk.encrypt(member)
            except grpc.aio.AioRpcError as error:
                refusals.add(reason_of(error))
                return
            (late if began_after else passed).append(1)
            await asyncio.sleep(0)

    users = [asyncio.create_task(use()) for _ in range(20)]
    await eventually(lambda: len(passed) >= len(users))
    await desk.update(admin, rules=[])
    is_denied.set()
    await asyncio.gather(*users)

    assert late == []
    assert refusals == {"KEY_POLICY_DENIED"}


async def _until(superuser: Superuser, query: str) -> None:
    """Wait until a query finds something."""
    while not await (await superuser.execute(query.encode())).fetchall():  # noqa: ASYNC110 nothing could tell
        await asyncio.sleep(0.01)


def test_the_gate_needs_a_reason_code_of_its_own_words() -> None:
    """What the protos say is read into the model's words, so that a policy and a use cannot mean two things by one."""
    assert {code.value for code in ReasonCode} == set(Code.keys()) - {"REASON_CODE_UNSPECIFIED"}
