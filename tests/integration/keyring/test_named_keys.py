"""Keys that tenants make themselves: made once, listed, rotated, wrapped like all, and nobody else's."""

import asyncio
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

import pytest
from cryptography.exceptions import UnsupportedAlgorithm

from bulkhead.v1 import key_requests_pb2, keys_pb2
from control_plane.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    PreconditionError,
    QuotaExceededError,
    TenantSealedError,
)
from control_plane.keyring import named_keys
from control_plane.keys import store as keys_store
from control_plane.keys.algorithms import KeyAlgorithm
from control_plane.keys.model import BUILT_IN_IDS, IntegrityError, MissingKeyError
from control_plane.keys.named.rsa_pool import RsaPool
from control_plane.operations.model import OperationState
from control_plane.postgres.placement import Placement
from tests.fixtures.keyring import Ring

CONTEXT: Any = None
FAST: Final = ("EC_P256", "EC_P384", "ED25519", "ML_DSA_44", "ML_DSA_65", "ML_DSA_87")


async def listed(ring: Ring, tenant: Placement, **paging: Any) -> keys_pb2.ListKeysResponse:
    request = key_requests_pb2.ListKeysRequest(parent=f"tenants/{tenant.tenant_id}", **paging)
    return await ring.calling(tenant, "ListKeys").ListKeys(request, CONTEXT)


async def names(ring: Ring, tenant: Placement) -> list[str]:
    return [key.name.rsplit("/", 1)[1] for key in (await listed(ring, tenant)).keys]


async def wanted(ring: Ring, tenant: Placement, **policy: Any) -> None:
    """Have the tenant want other algorithms."""
    for column, value in policy.items():
        await ring.cell.database.system().run(
            lambda tx, column=column, value=value: tx.execute(  # type: ignore[misc]  # bound at once
                f"UPDATE csm_system.tenants SET {column} = %(value)s WHERE uid = %(uid)s",
                {"value": value, "uid": tenant.uid},
            )
        )


