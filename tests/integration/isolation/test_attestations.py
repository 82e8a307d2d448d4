"""What a verification finds is kept under a signature that anybody can check, and a tenant in danger is read-only."""

import json
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from psycopg import sql

from bulkhead.v1 import isolation_pb2
from control_plane.canary import BreachError
from control_plane.isolation.service import as_it_is
from control_plane.keys.platform import PlatformKeys
from control_plane.keys.vault_software import SoftwareVault
from control_plane.postgres.placement import Placement
from control_plane.serving.principal import Role
from tests.fixtures.canaries import RawConnection, rows_of
from tests.fixtures.cell import bearer
from tests.integration.isolation.conftest import Tower, begin_tenant, outcomes


async def take_a_wall_down(superuser: RawConnection, placement: Placement) -> None:
    await superuser.execute(sql.SQL("GRANT SELECT ON {}.users TO PUBLIC").format(sql.Identifier(placement.schema)))


async def state(superuser: RawConnection, tenant_id: str) -> str:
    (row,) = await rows_of(
        superuser, sql.SQL("SELECT state FROM csm_system.tenants WHERE id = {}").format(sql.Literal(tenant_id))
    )
    return str(row["state"])


async def key_of(tower: Tower, key_id: str) -> Ed25519PublicKey:
    answer = await tower.stub.ListAttestationKeys(
        isolation_pb2.ListAttestationKeysRequest(), metadata=bearer(tower.cell.admin_token())
    )
    (key,) = [key for key in answer.attestation_keys if key.key_id == key_id]
    public = load_pem_public_key(key.public_key_pem.encode())
    assert isinstance(public, Ed25519PublicKey)
    return public


def encoded(attestation: isolation_pb2.Attestation, payload: bytes) -> bytes:
    """Encode as DSSE's specification says it, without a word of ours."""
    kind = attestation.payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


@pytest.mark.behaviour("S1.18")
async def test_an_attestation_is_checked_without_us(tower: Tower) -> None:
    ours = await tower.cell.tenant()
    attestation = await tower.verify(ours)
    key = await key_of(tower, attestation.key_id)
    key.verify(attestation.signature, encoded(attestation, attestation.payload))
    payload = json.loads(attestation.payload)

    assert payload["tenant_uid"] == str(ours.uid)
    assert payload["tenant"] == ours.tenant_id
    assert payload["passed"] is True
    assert payload["hsm_backed"] is attestation.hsm_backed is False
    assert attestation.name == f"tenants/org_1/attestations/{payload['attestation']}"
    assert [probe["name"] for probe in payload["probes"]] == [probe.name for probe in attestation.probes]
    assert rfc8785.dumps(payload) == attestation.payload


async def test_an_attestation_that_was_changed_does_not_hold(tower: Tower) -> None:
    attestation = await tower.verify(await tower.cell.tenant())
    key = await key_of(tower, attestation.key_id)
    changed = attestation.payload.replace(b'"passed":true', b'"passed":null')

    for payload in (changed, attestation.payload + b" "):
        with pytest.raises(InvalidSignature):
            key.verify(attestation.signature, encoded(attestation, payload))
    with pytest.raises(InvalidSignature):
        key.verify(attestation.signature, attestation.payload)


async def _entries(superuser: RawConnection, placement: Placement) -> list[dict[str, Any]]:
    query = sql.SQL("SELECT actor, method, details FROM {}.audit_entries").format(sql.Identifier(placement.schema))
    return await rows_of(superuser, query)


@pytest.mark.behaviour("S1.18")
async def test_a_tenant_whose_wall_is_down_becomes_read_only_and_its_log_says_why(
    tower: Tower, superuser: RawConnection
) -> None:
    ours, theirs = [await tower.cell.tenant(name) for name in ("org_1", "org_2")]
    await take_a_wall_down(superuser, ours)
    for placement in (ours, theirs):
        await tower.verify(placement)
    (entry,) = await _entries(superuser, ours)

    assert await state(superuser, "org_1") == "READ_ONLY"
    assert await state(superuser, "org_2") == "ACTIVE"
    assert entry["actor"] == "platform:isolation"
    assert entry["details"]["state"] == "READ_ONLY"


