"""SecretService, over gRPC and on a real database: what there is of secrets, and who makes, changes and deletes it."""

import asyncio
from uuid import uuid4

import grpc
import psycopg
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from psycopg.rows import DictRow

from bulkhead.v1 import secret_versions_pb2 as versions_pb2
from bulkhead.v1 import secrets_pb2
from control_plane.postgres.placement import Placement
from control_plane.secrets import service
from control_plane.serving.principal import Role
from tests.fixtures.cell import Cell, Metadata, SecretStub, bearer, reason_of, violations_of

PARENT = "tenants/org_1"
NAME = f"{PARENT}/secrets/crm"
VERSION = versions_pb2.SecretVersion


def creation(called: str = "crm", *, payload: bytes = b"", request_id: str = "") -> secrets_pb2.CreateSecretRequest:
    return secrets_pb2.CreateSecretRequest(
        parent=PARENT,
        secret_id=called,
        secret=secrets_pb2.Secret(description="the CRM's key", labels={"team": "sales"}),
        payload=payload,
        request_id=request_id,
    )


def addition(payload: bytes = b"v", *, request_id: str = "") -> versions_pb2.AddSecretVersionRequest:
    return versions_pb2.AddSecretVersionRequest(parent=NAME, payload=payload, request_id=request_id)


async def entries(superuser: psycopg.AsyncConnection[DictRow]) -> list[tuple[str, str, str]]:
    """Read the tenant's audit log: who did what with what, in order."""
    found = await superuser.execute("SELECT * FROM tenant_org_1.audit_entries ORDER BY id")
    return [
        (row["actor"], row["method"].rpartition("/")[2], row["resource"].removeprefix(f"{PARENT}/"))
        for row in await found.fetchall()
    ]