async def test_a_key_is_made_with_a_version_and_is_listed_after_those_that_every_tenant_has(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    made = await ring.create(tenant, "zeta", "SIGNING", "ED25519")
    await ring.create(tenant, "invoices", "ENCRYPTION")
    first = await listed(ring, tenant, page_size=7)
    rest = await listed(ring, tenant, page_size=7, page_token=first.next_page_token)
    found = [key.name.rsplit("/", 1)[1] for key in (*first.keys, *rest.keys)]
    (version,) = await ring.versions(tenant, "zeta")
    logged = await ring.log(tenant)

    assert found == [*BUILT_IN_IDS, "invoices", "zeta"]
    assert (made.purpose, made.algorithm, made.primary_version) == (keys_pb2.SIGNING, "ED25519", 1)
    assert made.lifecycle.origin == key_requests_pb2.KeyLifecycle.GENERATED
    assert made.lifecycle.state == key_requests_pb2.KeyLifecycle.ENABLED
    assert await ring.key(tenant, "zeta") == made
    assert version.public_pem.startswith("-----BEGIN PUBLIC KEY-----")
    assert (await ring.key(tenant, "invoices")).algorithm == "AES-256-GCM"
    assert not (await ring.key(tenant, "storage")).HasField("lifecycle")
    assert logged[0] == ("tenants/org_1/keys/zeta", {"purpose": "signing", "algorithm": "ED25519"})


async def test_the_same_request_makes_one_key_and_a_name_is_given_once(ring: Ring) -> None:
    tenant, request_id = await ring.cell.tenant(), str(uuid4())
    made = [await ring.create(tenant, "invoices", "ENCRYPTION", request_id=request_id) for _ in range(2)]
    with pytest.raises(AlreadyExistsError) as reused:
        await ring.create(tenant, "others", "ENCRYPTION", request_id=request_id)
    with pytest.raises(AlreadyExistsError) as taken:
        await ring.create(tenant, "invoices", "ENCRYPTION", request_id=str(uuid4()))

    assert made[0] == made[1]
    assert (reused.value.code, taken.value.code) == ("REQUEST_ID_REUSED", "ALREADY_EXISTS")
    assert len(await ring.log(tenant)) == 1


async def test_of_the_same_request_at_once_one_makes_the_key(ring: Ring) -> None:
    tenant, request_id = await ring.cell.tenant(), str(uuid4())
    made = await asyncio.gather(
        *(ring.create(tenant, "invoices", "ENCRYPTION", request_id=request_id) for _ in range(5))
    )

    assert len({key.etag for key in made}) == 1
    assert len(await ring.versions(tenant, "invoices")) == 1


@pytest.mark.parametrize("key_id", ["kek", "storage", "tokens", "services", "authority", "enrolment", "audit"])
async def test_no_key_is_called_what_every_tenants_are_called(key_id: str, ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    with pytest.raises(InvalidArgumentError, match="every tenant"):
        await ring.create(tenant, key_id, "ENCRYPTION")

    assert await names(ring, tenant) == list(BUILT_IN_IDS)


async def test_the_calls_of_a_keys_life_answer_with_the_key(ring: Ring) -> None:
    tenant, name = await ring.cell.tenant(), "tenants/org_1/keys/invoices"
    asked = keys_pb2.CreateKeyRequest(
        parent="tenants/org_1", key_id="invoices", key=keys_pb2.Key(purpose=keys_pb2.ENCRYPTION)
    )
    made = await ring.calling(tenant, "CreateKey").CreateKey(asked, CONTEXT)
    waiting = await ring.calling(tenant, "ScheduleKeyDestruction").ScheduleKeyDestruction(
        key_requests_pb2.ScheduleKeyDestructionRequest(name=name), CONTEXT
    )
    back = await ring.calling(tenant, "RestoreKey").RestoreKey(key_requests_pb2.RestoreKeyRequest(name=name), CONTEXT)

    assert {each.name for each in (made, waiting, back)} == {name}
    assert made == back


async def test_everything_that_is_wrong_with_a_key_is_said_at_once(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    with pytest.raises(InvalidArgumentError) as refused:
        await ring.create(tenant, "Not a/name", "SIGNING", "RSA_2048", request_id="none")
    with pytest.raises(InvalidArgumentError) as purpose:
        await ring.create(tenant, "fine", "STORAGE")

    assert {each.field for each in refused.value.violations} == {"key_id", "key.algorithm", "request_id"}
    assert [each.field for each in purpose.value.violations] == ["key.purpose"]


async def test_a_tenant_has_so_many_keys_and_a_check_makes_none(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named_keys, "MOST_KEYS", 2)
    tenant = await ring.cell.tenant()
    await ring.create(tenant, "first", "ENCRYPTION")
    await ring.create(tenant, "second", "ENCRYPTION", validate_only=True)
    await ring.create(tenant, "second", "ENCRYPTION")
    with pytest.raises(QuotaExceededError) as refused:
        await ring.create(tenant, "third", "ENCRYPTION")
    await ring.create(await ring.cell.tenant("org_2"), "third", "ENCRYPTION")

    assert refused.value.code == "KEY_LIMIT_REACHED"
    assert (await names(ring, tenant))[len(BUILT_IN_IDS) :] == ["first", "second"]


@pytest.mark.behaviour("S2.8")
@pytest.mark.parametrize(
    ("policy", "refused", "made"),
    [
        ({"post_quantum": "OFF"}, {"ML_DSA_44", "ML_DSA_65", "ML_DSA_87"}, {"EC_P256", "EC_P384", "ED25519"}),
        ({"post_quantum": "REQUIRED"}, {"EC_P256", "EC_P384", "ED25519"}, {"ML_DSA_44", "ML_DSA_65", "ML_DSA_87"}),
        ({"post_quantum": "HYBRID", "key_algorithms": ["ED25519", "ML_DSA_65"]}, {*FAST} - {"ED25519", "ML_DSA_65"}, {
            "ED25519", "ML_DSA_65"}),
    ],
)  # fmt: skip
async def test_what_the_tenant_rules_out_is_refused_and_not_made(
    policy: dict[str, Any], refused: set[str], made: set[str], ring: Ring
) -> None:
    tenant = await ring.cell.tenant()
    await wanted(ring, tenant, **policy)
    for algorithm in sorted(refused):
        with pytest.raises(PreconditionError) as error:
            await ring.create(tenant, algorithm.lower(), "SIGNING", algorithm)
        assert error.value.code == "KEY_POLICY"
    for algorithm in sorted(made):
        await ring.create(tenant, algorithm.lower(), "SIGNING", algorithm)

    assert set((await names(ring, tenant))[len(BUILT_IN_IDS) :]) == {each.lower() for each in made}


@pytest.mark.behaviour("S2.8")
async def test_what_cannot_be_made_here_is_refused_and_nothing_weaker_made(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    await wanted(ring, tenant, post_quantum="REQUIRED")

    def unavailable(algorithm: KeyAlgorithm) -> Any:
        raise UnsupportedAlgorithm(f"{algorithm} is not supported")

    ring.servicer._making = named_keys.Making(wrapping=ring.servicer._making.wrapping, pool=RsaPool(make=unavailable))
    with pytest.raises(PreconditionError) as refused:
        await ring.create(tenant, "signer", "SIGNING", "ML_DSA_65")

    assert refused.value.code == "ALGORITHM_UNAVAILABLE"
    assert await names(ring, tenant) == list(BUILT_IN_IDS)


async def test_a_policy_that_has_changed_is_asked_again_before_a_rotation(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    await ring.create(tenant, "signer", "SIGNING", "ED25519")
    await wanted(ring, tenant, post_quantum="REQUIRED")
    with pytest.raises(PreconditionError) as refused:
        await ring.rotate(tenant, "signer")

    assert refused.value.code == "KEY_POLICY"


@pytest.mark.behaviour("S2.5")
async def test_a_key_is_rotated_and_what_older_versions_sealed_still_opens(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    await ring.create(tenant, "invoices", "ENCRYPTION")
    first = await ring.cell.keys.named_key(tenant, "invoices")
    operation = await ring.rotated(tenant, "invoices")
    second = await ring.cell.keys.named_key(tenant, "invoices")
    old = await ring.other_process().named_key(tenant, "invoices", version=1)
    metadata = ring.plans["keys.rotate.named."].metadata(operation)

    assert (first.version, second.version) == (1, 2)
    assert first.private != second.private
    assert old.private == first.private
    assert metadata.key == "tenants/org_1/keys/invoices"
    assert (await ring.key(tenant, "invoices")).primary_version == 2
    assert ("tenants/org_1/keys/invoices/versions/2", {"state": "ENABLED"}) in await ring.log(tenant)


@pytest.mark.behaviour("S2.6")
async def test_a_rotation_of_the_kek_wraps_them_anew_with_all_others(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    await ring.create(tenant, "invoices", "ENCRYPTION")
    await ring.create(tenant, "signer", "SIGNING", "EC_P256")
    await ring.rotated(tenant, "invoices")
    before = {key: (await ring.cell.keys.named_key(tenant, key)).private for key in ("invoices", "signer")}
    await ring.rotated(tenant, "kek")
    other = ring.other_process()
    after = {key: (await other.named_key(tenant, key)).private for key in before}
    rows = await ring.cell.database.system().run(lambda tx: keys_store.all_of(tx, tenant.uid))

    assert after == before
    assert {row.kek_version for row in rows} == {2}
    assert {row.key_id for row in rows} == {*BUILT_IN_IDS, "invoices", "signer"} - {"kek"}


@pytest.mark.behaviour("S2.7")
async def test_a_wrapped_key_does_not_open_under_another_name(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    await ring.create(tenant, "mine", "ENCRYPTION")
    await ring.create(tenant, "yours", "ENCRYPTION")
    # Everything else stays as it was: only the name is another.
    await ring.cell.database.system().run(
        lambda tx: tx.execute(
            """
            WITH gone AS (DELETE FROM csm_system.tenant_keys WHERE tenant_uid = %(uid)s AND key_id = 'yours')
            UPDATE csm_system.tenant_keys SET key_id = 'ours' WHERE tenant_uid = %(uid)s AND key_id = 'mine'
            """,
            {"uid": tenant.uid},
        )
    )
    await ring.cell.database.system().run(
        lambda tx: tx.execute("UPDATE csm_system.tenant_keys SET key_id = 'yours' WHERE key_id = 'ours'")
    )
    with pytest.raises(IntegrityError):
        await ring.other_process().named_key(tenant, "yours")


@pytest.mark.behaviour("S2.19")
async def test_a_key_of_another_tenant_is_as_absent_as_one_that_never_was(ring: Ring) -> None:
    tenant, other = await ring.cell.tenant(), await ring.cell.tenant("org_2")
    await ring.create(other, "theirs", "ENCRYPTION")
    said = []
    for key_id in ("theirs", "nobodys"):
        for call in (ring.key, ring.versions, ring.rotate, ring.schedule, ring.restore):
            with pytest.raises(NotFoundError) as absent:
                await call(tenant, key_id)
            said.append(str(absent.value).replace(key_id, "KEY"))
        with pytest.raises(MissingKeyError):
            await ring.cell.keys.named_key(tenant, key_id)

    assert said[:5] == said[5:]


async def test_of_a_sealed_tenant_no_key_is_made(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    await ring.create(tenant, "invoices", "ENCRYPTION")
    await wanted(ring, tenant, state="SEALED")
    with pytest.raises(TenantSealedError):
        await ring.create(tenant, "others", "ENCRYPTION")
    with pytest.raises(TenantSealedError):
        await ring.other_process().named_key(tenant, "invoices")


async def test_keys_that_are_made_while_the_kek_is_replaced_are_all_there_afterwards(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    begun = await ring.rotate(tenant, "kek")

    async def make(number: int) -> str:
        await asyncio.sleep(number / 100)
        try:
            await ring.create(tenant, f"key-{number}", "ENCRYPTION")
        except ConflictError:
            return ""
        return f"key-{number}"

    made, _ = await asyncio.gather(asyncio.gather(*(make(number) for number in range(10))), ring.runner.run(begun.id))
    other = ring.other_process()

    assert (await ring.operation(begun.id)).state is OperationState.SUCCEEDED
    for key_id in filter(None, made):
        assert (await other.named_key(tenant, key_id)).version == 1
    rows = await ring.cell.database.system().run(lambda tx: keys_store.all_of(tx, tenant.uid))
    assert {row.kek_version for row in rows} == {2}


async def test_destroying_a_tenants_keys_destroys_its_own_too(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    await ring.create(tenant, "invoices", "ENCRYPTION")
    await ring.cell.keys.destroy(tenant)
    await ring.cell.keys.create(tenant, now=datetime.now(UTC), display_name="org_1")

    assert await names(ring, tenant) == list(BUILT_IN_IDS)
    assert await ring.cell.keys.named(tenant, "invoices") is None
