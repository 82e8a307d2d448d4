"""A tenant's own keys sign, verify whatever a version of them has signed, and each use is told."""

import hashlib
import os
import threading
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

import grpc
import psycopg
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from psycopg.rows import DictRow

from bulkhead.v1 import signing_pb2, signing_pb2_grpc
from control_plane.keys.named import signatures
from control_plane.postgres.placement import Placement
from control_plane.serving.principal import Role
from control_plane.signing import service
from tests.fixtures.cell import Metadata, bearer, reason_of, violations_of
from tests.fixtures.keyring import Ring

if TYPE_CHECKING:
    from bulkhead.v1.signing_pb2_grpc import SigningServiceAsyncStub

ALGORITHMS: Final = ("RSA_3072", "RSA_4096", "EC_P256", "EC_P384", "ED25519", "ML_DSA_44", "ML_DSA_65", "ML_DSA_87")
HASHED: Final = {"RSA_3072": "SHA_256", "RSA_4096": "SHA_512", "EC_P256": "SHA_256", "EC_P384": "SHA_384"}
DATA: Final = b"an invoice"
NAME: Final = "tenants/org_1/keys/signer"
Superuser = psycopg.AsyncConnection[DictRow]


@pytest.fixture
async def tenant(ring: Ring) -> Placement:
    made = await ring.cell.tenant()
    await ring.cell.database.system().run(
        lambda tx: tx.execute(
            "UPDATE csm_system.tenants SET post_quantum = 'HYBRID' WHERE uid = %(uid)s", {"uid": made.uid}
        )
    )
    return made


@pytest.fixture
async def member(ring: Ring, tenant: Placement) -> Metadata:
    return bearer(await ring.cell.token(tenant, Role.TENANT_MEMBER, scopes=("keys.use", "keys.read")))


@pytest.fixture
async def stub(ring: Ring) -> "AsyncIterator[SigningServiceAsyncStub]":
    async with grpc.aio.insecure_channel(ring.cell.address) as channel:
        yield signing_pb2_grpc.SigningServiceStub(channel)


async def entries(superuser: Superuser, method: str) -> list[DictRow]:
    found = await superuser.execute("SELECT * FROM tenant_org_1.audit_entries ORDER BY id")
    return [row for row in await found.fetchall() if row["method"].endswith(method)]


def digest(algorithm: str, data: bytes = DATA) -> signing_pb2.Digest:
    said = HASHED[algorithm]
    value = hashlib.new(said.replace("_", ""), data).digest()
    return signing_pb2.Digest(algorithm=signing_pb2.Digest.Algorithm.Value(said), value=value)


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value


@pytest.mark.behaviour("S2.8")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_what_a_key_has_signed_it_verifies_and_nothing_else(
    algorithm: str, ring: Ring, tenant: Placement, member: Metadata, stub: "SigningServiceAsyncStub"
) -> None:
    await ring.create(tenant, "signer", "SIGNING", algorithm)
    signed = await stub.Sign(signing_pb2.SignRequest(name=NAME, data=DATA), metadata=member)
    asked: dict[str, Any] = {"name": NAME, "data": DATA, "signature": signed.signature}
    good = await stub.Verify(signing_pb2.VerifyRequest(**asked), metadata=member)
    altered = bytes([signed.signature[-1] ^ 1])
    wrong = [
        await stub.Verify(signing_pb2.VerifyRequest(**{**asked, **more}), metadata=member)
        for more in ({"data": b"another"}, {"signature": signed.signature[:-1] + altered}, {"signature": b"short"})
    ]

    assert signed.key_version == f"{NAME}/versions/1"
    assert (good.verified, good.key_version) == (True, f"{NAME}/versions/1")
    assert {(each.verified, each.key_version) for each in wrong} == {(False, "")}


@pytest.mark.parametrize("algorithm", sorted(HASHED))
async def test_a_digest_is_signed_like_what_it_is_of_and_by_no_other_hash(
    algorithm: str, ring: Ring, tenant: Placement, member: Metadata, stub: "SigningServiceAsyncStub"
) -> None:
    await ring.create(tenant, "signer", "SIGNING", algorithm)
    signed = await stub.Sign(signing_pb2.SignRequest(name=NAME, digest=digest(algorithm)), metadata=member)
    good = await stub.Verify(
        signing_pb2.VerifyRequest(name=NAME, data=DATA, signature=signed.signature), metadata=member
    )
    other = signing_pb2.Digest(algorithm=signing_pb2.Digest.ALGORITHM_UNSPECIFIED, value=b"short")
    error = await refused(stub.Sign(signing_pb2.SignRequest(name=NAME, digest=other), metadata=member))

    assert good.verified
    assert set(violations_of(error)) == {"digest.algorithm", "digest.value"}


@pytest.mark.parametrize("algorithm", ["ED25519", "ML_DSA_65"])
async def test_what_hashes_by_itself_takes_no_digest(
    algorithm: str, ring: Ring, tenant: Placement, member: Metadata, stub: "SigningServiceAsyncStub"
) -> None:
    await ring.create(tenant, "signer", "SIGNING", algorithm)
    error = await refused(stub.Sign(signing_pb2.SignRequest(name=NAME, digest=digest("EC_P256")), metadata=member))

    assert list(violations_of(error)) == ["digest"]


