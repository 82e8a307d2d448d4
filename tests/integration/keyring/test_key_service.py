"""What KeyService tells of a tenant's keys, and how a rotation begins, or does not."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from bulkhead.v1 import key_requests_pb2, keys_pb2, receipts_pb2
from control_plane.errors import AlreadyExistsError, EtagMismatchError, NotFoundError, PreconditionError
from control_plane.keyring import service
from control_plane.keys.model import KekRef
from control_plane.operations.model import OperationState
from control_plane.postgres.placement import Placement
from tests.fixtures.keyring import Ring

CONTEXT: Any = None
State = keys_pb2.KeyVersion.State


async def _list(ring: Ring, tenant: Placement, **options: Any) -> keys_pb2.ListKeysResponse:
    request = key_requests_pb2.ListKeysRequest(parent=f"tenants/{tenant.tenant_id}", **options)
    return await ring.calling(tenant, "ListKeys").ListKeys(request, CONTEXT)


async def _receipts(ring: Ring, tenant: Placement) -> list[receipts_pb2.DestructionReceipt]:
    request = receipts_pb2.ListDestructionReceiptsRequest(parent=f"tenants/{tenant.tenant_id}")
    answer = await ring.calling(tenant, "ListDestructionReceipts").ListDestructionReceipts(request, CONTEXT)
    return list(answer.destruction_receipts)


async def test_a_tenant_has_a_kek_and_a_key_for_each_purpose_and_each_says_what_it_rests_on(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    keys = (await _list(ring, tenant)).keys

    assert [(key.name, key.algorithm, key.primary_version, key.version_count) for key in keys] == [
        ("tenants/org_1/keys/kek", "AES-256-GCM", 1, 1),
        ("tenants/org_1/keys/storage", "AES-256-GCM", 1, 1),
        ("tenants/org_1/keys/tokens", "Ed25519", 1, 1),
        ("tenants/org_1/keys/authority", "ECDSA-P256-SHA256", 1, 1),
        ("tenants/org_1/keys/services", "AES-256-GCM", 1, 1),
        ("tenants/org_1/keys/enrolment", "HMAC-SHA256", 1, 1),
        ("tenants/org_1/keys/audit", "Ed25519", 1, 1),
    ]
    assert {(key.root_of_trust.hsm_backed, key.root_of_trust.label) for key in keys} == {(False, "software")}
    requests = [key_requests_pb2.GetKeyRequest(name=key.name) for key in keys]
    assert [await ring.calling(tenant, "GetKey").GetKey(request, CONTEXT) for request in requests] == list(keys)


async def test_a_tenants_keys_are_its_own(ring: Ring) -> None:
    tenant, other = await ring.cell.tenant(), await ring.cell.tenant("org_2")
    for key in ("storage", "kek"):
        await ring.rotated(other, key)

    assert {(key.primary_version, key.version_count, key.rotation) for key in (await _list(ring, tenant)).keys} == {
        (1, 1, "")
    }
    ours, theirs = [await ring.versions(each, "tokens") for each in (tenant, other)]
    assert (len(ours), ours[0].kid != theirs[0].kid) == (1, True)


async def test_keys_come_in_pages(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    names: list[str] = []
    token = ""
    while not names or token:
        page = await _list(ring, tenant, page_size=2, page_token=token)
        names += [key.name.rsplit("/", 1)[1] for key in page.keys]
        token = page.next_page_token

    assert names == ["kek", "storage", "tokens", "authority", "services", "enrolment", "audit"]


async def test_a_public_half_is_shown_and_no_private_one(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    signer, authority = await ring.cell.keys.token_signer(tenant), (await ring.cell.keys.authorities(tenant)).signing
    audited = await ring.cell.keys.audit_signer(tenant)
    (tokens,) = await ring.versions(tenant, "tokens")
    (audit,) = await ring.versions(tenant, "audit")
    (certified,) = await ring.versions(tenant, "authority")
    (storage,) = await ring.versions(tenant, "storage")

    assert load_pem_public_key(tokens.public_pem.encode()) == signer.private_key.public_key()
    assert tokens.kid == str(signer.kid)
    assert load_pem_public_key(audit.public_pem.encode()) == audited.private_key.public_key()
    assert x509.load_pem_x509_certificate(certified.public_pem.encode()) == authority.certificate
    assert (storage.public_pem, storage.kid, certified.kid) == ("", "", "")


async def test_versions_come_in_pages_the_newest_first(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    for _ in range(2):
        await ring.rotated(tenant, "storage")
    parent, token = "tenants/org_1/keys/storage", ""
    found: list[tuple[str, bool]] = []
    while not found or token:
        request = key_requests_pb2.ListKeyVersionsRequest(parent=parent, page_size=2, page_token=token)
        page = await ring.calling(tenant, "ListKeyVersions").ListKeyVersions(request, CONTEXT)
        found += [(version.name, version.primary) for version in page.key_versions]
        token = page.next_page_token

    assert found == [(f"{parent}/versions/3", True), (f"{parent}/versions/2", False), (f"{parent}/versions/1", False)]


@pytest.mark.behaviour("S2.19")
@pytest.mark.parametrize("key", ["storage2", "STORAGE", "1", "kek "])
async def test_there_is_no_key_of_another_name(ring: Ring, key: str) -> None:
    tenant = await ring.cell.tenant()

    with pytest.raises(NotFoundError):
        await ring.key(tenant, key)
    with pytest.raises(NotFoundError):
        await ring.versions(tenant, key)
    with pytest.raises(NotFoundError):
        await ring.rotate(tenant, key)


async def test_a_repeated_request_gets_the_same_operation_and_another_one_with_its_id_is_refused(ring: Ring) -> None:
    tenant, request_id = await ring.cell.tenant(), str(uuid4())
    begun = await ring.rotate(tenant, "storage", request_id=request_id)
    again = await ring.rotate(tenant, "storage", request_id=request_id)
    await ring.runner.run(begun.id)
    later = await ring.rotate(tenant, "storage", request_id=request_id)

    assert begun.id == again.id == later.id
    assert ring.deferred == [begun.id]
    assert (await ring.key(tenant, "storage")).primary_version == 2
    with pytest.raises(AlreadyExistsError):
        await ring.rotate(tenant, "storage", request_id=request_id, etag="0" * 16)


async def test_a_rotation_of_a_key_that_was_changed_meanwhile_is_refused(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    seen = (await ring.key(tenant, "storage")).etag
    await ring.rotated(tenant, "storage")

    with pytest.raises(EtagMismatchError):
        await ring.rotate(tenant, "storage", etag=seen)
    await ring.rotate(tenant, "storage", etag=(await ring.key(tenant, "storage")).etag)


async def test_a_request_that_is_only_checked_changes_nothing(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    before = await ring.key(tenant, "kek")
    request = key_requests_pb2.RotateKeyRequest(name="tenants/org_1/keys/kek", validate_only=True)
    checked = await ring.calling(tenant, "RotateKey").RotateKey(request, CONTEXT)

    assert (checked.done, checked.name) == (True, "")
    assert await ring.key(tenant, "kek") == before
    assert await ring.log(tenant) == []
    request.etag = "0" * 16
    with pytest.raises(EtagMismatchError):
        await ring.calling(tenant, "RotateKey").RotateKey(request, CONTEXT)


async def test_one_key_of_a_tenant_is_rotated_at_a_time_and_others_tenants_are_in_nobodys_way(ring: Ring) -> None:
    tenant, other = await ring.cell.tenant(), await ring.cell.tenant("org_2")
    begun = await ring.rotate(tenant, "kek")
    for key in ("kek", "storage", "tokens"):
        with pytest.raises(PreconditionError) as refused:
            await ring.rotate(tenant, key)
        assert refused.value.code == "ROTATION_IN_PROGRESS"
        assert refused.value.metadata["operation"] == begun.name
    assert (await ring.key(tenant, "kek")).rotation == begun.name
    assert (await ring.key(tenant, "storage")).rotation == ""
    await ring.rotated(other, "kek")
    await ring.runner.run(begun.id)

    assert (await ring.key(tenant, "kek")).rotation == ""
    await ring.rotated(tenant, "storage")


async def test_of_many_that_ask_at_once_one_begins(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    answers = await asyncio.gather(*(ring.rotate(tenant, "storage") for _ in range(8)), return_exceptions=True)

    refused = [answer for answer in answers if isinstance(answer, PreconditionError)]
    assert (len(refused), {each.code for each in refused}) == (7, {"ROTATION_IN_PROGRESS"})
    assert len(ring.deferred) == 1


async def test_a_tenant_that_is_still_being_created_is_not_rotated(ring: Ring, superuser: Any) -> None:
    tenant = await ring.cell.tenant()
    await superuser.execute("ALTER TABLE csm_system.tenants DISABLE TRIGGER number_tenant")
    await superuser.execute("UPDATE csm_system.tenants SET state = 'PROVISIONING' WHERE uid = %s", [tenant.uid])

    with pytest.raises(PreconditionError) as refused:
        await ring.rotate(tenant, "kek")
    assert refused.value.code == "TENANT_NOT_READY"


async def test_what_asks_and_what_is_done_is_in_the_tenants_audit_log(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    done = [await ring.rotated(tenant, key) for key in ("storage", "tokens", "kek")]
    keys = "tenants/org_1/keys"

    assert await ring.log(tenant) == [
        (f"{keys}/storage", {"operation": done[0].name, "version": 2}),
        (f"{keys}/storage/versions/2", {"state": "ENABLED"}),
        (f"{keys}/storage/versions/1", {"state": "RETIRED"}),
        (f"{keys}/tokens", {"operation": done[1].name, "version": 2}),
        (f"{keys}/tokens/versions/2", {"state": "ENABLED"}),
        (f"{keys}/tokens/versions/2", {"signs": True}),
        (f"{keys}/kek", {"operation": done[2].name, "version": 2}),
        (f"{keys}/kek/versions/2", {"state": "ENABLED"}),
        (f"{keys}/kek/versions/2", {"wraps": 8}),
        (f"{keys}/kek/versions/1", {"state": "DESTROYED", "receipt": (await _receipts(ring, tenant))[0].name[-36:]}),
    ]


async def test_an_operation_shows_its_steps_and_ends_with_the_key(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    ended = await ring.rotated(tenant, "tokens")
    plan = ring.plans[f"{service.KIND}tokens"]
    shown = plan.metadata(ended)

    assert (shown.tenant, shown.key) == ("tenants/org_1", "tenants/org_1/keys/tokens")
    assert [(step.name, step.attempts) for step in shown.steps] == [("publication", 1), ("edges", 1), ("use", 1)]
    assert await plan.response(ended) == await ring.key(tenant, "tokens")
    await ring.cell.keys.destroy(tenant)
    assert await plan.response(ended) == keys_pb2.Key(name="tenants/org_1/keys/tokens")


async def test_a_rotation_that_is_given_up_leaves_no_key_behind_and_the_next_one_can_begin(
    ring: Ring, superuser: Any
) -> None:
    """A wrapped key was changed in the database: nothing is replaced, and the new KEK goes again."""
    tenant = await ring.cell.tenant()
    await superuser.execute("CREATE TABLE public.untouched AS SELECT * FROM csm_system.tenant_keys")
    await superuser.execute("UPDATE csm_system.tenant_keys SET wrapped = wrapped || 'x' WHERE purpose = 'storage'")
    begun = await ring.rotate(tenant, "kek")
    while not (await ring.operation(begun.id)).is_done:
        await asyncio.gather(ring.runner.run(begun.id), return_exceptions=True)

    assert (await ring.operation(begun.id)).state is OperationState.FAILED
    assert await ring.keks() == [KekRef(tenant_uid=tenant.uid, version=1)]
    assert [(version.state, version.primary) for version in await ring.versions(tenant, "kek")] == [
        (State.DESTROYED, False),
        (State.ENABLED, True),
    ]
    await superuser.execute(
        "UPDATE csm_system.tenant_keys AS k SET wrapped = u.wrapped FROM public.untouched AS u WHERE u.id = k.id"
    )
    await ring.rotated(tenant, "kek")
    assert await ring.keks() == [KekRef(tenant_uid=tenant.uid, version=3)]
