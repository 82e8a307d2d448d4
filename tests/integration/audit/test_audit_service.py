"""AuditService over gRPC: who reads which log, and how."""

import random
from collections.abc import AsyncIterator

import grpc
import psycopg
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from psycopg.rows import DictRow

from bulkhead.v1 import audit_pb2, tokens_pb2
from control_plane.postgres.placement import Placement
from control_plane.proofs.audit_log import OVERLAP, Checkpoint, LogKeys, first_head, link
from control_plane.serving.principal import Role
from tests.fixtures.cell import AuditStub, Cell, Metadata, bearer, violations_of
from tests.fixtures.keyring import Ring

Superuser = psycopg.AsyncConnection[DictRow]
SCOPE = ("audit.read",)


@pytest.fixture
async def placement(cell: Cell) -> Placement:
    return await cell.tenant()


@pytest.fixture
async def admin(cell: Cell, placement: Placement) -> Metadata:
    return bearer(await cell.token(placement, subject="admin"))


@pytest.fixture
async def stub(cell: Cell) -> AsyncIterator[AuditStub]:
    async with cell.audit() as connected:
        yield connected


async def listed(
    stub: AuditStub, metadata: Metadata, parent: str = "tenants/org_1", *, size: int = 0, token: str = ""
) -> audit_pb2.ListAuditEntriesResponse:
    request = audit_pb2.ListAuditEntriesRequest(parent=parent, page_size=size, page_token=token)
    return await stub.ListAuditEntries(request, metadata=metadata)


async def code_of(stub: AuditStub, metadata: Metadata, parent: str = "tenants/org_1", *, token: str = "") -> str:
    try:
        await listed(stub, metadata, parent, token=token)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return ""


async def test_entries_are_listed_newest_first_a_page_at_a_time(
    cell: Cell, stub: AuditStub, placement: Placement, admin: Metadata
) -> None:
    issued = [(await cell.issue(placement, admin, subject=f"user {n}")).metadata.name for n in range(5)]
    await cell.sealer.seal(placement)
    issued.append((await cell.issue(placement, admin, subject="user 5")).metadata.name)
    found: list[audit_pb2.AuditEntry] = []
    page = await listed(stub, admin, size=4)
    found += page.audit_entries
    while page.next_page_token:
        page = await listed(stub, admin, size=4, token=page.next_page_token)
        found += page.audit_entries

    assert [entry.resource for entry in found] == issued[::-1]
    assert [entry.sequence for entry in found] == [0, 5, 4, 3, 2, 1]
    assert [len(entry.hash) for entry in found] == [0, 32, 32, 32, 32, 32]
    assert {(entry.actor, entry.outcome, entry.count) for entry in found} == {
        ("tenant-admin:admin", audit_pb2.AuditEntry.EFFECT, 1)
    }
    assert dict(found[0].details)["subject"] == "user 5"
    assert all(entry.name.startswith("tenants/org_1/auditEntries/") for entry in found)


async def test_a_log_is_verified_by_those_who_may_read_it(
    cell: Cell, stub: AuditStub, placement: Placement, admin: Metadata
) -> None:
    await cell.issue(placement, admin)
    await cell.issue(placement, admin)
    await cell.sealer.seal(placement)
    await cell.issue(placement, admin)
    found = await stub.VerifyAuditLog(audit_pb2.VerifyAuditLogRequest(parent="tenants/org_1"), metadata=admin)
    newest = (await listed(stub, admin)).audit_entries[1]

    assert (found.sealed_entries, found.unsealed_entries, found.first_broken_sequence) == (2, 1, 0)
    assert found.head == newest.hash