async def test_anybody_verifies_with_the_public_key(
    ring: Ring, tenant: Placement, member: Metadata, stub: "SigningServiceAsyncStub"
) -> None:
    for algorithm in ("EC_P384", "RSA_3072"):
        key_id = algorithm.lower()
        await ring.create(tenant, key_id, "SIGNING", algorithm)
        name = f"tenants/org_1/keys/{key_id}"
        signed = await stub.Sign(signing_pb2.SignRequest(name=name, data=DATA), metadata=member)
        half = await stub.GetPublicKey(signing_pb2.GetPublicKeyRequest(name=f"{name}/versions/1"), metadata=member)
        key = serialization.load_pem_public_key(half.pem.encode())
        match key:
            case ec.EllipticCurvePublicKey():
                key.verify(signed.signature, DATA, ec.ECDSA(hashes.SHA384()))
            case rsa.RSAPublicKey():
                pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
                key.verify(signed.signature, DATA, pss, hashes.SHA256())
        assert half.algorithm == algorithm


@pytest.mark.behaviour("S2.5")
async def test_after_a_rotation_the_new_version_signs_and_the_old_one_verifies(
    ring: Ring, tenant: Placement, member: Metadata, stub: "SigningServiceAsyncStub"
) -> None:
    await ring.create(tenant, "signer", "SIGNING", "ED25519")
    first = await stub.Sign(signing_pb2.SignRequest(name=NAME, data=DATA), metadata=member)
    await ring.rotated(tenant, "signer")
    second = await stub.Sign(signing_pb2.SignRequest(name=NAME, data=DATA), metadata=member)

    async def verified(signature: bytes, version: int = 0) -> signing_pb2.VerifyResponse:
        request = signing_pb2.VerifyRequest(name=NAME, data=DATA, signature=signature, version=version)
        return await stub.Verify(request, metadata=member)

    assert second.key_version.endswith("/versions/2")
    assert (await verified(first.signature)).key_version.endswith("/versions/1")
    assert (await verified(first.signature, 1)).verified
    assert not (await verified(first.signature, 2)).verified
    assert (await refused(verified(first.signature, 3))).code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.behaviour("S2.12")
async def test_each_use_is_told_with_its_reason_and_its_context(
    ring: Ring, tenant: Placement, member: Metadata, stub: "SigningServiceAsyncStub", superuser: Superuser
) -> None:
    await ring.create(tenant, "signer", "SIGNING", "ED25519")
    said: Any = {"name": NAME, "data": DATA, "context": {"invoice": "7"}, "reason": "month's end"}
    signed = await stub.Sign(signing_pb2.SignRequest(**said), metadata=member)
    for signature in (signed.signature, b"none"):
        await stub.Verify(signing_pb2.VerifyRequest(**said, signature=signature), metadata=member)
    (signing,) = await entries(superuser, "/Sign")
    good, wrong = await entries(superuser, "/Verify")
    told = {"reason": "month's end", "context": {"invoice": "7"}}

    assert (signing["resource"], signing["actor"], signing["details"]) == (
        f"{NAME}/versions/1",
        "tenant-member:alice",
        told,
    )
    assert (good["resource"], good["details"]) == (f"{NAME}/versions/1", {**told, "verified": True})
    assert (wrong["resource"], wrong["details"]) == (NAME, {**told, "verified": False})


@pytest.mark.behaviour("S2.12")
async def test_without_its_entry_no_signature_goes_out(
    ring: Ring, tenant: Placement, member: Metadata, stub: "SigningServiceAsyncStub", superuser: Superuser
) -> None:
    await ring.create(tenant, "signer", "SIGNING", "ED25519")
    await superuser.execute("ALTER TABLE tenant_org_1.audit_entries RENAME TO elsewhere")
    for call in (
        stub.Sign(signing_pb2.SignRequest(name=NAME, data=DATA), metadata=member),
        stub.Verify(signing_pb2.VerifyRequest(name=NAME, data=DATA, signature=b"none"), metadata=member),
    ):
        assert (await refused(call)).code() is grpc.StatusCode.INTERNAL