async def test_no_denial_is_left_in_a_suspended_tenants_log(tower: Tower, superuser: RawConnection) -> None:
    ours = await tower.cell.tenant()
    await superuser.execute("UPDATE csm_system.tenants SET state = 'SUSPENDED'")
    tower.cell.directory.forget(ours.tenant_id)
    attestation = await tower.verify(ours)
    await tower.cell.denials.close()

    assert outcomes(attestation) == {}
    assert await _entries(superuser, ours) == []


async def test_a_suspended_tenant_stays_suspended(tower: Tower, superuser: RawConnection) -> None:
    ours = await tower.cell.tenant()
    await superuser.execute("UPDATE csm_system.tenants SET state = 'SUSPENDED'")
    await take_a_wall_down(superuser, ours)
    attestation = await tower.verify(ours)

    assert outcomes(attestation)["database.tables"] == "FAILED"
    assert await state(superuser, "org_1") == "SUSPENDED"


async def test_what_is_only_to_be_told_changes_no_tenant(
    tower: Tower, superuser: RawConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = await tower.cell.tenant()
    await take_a_wall_down(superuser, ours)
    monkeypatch.setattr(tower.verifier, "_restrict", as_it_is)
    attestation = await tower.verify(ours)

    assert not attestation.passed
    assert await state(superuser, "org_1") == "ACTIVE"


async def test_what_is_unknown_changes_no_tenant(tower: Tower, superuser: RawConnection) -> None:
    ours = await tower.cell.tenant()
    await tower.certificates.stop(None)
    attestation = await tower.verify(ours)

    assert not attestation.passed
    assert await state(superuser, "org_1") == "ACTIVE"


async def test_two_processes_that_begin_at_once_sign_with_one_key(tower: Tower, vault: SoftwareVault) -> None:
    others = [PlatformKeys(vault, tower.cell.database) for _ in range(2)]
    signers = [await keys.attestation_signer() for keys in (*others, tower.keys)]

    assert len({signer.key_id for signer in signers}) == 1
    assert len(await tower.keys.attestation_keys()) == 1


@pytest.mark.parametrize("change", ["wrapped = wrapped || '\\x00'", "id = uuidv7()"])
async def test_a_key_that_was_put_in_the_place_of_the_platforms_signs_nothing(
    change: str, tower: Tower, vault: SoftwareVault, superuser: RawConnection
) -> None:
    await tower.keys.attestation_signer()
    await superuser.execute(f"UPDATE csm_system.platform_keys SET {change}".encode())

    with pytest.raises(Exception, match="does not open"):
        await PlatformKeys(vault, tower.cell.database).attestation_signer()


class TestOverGrpc:
    """What callers see of it."""

    async def test_a_tenants_administrator_has_it_verified_and_finds_it_again(self, tower: Tower) -> None:
        ours, theirs = [await tower.cell.tenant(name) for name in ("org_1", "org_2")]
        admin = bearer(await tower.cell.token(ours))
        made = [
            await tower.stub.VerifyIsolation(isolation_pb2.VerifyIsolationRequest(name="tenants/org_1"), metadata=admin)
            for _ in range(3)
        ]
        listed: list[isolation_pb2.Attestation] = []
        token = ""
        for _ in range(2):
            page = await tower.stub.ListAttestations(
                isolation_pb2.ListAttestationsRequest(parent="tenants/org_1", page_size=2, page_token=token),
                metadata=admin,
            )
            listed += page.attestations
            token = page.next_page_token
        got = await tower.stub.GetAttestation(isolation_pb2.GetAttestationRequest(name=made[0].name), metadata=admin)

        assert listed == made[::-1]
        assert token == ""
        assert got == made[0]
        assert theirs.tenant_id not in str(made)

    @pytest.mark.parametrize("whose", ["another tenant's", "nobody's", "no uuid"])
    async def test_an_attestation_of_somebody_else_is_not_found(self, whose: str, tower: Tower) -> None:
        ours, theirs = [await tower.cell.tenant(name) for name in ("org_1", "org_2")]
        foreign = (await tower.verify(theirs)).name.rpartition("/")[2]
        name = {"another tenant's": foreign, "nobody's": str(uuid4()), "no uuid": "x"}[whose]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await tower.stub.GetAttestation(
                isolation_pb2.GetAttestationRequest(name=f"tenants/org_1/attestations/{name}"),
                metadata=bearer(await tower.cell.token(ours)),
            )

        assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    async def test_a_verification_is_in_the_tenants_audit_log(self, tower: Tower, superuser: RawConnection) -> None:
        ours = await tower.cell.tenant()
        made = await tower.stub.VerifyIsolation(
            isolation_pb2.VerifyIsolationRequest(name="tenants/org_1"), metadata=bearer(await tower.cell.token(ours))
        )
        (entry,) = await rows_of(
            superuser,
            sql.SQL("SELECT actor, resource, details FROM {}.audit_entries").format(sql.Identifier(ours.schema)),
        )

        assert entry == {
            "actor": "tenant-admin:alice",
            "resource": made.name,
            "details": {"passed": True, "failed": ""},
        }

    async def test_a_tenant_that_is_being_made_cannot_be_verified(self, tower: Tower, superuser: RawConnection) -> None:
        await begin_tenant(superuser, "org_1")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await tower.stub.VerifyIsolation(
                isolation_pb2.VerifyIsolationRequest(name="tenants/org_1"), metadata=bearer(tower.cell.admin_token())
            )

        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION

    @pytest.mark.parametrize(
        ("name", "code"),
        [
            ("cells/local", None),
            ("cells/other", grpc.StatusCode.NOT_FOUND),
            ("", grpc.StatusCode.INVALID_ARGUMENT),
            ("tenants/local", grpc.StatusCode.INVALID_ARGUMENT),
        ],
    )
    async def test_a_cell_is_verified_by_its_name(self, name: str, code: grpc.StatusCode | None, tower: Tower) -> None:
        call = tower.stub.VerifyCell(
            isolation_pb2.VerifyCellRequest(cell=name), metadata=bearer(tower.cell.admin_token())
        )
        if code is not None:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is code
            return
        attestation = await call

        assert attestation.passed, attestation
        assert attestation.name.startswith("cells/local/attestations/")
        assert json.loads(attestation.payload)["tenant"] is None

    async def test_breaches_are_told_to_the_platforms_administrators(self, tower: Tower) -> None:
        ours = await tower.cell.tenant()
        gone = UUID(int=7)
        for owner, finder in ((ours.uid, gone), (gone, None)):
            error = BreachError(owner, finder_uid=finder, channel="row")
            tower.cell.breaches.note(error, method="a test", request_id="r")
            tower.cell.breaches.note(error, method="a test", request_id="s")
        await tower.cell.breaches.flush()
        answer = await tower.stub.ListBreaches(
            isolation_pb2.ListBreachesRequest(), metadata=bearer(tower.cell.admin_token())
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await tower.stub.ListBreaches(
                isolation_pb2.ListBreachesRequest(),
                metadata=bearer(await tower.cell.token(ours, Role.TENANT_ADMIN)),
            )

        assert [(breach.owner, breach.finder, breach.count) for breach in answer.breaches] == [
            (f"uids/{gone}", "", 2),
            ("tenants/org_1", f"uids/{gone}", 2),
        ]
        assert {(breach.channel, breach.method, breach.request_id) for breach in answer.breaches} == {
            ("row", "a test", "r")
        }
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