@pytest.mark.behaviour("T-L5")
async def test_an_auditor_reads_its_own_tenants_log_and_no_other(
    cell: Cell, stub: AuditStub, placement: Placement, admin: Metadata
) -> None:
    other = await cell.tenant("org_2")
    await cell.issue(other, bearer(await cell.token(other)), subject="secret of org_2")
    await cell.issue(placement, admin)
    auditor = bearer(await cell.token(placement, Role.AUDITOR, subject="audrey", scopes=SCOPE))
    own = await listed(stub, auditor)

    assert len(own.audit_entries) == 1
    assert "org_2" not in str(own)
    assert await code_of(stub, auditor, "tenants/org_2") == "PERMISSION_DENIED"
    assert await code_of(stub, auditor, "tenants/org_9") == "PERMISSION_DENIED"


@pytest.mark.behaviour("T-L5")
async def test_what_the_platform_does_to_a_tenant_is_in_the_tenants_log(
    cell: Cell, stub: AuditStub, placement: Placement, admin: Metadata
) -> None:
    await cell.issue(placement, bearer(cell.admin_token()), subject="planted")
    (entry,) = (await listed(stub, admin)).audit_entries

    assert (entry.actor, dict(entry.details)["subject"]) == ("platform-admin:root", "planted")


async def test_who_lacks_role_or_scope_reads_nothing(cell: Cell, stub: AuditStub, placement: Placement) -> None:
    member = bearer(await cell.token(placement, Role.TENANT_MEMBER, scopes=SCOPE))
    without_scope = bearer(await cell.token(placement, Role.AUDITOR))

    assert await code_of(stub, member) == "PERMISSION_DENIED"
    assert await code_of(stub, without_scope) == "PERMISSION_DENIED"
    assert await code_of(stub, ()) == "UNAUTHENTICATED"


@pytest.mark.behaviour("T-A4")
async def test_a_page_token_is_good_for_its_own_list_only(
    cell: Cell, stub: AuditStub, placement: Placement, admin: Metadata
) -> None:
    other = await cell.tenant("org_2")
    theirs = bearer(await cell.token(other))
    for tenant, metadata in ((placement, admin), (other, theirs)):
        await cell.issue(tenant, metadata)
        await cell.issue(tenant, metadata)
    token = (await listed(stub, admin, size=1)).next_page_token
    async with cell.tokens() as tokens:
        request = tokens_pb2.ListTokensRequest(parent="tenants/org_1", page_size=1)
        token_of_tokens = (await tokens.ListTokens(request, metadata=admin)).next_page_token

    assert token != ""
    assert await code_of(stub, admin, token=token) == ""
    assert await code_of(stub, theirs, "tenants/org_2", token=token) == "INVALID_ARGUMENT"
    assert await code_of(stub, admin, token=token_of_tokens) == "INVALID_ARGUMENT"
    assert placement.uid.hex not in token


@pytest.mark.behaviour("T-A4")
async def test_a_page_token_with_any_bit_changed_is_refused(
    cell: Cell, stub: AuditStub, placement: Placement, admin: Metadata
) -> None:
    await cell.issue(placement, admin)
    await cell.issue(placement, admin)
    token = (await listed(stub, admin, size=1)).next_page_token
    rng = random.Random(6)
    codes = set()
    for _ in range(1000):
        changed = bytearray(token.encode())
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(7)
        codes.add(await code_of(stub, admin, token=changed.decode()))

    assert codes == {"INVALID_ARGUMENT"}