@pytest.mark.behaviour("S2.16")
async def test_while_its_destruction_waits_each_use_is_refused_and_raises_an_alert(
    ring: Ring,
    tenant: Placement,
    member: Metadata,
    stub: "SigningServiceAsyncStub",
    superuser: Superuser,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    warned: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(
        "control_plane.encryption.uses._log.warning", lambda event, **said: warned.append((event, said))
    )
    await ring.create(tenant, "signer", "SIGNING", "ED25519")
    signed = await stub.Sign(signing_pb2.SignRequest(name=NAME, data=DATA), metadata=member)
    await ring.schedule(tenant, "signer")
    verify = signing_pb2.VerifyRequest(name=NAME, data=DATA, signature=signed.signature)
    codes = [
        reason_of(await refused(call))
        for call in (
            stub.Sign(signing_pb2.SignRequest(name=NAME, data=DATA, reason="why"), metadata=member),
            stub.Verify(verify, metadata=member),
        )
    ]
    alerts = [entry for entry in await entries(superuser, "") if entry["outcome"] == "DENIED"]
    await ring.restore(tenant, "signer")
    again = await stub.Verify(verify, metadata=member)

    assert codes == ["KEY_DESTROY_SCHEDULED"] * 2
    assert [(each["resource"], each["reason"]) for each in alerts] == [(NAME, "KEY_DESTROY_SCHEDULED")] * 2
    # Both were asked for at once.
    told = {each["details"]["operation"]: each["details"]["reason"] for each in alerts}
    assert told == {"SIGN": "why", "VERIFY": ""}
    assert [event for event, _ in warned] == ["key_asked_for_before_its_destruction"] * 2
    assert again.verified


@pytest.mark.behaviour("S2.16")
async def test_an_alert_that_cannot_be_written_lets_nothing_through(
    ring: Ring, tenant: Placement, member: Metadata, stub: "SigningServiceAsyncStub", superuser: Superuser
) -> None:
    await ring.create(tenant, "signer", "SIGNING", "ED25519")
    await ring.schedule(tenant, "signer")
    await superuser.execute("ALTER TABLE tenant_org_1.audit_entries RENAME TO elsewhere")
    error = await refused(stub.Sign(signing_pb2.SignRequest(name=NAME, data=DATA), metadata=member))

    assert error.code() is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize(
    "key_id", ["kek", "storage", "services", "tokens", "authority", "enrolment", "audit", "invoices"]
)
async def test_a_key_for_something_else_signs_nothing(
    key_id: str, ring: Ring, tenant: Placement, member: Metadata, stub: "SigningServiceAsyncStub"
) -> None:
    await ring.create(tenant, "invoices", "ENCRYPTION")
    error = await refused(
        stub.Sign(signing_pb2.SignRequest(name=f"tenants/org_1/keys/{key_id}", data=DATA), metadata=member)
    )

    assert reason_of(error) == "KEY_PURPOSE"


@pytest.mark.behaviour("S2.19", "T-K1")
async def test_a_key_of_another_tenant_and_one_that_never_was_are_the_same_to_a_stranger(
    ring: Ring, tenant: Placement, member: Metadata, stub: "SigningServiceAsyncStub"
) -> None:
    await ring.create(tenant, "signer", "SIGNING", "ED25519")
    other = await ring.cell.tenant("org_2")
    stranger = bearer(await ring.cell.token(other, Role.TENANT_MEMBER, scopes=("keys.use", "keys.read")))

    def answers(name: str) -> tuple[Any, ...]:
        return (
            stub.Sign(signing_pb2.SignRequest(name=name, data=DATA), metadata=stranger),
            stub.Verify(signing_pb2.VerifyRequest(name=name, data=DATA, signature=b"s"), metadata=stranger),
            stub.GetPublicKey(signing_pb2.GetPublicKeyRequest(name=f"{name}/versions/1"), metadata=stranger),
        )

    said = [
        [(error.code(), error.details(), reason_of(error)) for error in [await refused(call) for call in answers(name)]]
        for name in (NAME, "tenants/org_1/keys/kms_key_org_12345", "tenants/nobody/keys/kms_key_org_12345")
    ]
    own = await refused(
        stub.Sign(signing_pb2.SignRequest(name="tenants/org_2/keys/signer", data=DATA), metadata=stranger)
    )

    assert said[0] == said[1] == said[2]
    assert own.code() is grpc.StatusCode.NOT_FOUND
    assert member != stranger


async def test_everything_that_is_wrong_is_said_at_once(
    ring: Ring, tenant: Placement, member: Metadata, stub: "SigningServiceAsyncStub"
) -> None:
    await ring.create(tenant, "signer", "SIGNING", "ED25519")
    request = signing_pb2.VerifyRequest(
        name=NAME, data=b"x" * 65_537, context={"NO": ""}, reason="x" * 501, signature=b"", version=-1
    )
    error = await refused(stub.Verify(request, metadata=member))
    empty = await refused(stub.Sign(signing_pb2.SignRequest(name=NAME), metadata=member))

    assert set(violations_of(error)) == {"data", "context", "reason", "signature", "version"}
    assert list(violations_of(empty)) == ["data"]


async def test_signatures_are_made_in_another_thread(
    ring: Ring,
    tenant: Placement,
    member: Metadata,
    stub: "SigningServiceAsyncStub",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = set()
    own = signatures.sign

    def watched(*arguments: Any, **more: Any) -> bytes:
        threads.add(threading.get_ident())
        return own(*arguments, **more)

    monkeypatch.setattr(service, "sign", watched)
    await ring.create(tenant, "signer", "SIGNING", "RSA_3072")
    await stub.Sign(signing_pb2.SignRequest(name=NAME, data=os.urandom(64)), metadata=member)

    assert threads
    assert threading.get_ident() not in threads