async def test_a_secret_is_created_described_and_listed(
    stub: SecretStub, admin: Metadata, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    made = await stub.CreateSecret(creation(payload=b"one"), metadata=admin)
    bare = await stub.CreateSecret(creation("bare"), metadata=admin)
    got = await stub.GetSecret(secrets_pb2.GetSecretRequest(name=NAME), metadata=admin)
    first = await stub.ListSecrets(secrets_pb2.ListSecretsRequest(parent=PARENT, page_size=1), metadata=admin)
    second = await stub.ListSecrets(
        secrets_pb2.ListSecretsRequest(parent=PARENT, page_size=1, page_token=first.next_page_token), metadata=admin
    )

    assert got == made
    assert (made.name, made.description, dict(made.labels)) == (NAME, "the CRM's key", {"team": "sales"})
    assert (made.latest_version, bare.latest_version) == (1, 0)
    assert ([*first.secrets], [*second.secrets], second.next_page_token) == ([bare], [made], "")
    assert await entries(superuser) == [
        ("tenant-admin:admin", "CreateSecret", "secrets/crm"),
        ("tenant-admin:admin", "CreateSecret", "secrets/crm/versions/1"),
        ("tenant-admin:admin", "CreateSecret", "secrets/bare"),
    ]


async def test_all_that_is_wrong_with_a_creation_is_said_at_once_without_the_value(
    stub: SecretStub, admin: Metadata, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    request = creation("Not_An_Id", payload=b"hunter2!" * 8193, request_id="none")
    request.secret.description = "a\nb"
    request.secret.labels["UPPER"] = "x"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.CreateSecret(request, metadata=admin)

    assert violations_of(refused.value).keys() == {
        "secret_id",
        "secret.description",
        "secret.labels",
        "payload",
        "request_id",
    }
    assert "hunter2!" not in str(refused.value) + str(refused.value.trailing_metadata())
    assert await entries(superuser) == []


async def test_an_id_is_taken_once(stub: SecretStub, admin: Metadata) -> None:
    await stub.CreateSecret(creation(), metadata=admin)
    for validate_only in (True, False):
        request = creation()
        request.validate_only = validate_only
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.CreateSecret(request, metadata=admin)
        assert reason_of(refused.value) == "ALREADY_EXISTS"


@pytest.mark.behaviour("T-A6")
async def test_a_repeated_request_returns_what_the_first_one_made(
    stub: SecretStub, admin: Metadata, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    create = creation(payload=b"one", request_id=str(uuid4()))
    add = addition(b"two", request_id=str(uuid4()))
    made = await asyncio.gather(*(stub.CreateSecret(create, metadata=admin) for _ in range(4)))
    added = await asyncio.gather(*(stub.AddSecretVersion(add, metadata=admin) for _ in range(4)))

    assert {message.SerializeToString(deterministic=True) for message in made} == {
        made[0].SerializeToString(deterministic=True)
    }
    assert {version.name for version in added} == {f"{NAME}/versions/2"}
    assert len(await entries(superuser)) == 3


async def test_a_request_id_is_good_for_one_request_of_one_caller(
    cell: Cell, stub: SecretStub, admin: Metadata
) -> None:
    first, second = str(uuid4()), str(uuid4())
    other = bearer(await cell.token(await cell.tenant("org_2"), subject="admin"))
    await stub.CreateSecret(creation(payload=b"one", request_id=first), metadata=admin)
    await stub.AddSecretVersion(addition(b"two", request_id=second), metadata=admin)
    reasons = []
    for call in (
        stub.CreateSecret(creation(payload=b"other", request_id=first), metadata=admin),
        stub.CreateSecret(creation("other", payload=b"one", request_id=first), metadata=admin),
        stub.AddSecretVersion(addition(b"other", request_id=second), metadata=admin),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        reasons.append(reason_of(refused.value))
    elsewhere = creation(payload=b"other", request_id=first)
    elsewhere.parent = "tenants/org_2"

    assert reasons == ["REQUEST_ID_REUSED"] * 3
    assert (await stub.CreateSecret(elsewhere, metadata=other)).name == "tenants/org_2/secrets/crm"


async def test_what_is_only_validated_changes_nothing(
    stub: SecretStub, admin: Metadata, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    checked = creation("checked", payload=b"one")
    checked.validate_only = True
    await stub.CreateSecret(checked, metadata=admin)
    made = await stub.CreateSecret(creation(), metadata=admin)
    add = addition()
    add.validate_only = True
    would_be = await stub.AddSecretVersion(add, metadata=admin)
    update = secrets_pb2.UpdateSecretRequest(
        secret=secrets_pb2.Secret(name=NAME, description="another"),
        update_mask=FieldMask(paths=["description"]),
        validate_only=True,
    )
    would_say = await stub.UpdateSecret(update, metadata=admin)
    listed = await stub.ListSecrets(secrets_pb2.ListSecretsRequest(parent=PARENT), metadata=admin)

    assert (would_be.name, would_say.description) == (f"{NAME}/versions/1", "another")
    assert [*listed.secrets] == [made]
    assert len(await entries(superuser)) == 1


async def test_an_update_changes_what_its_mask_names(
    stub: SecretStub, admin: Metadata, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    made = await stub.CreateSecret(creation(), metadata=admin)
    wanted = secrets_pb2.Secret(name=NAME, description="another", uid="forged", latest_version=9, etag=made.etag)
    update = secrets_pb2.UpdateSecretRequest(secret=wanted, update_mask=FieldMask(paths=["description"]))
    changed = await stub.UpdateSecret(update, metadata=admin)
    with pytest.raises(grpc.aio.AioRpcError) as stale:
        await stub.UpdateSecret(update, metadata=admin)
    update.secret.etag = ""
    again = await stub.UpdateSecret(update, metadata=admin)
    update.update_mask.paths.append("latest_version")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.UpdateSecret(update, metadata=admin)

    assert (changed.description, dict(changed.labels)) == ("another", {"team": "sales"})
    assert (changed.uid, changed.latest_version) == (made.uid, 0)
    assert changed.etag != made.etag
    assert again == changed
    assert reason_of(stale.value) == "ETAG_MISMATCH"
    assert violations_of(refused.value).keys() == {"update_mask"}
    assert [method for _, method, _ in await entries(superuser)] == ["CreateSecret", "UpdateSecret"]


async def test_a_deleted_secret_is_gone_with_its_versions_and_another_begins_anew(
    stub: SecretStub, admin: Metadata, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    made = await stub.CreateSecret(creation(payload=b"one"), metadata=admin)
    added = await stub.AddSecretVersion(addition(b"two"), metadata=admin)
    with pytest.raises(grpc.aio.AioRpcError) as stale:
        await stub.DeleteSecret(secrets_pb2.DeleteSecretRequest(name=NAME, etag=made.etag), metadata=admin)
    await stub.DeleteSecret(secrets_pb2.DeleteSecretRequest(name=NAME), metadata=admin)
    left = await (await superuser.execute("SELECT FROM tenant_org_1.secret_versions")).fetchall()
    with pytest.raises(grpc.aio.AioRpcError) as absent:
        await stub.DeleteSecret(secrets_pb2.DeleteSecretRequest(name=NAME), metadata=admin)
    anew = await stub.CreateSecret(creation(payload=b"three"), metadata=admin)

    assert reason_of(stale.value) == "ETAG_MISMATCH"
    assert reason_of(absent.value) == "NOT_FOUND"
    assert (added.name, left) == (f"{NAME}/versions/2", [])
    assert (anew.name, anew.latest_version) == (NAME, 1)
    assert anew.uid != made.uid


async def test_versions_are_listed_newest_first_a_page_at_a_time(stub: SecretStub, admin: Metadata) -> None:
    await stub.CreateSecret(creation(), metadata=admin)
    for number in range(5):
        await stub.AddSecretVersion(addition(str(number).encode()), metadata=admin)
    names, token, pages = [], "", 0
    while pages == 0 or token:
        asked = versions_pb2.ListSecretVersionsRequest(parent=NAME, page_size=2, page_token=token)
        page = await stub.ListSecretVersions(asked, metadata=admin)
        names += [version.name for version in page.secret_versions]
        token, pages = page.next_page_token, pages + 1

    assert names == [f"{NAME}/versions/{number}" for number in (5, 4, 3, 2, 1)]
    assert pages == 3


async def test_twenty_versions_at_once_get_twenty_numbers(
    stub: SecretStub, admin: Metadata, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    await stub.CreateSecret(creation(), metadata=admin)
    added = await asyncio.gather(
        *(stub.AddSecretVersion(addition(str(number).encode()), metadata=admin) for number in range(20))
    )
    secret = await stub.GetSecret(secrets_pb2.GetSecretRequest(name=NAME), metadata=admin)

    assert {version.name for version in added} == {f"{NAME}/versions/{number}" for number in range(1, 21)}
    assert secret.latest_version == 20
    assert len(await entries(superuser)) == 21


async def test_a_secret_has_so_many_values_and_no_more_also_when_they_come_at_once(
    stub: SecretStub, admin: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MOST_VALUES", 3)
    await stub.CreateSecret(creation(), metadata=admin)
    answers = await asyncio.gather(
        *(stub.AddSecretVersion(addition(), metadata=admin) for _ in range(6)), return_exceptions=True
    )
    refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    first = versions_pb2.DestroySecretVersionRequest(name=f"{NAME}/versions/1")
    await stub.DestroySecretVersion(first, metadata=admin)

    assert [reason_of(error) for error in refused] == ["QUOTA_EXCEEDED"] * 3
    assert (await stub.AddSecretVersion(addition(), metadata=admin)).name == f"{NAME}/versions/4"


async def test_a_tenant_has_so_many_secrets_and_no_more_also_when_they_come_at_once(
    stub: SecretStub, admin: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MOST_SECRETS", 2)
    answers = await asyncio.gather(
        *(stub.CreateSecret(creation(f"s-{number}"), metadata=admin) for number in range(4)), return_exceptions=True
    )
    refused = [reason_of(answer) for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    listed = await stub.ListSecrets(secrets_pb2.ListSecretsRequest(parent=PARENT), metadata=admin)
    monkeypatch.setattr(service, "MOST_SECRETS", len(listed.secrets))
    with pytest.raises(grpc.aio.AioRpcError) as full:
        await stub.CreateSecret(creation("one-more"), metadata=admin)

    assert 1 <= len(listed.secrets) <= 2
    assert set(refused) <= {"QUOTA_EXCEEDED", "CONFLICT"}
    assert reason_of(full.value) == "QUOTA_EXCEEDED"


async def test_a_member_manages_secrets_by_its_scope_alone(cell: Cell, stub: SecretStub, placement: Placement) -> None:
    writer, other = [
        bearer(await cell.token(placement, Role.TENANT_MEMBER, subject="bob", scopes=(scope,)))
        for scope in ("secrets.write", "secrets.read")
    ]
    made = await stub.CreateSecret(creation(), metadata=writer)
    got = await stub.GetSecret(secrets_pb2.GetSecretRequest(name=NAME), metadata=other)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.CreateSecret(creation("another"), metadata=other)

    assert got == made
    assert reason_of(refused.value) == "SCOPE_MISSING"


@pytest.mark.parametrize("segment", ["absent", "CRM", "a\x00b", "crm'--", "x" * 64])
async def test_a_name_of_no_secret_is_not_found(stub: SecretStub, admin: Metadata, *, segment: str) -> None:
    name = f"{PARENT}/secrets/{segment}"
    reasons = []
    for call in (
        stub.GetSecret(secrets_pb2.GetSecretRequest(name=name), metadata=admin),
        stub.AddSecretVersion(versions_pb2.AddSecretVersionRequest(parent=name, payload=b"v"), metadata=admin),
        stub.ListSecretVersions(versions_pb2.ListSecretVersionsRequest(parent=name), metadata=admin),
        stub.DeleteSecret(secrets_pb2.DeleteSecretRequest(name=name), metadata=admin),
        stub.DestroySecretVersion(versions_pb2.DestroySecretVersionRequest(name=f"{name}/versions/1"), metadata=admin),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        reasons.append(reason_of(refused.value))

    assert reasons == ["NOT_FOUND"] * 5