@pytest.mark.parametrize("parent", ["tenants/org_1/", "tenants/org_1/tokens/1", "tenants/org_1/auditEntries"])
async def test_a_parent_is_a_tenant_and_nothing_below_it(stub: AuditStub, admin: Metadata, parent: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await listed(stub, admin, parent)

    assert violations_of(refused.value).keys() == {"parent"}


async def test_a_negative_page_size_is_refused(stub: AuditStub, admin: Metadata) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await listed(stub, admin, size=-1)

    assert violations_of(refused.value).keys() == {"page_size"}


@pytest.mark.behaviour("S2.14")
async def test_a_verification_says_up_to_where_the_log_is_signed_and_by_which_key(
    cell: Cell, stub: AuditStub, placement: Placement, admin: Metadata
) -> None:
    request = audit_pb2.VerifyAuditLogRequest(parent="tenants/org_1")
    await cell.issue(placement, admin)
    await cell.sealer.seal(placement)
    unsigned = await stub.VerifyAuditLog(request, metadata=admin)
    await cell.notary.round()
    await cell.issue(placement, admin)
    await cell.sealer.seal(placement)
    found = await stub.VerifyAuditLog(request, metadata=admin)

    assert (unsigned.signed_entries, unsigned.key_version, unsigned.HasField("sign_time")) == (0, "", False)
    assert (found.sealed_entries, found.signed_entries) == (2, 1)
    assert found.key_version == "tenants/org_1/keys/audit/versions/1"
    assert found.HasField("sign_time")
    assert (found.first_broken_sequence, found.first_forged_checkpoint, found.first_forged_key_version) == (0, 0, "")


@pytest.mark.behaviour("S2.14")
async def test_a_verification_names_the_checkpoint_and_the_key_that_are_forged(
    cell: Cell, stub: AuditStub, placement: Placement, admin: Metadata, superuser: Superuser
) -> None:
    await cell.issue(placement, admin)
    await cell.sealer.seal(placement)
    await cell.notary.round()
    await superuser.execute("UPDATE csm_system.audit_keys SET platform_signature = own_signature")
    found = await stub.VerifyAuditLog(audit_pb2.VerifyAuditLogRequest(parent="tenants/org_1"), metadata=admin)

    assert found.first_forged_key_version == "tenants/org_1/keys/audit/versions/1"
    assert (found.signed_entries, found.first_forged_checkpoint, found.first_broken_sequence) == (0, 1, 0)


async def test_a_key_that_is_published_while_a_log_is_verified_is_looked_up_again(
    cell: Cell, stub: AuditStub, placement: Placement, admin: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoints would else look like somebody else's."""
    await cell.issue(placement, admin)
    await cell.sealer.seal(placement)
    await cell.notary.round()
    answers = [LogKeys(tenant_uid=placement.uid)]
    log_keys = cell.publication.log_keys

    async def late(tenant: Placement) -> LogKeys:
        return answers.pop() if answers else await log_keys(tenant)

    monkeypatch.setattr(cell.publication, "log_keys", late)
    found = await stub.VerifyAuditLog(audit_pb2.VerifyAuditLogRequest(parent="tenants/org_1"), metadata=admin)

    assert (found.signed_entries, found.first_forged_checkpoint) == (1, 0)


@pytest.mark.behaviour("S2.14")
async def test_a_log_is_exported_as_it_is_hashed_a_part_at_a_time(
    cell: Cell, stub: AuditStub, placement: Placement, admin: Metadata
) -> None:
    for _ in range(2):
        for _ in range(3):
            await cell.issue(placement, admin)
        await cell.sealer.seal(placement)
        await cell.notary.round()
    await cell.issue(placement, admin)
    parts: list[audit_pb2.ExportAuditLogResponse] = []
    while not parts or parts[-1].last_sequence:
        after = parts[-1].last_sequence if parts else 0
        request = audit_pb2.ExportAuditLogRequest(parent="tenants/org_1", after_sequence=after, page_size=4)
        parts.append(await stub.ExportAuditLog(request, metadata=admin))
    entries = [entry for part in parts for entry in part.sealed_entries]
    head = first_head(placement.uid)
    for number, entry in enumerate(entries, start=1):
        head = link(head, entry.canonical)
        assert (entry.sequence, entry.hash) == (number, head)

    assert [[entry.sequence for entry in part.sealed_entries] for part in parts] == [[1, 2, 3, 4], [5, 6]]
    assert [[signed.sequence for signed in part.checkpoints] for part in parts] == [[3], [6]]
    assert Checkpoint.read(parts[-1].checkpoints[0].payload).head == head


async def test_an_export_shows_what_is_missing(
    cell: Cell, stub: AuditStub, placement: Placement, admin: Metadata, superuser: Superuser
) -> None:
    for _ in range(3):
        await cell.issue(placement, admin)
    await cell.sealer.seal(placement)
    await cell.notary.round()
    await superuser.execute("ALTER TABLE tenant_org_1.audit_entries DISABLE TRIGGER refuse_change")
    await superuser.execute("ALTER TABLE tenant_org_1.audit_seals DISABLE TRIGGER refuse_change")
    await superuser.execute(
        "DELETE FROM tenant_org_1.audit_entries USING tenant_org_1.audit_seals WHERE id = entry_id AND sequence = 2"
    )
    await superuser.execute("DELETE FROM tenant_org_1.audit_seals WHERE sequence = 3")
    part = await stub.ExportAuditLog(audit_pb2.ExportAuditLogRequest(parent="tenants/org_1"), metadata=admin)

    assert [bool(entry.canonical) for entry in part.sealed_entries] == [True, False]
    assert [signed.sequence for signed in part.checkpoints] == [3]


async def test_an_export_begins_nowhere_below_the_first_entry(stub: AuditStub, admin: Metadata) -> None:
    for wrong in ({"after_sequence": -1}, {"page_size": -1}):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.ExportAuditLog(audit_pb2.ExportAuditLogRequest(parent="tenants/org_1", **wrong), metadata=admin)
        assert violations_of(raised.value).keys() == wrong.keys()


@pytest.mark.behaviour("S2.14")
async def test_the_keys_of_a_log_stay_listed_with_when_each_signed(
    cell: Cell, ring: Ring, stub: AuditStub, placement: Placement, admin: Metadata, superuser: Superuser
) -> None:
    request = audit_pb2.ListAuditKeysRequest(parent="tenants/org_1", page_size=2)
    before = await stub.ListAuditKeys(request, metadata=admin)
    for _ in range(2):
        await ring.rotated(placement, "audit")
    first = await stub.ListAuditKeys(request, metadata=admin)
    request.page_token = first.next_page_token
    second = await stub.ListAuditKeys(request, metadata=admin)
    keys = [*first.audit_keys, *second.audit_keys]
    signer = await cell.keys.audit_signer(placement)
    await superuser.execute("UPDATE csm_system.audit_keys SET payload = 'nothing' WHERE version = 1")
    (unreadable,) = (await stub.ListAuditKeys(request, metadata=admin)).audit_keys

    assert list(before.audit_keys) == []
    assert [key.key_version.rpartition("/")[2] for key in keys] == ["3", "2", "1"]
    assert [key.HasField("end_time") for key in keys] == [False, True, True]
    assert [len(key.signatures) for key in keys] == [3, 3, 2]
    assert keys[0].key_id == str(signer.key_id)
    assert load_pem_public_key(keys[0].public_key_pem.encode()) == signer.private_key.public_key()
    assert keys[1].end_time.ToDatetime() == keys[0].start_time.ToDatetime() + OVERLAP
    assert (unreadable.key_version, unreadable.payload) == ("", b"nothing")


@pytest.mark.behaviour("S2.14")
async def test_of_a_sealed_tenant_the_log_is_exported_and_its_keys_are_listed(
    cell: Cell, stub: AuditStub, placement: Placement, admin: Metadata, superuser: Superuser
) -> None:
    await cell.issue(placement, admin)
    await cell.sealer.seal(placement)
    await cell.notary.round()
    await superuser.execute("UPDATE csm_system.tenants SET state = 'SEALED'")
    cell.directory.forget(placement.tenant_id)
    root = bearer(cell.admin_token())
    part = await stub.ExportAuditLog(audit_pb2.ExportAuditLogRequest(parent="tenants/org_1"), metadata=root)
    keys = await stub.ListAuditKeys(audit_pb2.ListAuditKeysRequest(parent="tenants/org_1"), metadata=root)
    found = await stub.VerifyAuditLog(audit_pb2.VerifyAuditLogRequest(parent="tenants/org_1"), metadata=root)

    assert (len(part.sealed_entries), len(part.checkpoints), len(keys.audit_keys)) == (1, 1, 1)
    assert (found.signed_entries, found.first_broken_sequence) == (1, 0)
