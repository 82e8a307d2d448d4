"""Issuing: who gets what, what is kept of it, and what a repeated or a crowded request leads to."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from control_plane.certificates.model import Asked, State
from control_plane.certificates.service import Certificates, Issued
from control_plane.errors import AlreadyExistsError, InvalidArgumentError, PreconditionError
from control_plane.keys.algorithms import AUTHORITIES, KeyAlgorithm, algorithm_of, new_key
from control_plane.keys.model import IntegrityError
from control_plane.postgres.placement import Placement
from tests.integration.certificates.conftest import Bench
from tests.unit.certificates.signing_requests import dns_names, rsa_key, signing_request


def asked(request_id: UUID | None = None, *, name: str = "a.example") -> Asked:
    return Asked(csr_pem=signing_request(names=dns_names(name)), request_id=str(request_id or ""))


def leaf(issued: Issued) -> x509.Certificate:
    return x509.load_pem_x509_certificates(issued.pem_chain.encode())[0]


async def test_a_certificate_is_a_row_and_an_object_and_an_entry(bench: Bench) -> None:
    tenant = await bench.cell.tenant()
    issued = await bench.issue(tenant)
    (row,) = await bench.rows(tenant)
    certificate = issued.certificate

    assert (row["state"], row["id"], row["tenant_id"]) == ("ACTIVE", certificate.id, tenant.uid)
    assert row["serial_number"] == f"{leaf(issued).serial_number:x}"
    assert (row["subject"], row["dns_names"]) == ("CN=payments", ["a.example"])
    assert row["expire_time"] == leaf(issued).not_valid_after_utc
    assert await bench.paths(tenant) == [f"certificates/{certificate.id}.pem"]
    assert row["sha256"] == hashlib.sha256(issued.pem_chain.encode()).digest()
    (entry,) = await bench.rows(tenant, "audit_entries")
    assert entry["resource"] == f"tenants/org_1/certificates/{certificate.id}"
    assert entry["details"] == {"serial_number": certificate.serial_number, "subject": "CN=payments"}


@pytest.mark.behaviour("S1.9")
async def test_the_object_is_sealed_for_its_tenant_and_path(bench: Bench) -> None:
    one, other = await bench.cell.tenant("org_1"), await bench.cell.tenant("org_2")
    mine, theirs = await bench.issue(one), await bench.issue(other)
    files = {path.name: path for path in bench.stored_files()}
    mine_file, their_file = (files[f"{issued.certificate.id}.pem"] for issued in (mine, theirs))

    assert all(b"BEGIN" not in path.read_bytes() for path in files.values())
    their_file.write_bytes(mine_file.read_bytes())
    with pytest.raises(IntegrityError):
        await bench.certificates.get(theirs.certificate, other)
    assert (await bench.certificates.get(mine.certificate, one)).pem_chain == mine.pem_chain


async def test_a_tenants_certificates_verify_against_its_own_authority_alone(bench: Bench) -> None:
    tenants = [await bench.cell.tenant(f"org_{number}") for number in range(3)]
    authorities = [(await bench.cell.keys.authorities(tenant)).signing.certificate for tenant in tenants]
    issued = [leaf(await bench.issue(tenant)) for tenant in tenants]

    assert len({authority.fingerprint(hashes.SHA256()) for authority in authorities}) == 3
    for certificate, own in zip(issued, authorities, strict=True):
        for authority in authorities:
            verifier = (
                PolicyBuilder()
                .store(Store([authority]))
                .time(datetime.now(UTC) + timedelta(seconds=1))
                .build_server_verifier(x509.DNSName("a.example"))
            )
            if authority == own:
                assert verifier.verify(certificate, []) == [certificate, own]
            else:
                with pytest.raises(VerificationError):
                    verifier.verify(certificate, [])


async def test_fifty_at_once_in_one_tenant_all_succeed(bench: Bench) -> None:
    tenant = await bench.cell.tenant()
    issued = await asyncio.gather(*(bench.issue(tenant, asked(name=f"h{i}.example")) for i in range(50)))

    rows = await bench.rows(tenant)
    assert {row["state"] for row in rows} == {"ACTIVE"}
    assert {row["id"] for row in rows} == {one.certificate.id for one in issued}
    assert len({row["serial_number"] for row in rows}) == 50
    assert len(await bench.paths(tenant)) == 50
    assert len(await bench.rows(tenant, "audit_entries")) == 50


async def test_a_repeated_request_gets_the_same_certificate(bench: Bench) -> None:
    tenant = await bench.cell.tenant()
    request = asked(uuid4())
    first = await bench.issue(tenant, request)

    assert await bench.issue(tenant, request) == replace(first, certificate=first.certificate)
    assert await bench.issue(tenant, replace(request, request_id=request.request_id.upper())) == first
    assert len(await bench.rows(tenant)) == 1
    assert len(await bench.rows(tenant, "audit_entries")) == 1


async def test_a_repeated_request_gets_its_certificate_also_when_that_is_revoked(bench: Bench) -> None:
    tenant = await bench.cell.tenant()
    request = asked(uuid4())
    first = await bench.issue(tenant, request)
    await bench.certificates.revoke(first.certificate.id, reason="lost", effects=bench.effects(tenant))

    again = await bench.issue(tenant, request)
    assert (again.certificate.id, again.certificate.state) == (first.certificate.id, State.REVOKED)
    assert again.pem_chain == first.pem_chain


async def test_twenty_callers_with_one_request_get_one_certificate(bench: Bench) -> None:
    tenant = await bench.cell.tenant()
    request = asked(uuid4())
    issued = await asyncio.gather(*(bench.issue(tenant, request) for _ in range(20)))

    assert len({one.pem_chain for one in issued}) == 1
    assert {one.certificate.state for one in issued} == {State.ACTIVE}
    assert len(await bench.rows(tenant)) == len(await bench.paths(tenant)) == 1


@pytest.mark.parametrize(
    "change",
    [{"csr_pem": signing_request(names=dns_names("b.example"))}, {"validity": timedelta(days=1)}, {"profile": "other"}],
    ids=lambda change: next(iter(change)),
)
async def test_a_request_id_is_good_for_one_request(bench: Bench, change: dict[str, object]) -> None:
    tenant = await bench.cell.tenant()
    request = asked(uuid4())
    await bench.issue(tenant, request)

    other = Asked(**{"csr_pem": request.csr_pem, "request_id": request.request_id} | change)  # type: ignore[arg-type]  # the members are the test's parameters
    for attempt in (bench.issue(tenant, other), bench.certificates.check(other, bench.drafts(tenant))):
        with pytest.raises(AlreadyExistsError) as raised:
            await attempt
        assert raised.value.code == "REQUEST_ID_REUSED"
    assert len(await bench.rows(tenant)) == 1


async def test_a_request_id_belongs_to_its_tenant(bench: Bench) -> None:
    one, other = await bench.cell.tenant("org_1"), await bench.cell.tenant("org_2")
    request = asked(uuid4())

    assert (await bench.issue(one, request)).certificate.id != (await bench.issue(other, request)).certificate.id


@pytest.mark.behaviour("S2.8")
@pytest.mark.parametrize("key", [rsa_key(1024), ec.generate_private_key(ec.SECP256K1())], ids=["small", "curve"])
async def test_a_key_that_only_the_policy_forbids_fails_the_precondition(
    bench: Bench, key: CertificateIssuerPrivateKeyTypes
) -> None:
    tenant = await bench.cell.tenant()
    with pytest.raises(PreconditionError) as raised:
        await bench.issue(tenant, Asked(csr_pem=signing_request(key)))

    assert raised.value.code == "KEY_POLICY"
    assert await bench.rows(tenant) == []
    assert bench.stored_files() == []


async def set_policy(bench: Bench, tenant: Placement, *, post_quantum: str, keys: Sequence[str] = ()) -> None:
    query = "UPDATE csm_system.tenants SET post_quantum = %s, key_algorithms = %s::text[] WHERE uid = %s"
    await bench.superuser.execute(query, (post_quantum, list(keys), tenant.uid))


@pytest.mark.behaviour("S2.8", "I19")
@pytest.mark.parametrize("algorithm", sorted(AUTHORITIES))
async def test_a_tenants_authority_certifies_with_its_own_algorithm(bench: Bench, algorithm: KeyAlgorithm) -> None:
    tenant = await bench.cell.tenant(authority=algorithm)
    issued = await bench.issue(tenant)
    own = (await bench.cell.keys.authorities(tenant)).signing.certificate
    read = await bench.certificates.get(issued.certificate, tenant)

    leaf(issued).verify_directly_issued_by(own)
    assert algorithm_of(own.public_key()) is algorithm
    assert read.pem_chain == issued.pem_chain


@pytest.mark.behaviour("S2.8", "I19")
async def test_where_post_quantum_is_required_nothing_else_is_certified(bench: Bench) -> None:
    tenant = await bench.cell.tenant(authority=KeyAlgorithm.ML_DSA_65)
    await set_policy(bench, tenant, post_quantum="REQUIRED")
    with pytest.raises(PreconditionError) as raised:
        await bench.issue(tenant)
    assert raised.value.code == "KEY_POLICY"
    assert "post_quantum REQUIRED" in raised.value.message
    assert await bench.rows(tenant) == []
    assert bench.stored_files() == []

    issued = await bench.issue(tenant, Asked(csr_pem=signing_request(new_key(KeyAlgorithm.ML_DSA_87))))

    assert algorithm_of(leaf(issued).public_key()) is KeyAlgorithm.ML_DSA_87


@pytest.mark.behaviour("S2.8")
async def test_a_changed_policy_holds_for_the_next_request(bench: Bench) -> None:
    tenant, other = await bench.cell.tenant("org_1"), await bench.cell.tenant("org_2")
    request = Asked(csr_pem=signing_request(new_key(KeyAlgorithm.ED25519)))
    await bench.issue(tenant, request)
    await set_policy(bench, tenant, post_quantum="OFF", keys=["EC_P384"])
    with pytest.raises(PreconditionError, match="the tenant allows: EC_P384"):
        await bench.issue(tenant, request)

    assert (await bench.issue(other, request)).certificate.state is State.ACTIVE


@pytest.mark.behaviour("S2.8")
async def test_everything_that_is_wrong_is_said_at_once_and_nothing_is_made(bench: Bench) -> None:
    tenant = await bench.cell.tenant()
    bad = Asked(
        csr_pem=signing_request(rsa_key(1024), names=dns_names("a_b")), validity=timedelta(days=366), request_id="1"
    )
    for attempt in (bench.issue(tenant, bad), bench.certificates.check(bad, bench.drafts(tenant))):
        with pytest.raises(InvalidArgumentError) as raised:
            await attempt
        assert [violation.reason for violation in raised.value.violations] == [
            "REQUEST_ID",
            "VALIDITY",
            "KEY_SIZE",
            "DNS_NAME",
        ]
    assert await bench.rows(tenant) == []
    assert await bench.rows(tenant, "audit_entries") == []
    assert bench.stored_files() == []


async def test_an_unknown_profile_is_refused_beside_all_else(bench: Bench) -> None:
    tenant = await bench.cell.tenant()

    with pytest.raises(InvalidArgumentError) as raised:
        await bench.issue(tenant, Asked(csr_pem="", profile="public"))
    assert [violation.field for violation in raised.value.violations] == ["profile", "csr_pem"]


async def test_validation_alone_shows_the_certificate_and_makes_none(bench: Bench) -> None:
    tenant = await bench.cell.tenant()
    preview = await bench.certificates.check(asked(uuid4()), bench.drafts(tenant))

    assert (preview.subject, preview.dns_names, preview.profile) == ("CN=payments", ("a.example",), "private")
    assert timedelta(days=89) < preview.expire_time - datetime.now(UTC) <= timedelta(days=90)
    assert await bench.rows(tenant) == []
    assert bench.stored_files() == []


async def test_an_authority_that_has_expired_issues_nothing(bench: Bench) -> None:
    tenant = await bench.cell.tenant()
    expiry = (await bench.cell.keys.authorities(tenant)).signing.certificate.not_valid_after_utc
    late = Certificates(bench.cell.keys, bench.objects, bench.caches, clock=lambda: expiry)

    with pytest.raises(PreconditionError) as raised:
        await late.issue(asked(), drafts=bench.drafts(tenant), effects=bench.effects(tenant))
    assert raised.value.code == "AUTHORITY_EXPIRED"
    assert await bench.rows(tenant) == []


async def test_an_object_that_was_changed_or_lost_is_not_given_out(bench: Bench) -> None:
    tenant = await bench.cell.tenant()
    issued = await bench.issue(tenant)
    path = issued.certificate.object_path

    await bench.objects.of(tenant).put(path, plaintext=b"rightly sealed, but another text")
    with pytest.raises(IntegrityError):
        await bench.certificates.get(issued.certificate, tenant)
    await bench.objects.of(tenant).delete(path)
    with pytest.raises(IntegrityError):
        await bench.certificates.get(issued.certificate, tenant)


async def test_a_revocation_needs_no_object_and_is_recorded_once(bench: Bench) -> None:
    tenant = await bench.cell.tenant()
    issued = await bench.issue(tenant)
    await bench.objects.of(tenant).delete(issued.certificate.object_path)

    first, again = [
        await bench.certificates.revoke(issued.certificate.id, reason=reason, effects=bench.effects(tenant))
        for reason in ("lost", "stolen")
    ]
    assert first.state is State.REVOKED
    assert first == again
    assert again.revoke_reason == "lost"
    assert [entry["details"].get("reason") for entry in await bench.rows(tenant, "audit_entries")] == [None, "lost"]


async def test_fifty_revocations_at_once_all_succeed(bench: Bench) -> None:
    tenant = await bench.cell.tenant()
    issued = await asyncio.gather(*(bench.issue(tenant) for _ in range(50)))
    await asyncio.gather(
        *(bench.certificates.revoke(one.certificate.id, reason="", effects=bench.effects(tenant)) for one in issued)
    )

    assert {row["state"] for row in await bench.rows(tenant)} == {"REVOKED"}
    assert len(await bench.rows(tenant, "audit_entries")) == 100
