"""What a rotation of a tenant's authority does to those who issue certificates and verify them, or its retirement."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from bulkhead.v1 import certificates_pb2, key_changes_pb2, keys_pb2
from control_plane.certificates import pending
from control_plane.certificates.model import Asked
from control_plane.certificates.service import Certificates, Issued
from control_plane.certificates.signing import pem
from control_plane.errors import PreconditionError, TenantSealedError
from control_plane.keys.algorithms import KeyAlgorithm, algorithm_of
from control_plane.keys.material import key_identifier
from control_plane.keys.service import TenantKeys
from control_plane.operations.model import OperationState
from control_plane.operations.plan import StepPausedError
from control_plane.postgres.placement import Placement
from tests.fixtures.cell import bearer
from tests.fixtures.keyring import Ring
from tests.integration.certificates.conftest import Bench
from tests.unit.certificates.signing_requests import signing_request

CONTEXT: Any = None
FIRST = "tenants/org_1/keys/authority/versions/1"
SECOND = "tenants/org_1/keys/authority/versions/2"
State = keys_pb2.KeyVersion.State


def chain(issued: Issued) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(issued.pem_chain.encode())


def verifies(issued: Issued, *roots: x509.Certificate) -> bool:
    verifier = PolicyBuilder().store(Store(list(roots))).time(datetime.now(UTC) + timedelta(seconds=1))
    leaf, *others = chain(issued)
    try:
        verifier.build_server_verifier(x509.DNSName("a.example")).verify(leaf, others)
    except VerificationError:
        return False
    return True


async def trusted(keys: TenantKeys, tenant: Placement) -> list[x509.Certificate]:
    return (await keys.authorities(tenant)).trusted


async def states(ring: Ring, tenant: Placement) -> list[int]:
    """List the states of all versions, the newest first."""
    return [version.state for version in await ring.versions(tenant, "authority")]


async def retire(ring: Ring, tenant: Placement, name: str = FIRST) -> keys_pb2.KeyVersion:
    request = key_changes_pb2.RetireKeyVersionRequest(name=name)
    return await ring.calling(tenant, "RetireKeyVersion").RetireKeyVersion(request, CONTEXT)


async def enable(ring: Ring, tenant: Placement, name: str = FIRST) -> keys_pb2.KeyVersion:
    request = key_changes_pb2.EnableKeyVersionRequest(name=name)
    return await ring.calling(tenant, "EnableKeyVersion").EnableKeyVersion(request, CONTEXT)


async def expire(bench: Bench, tenant: Placement) -> None:
    """Let all certificates of the tenant have expired."""
    table = psycopg.sql.Identifier(tenant.schema, "certificates")
    await bench.superuser.execute(psycopg.sql.SQL("UPDATE {} SET expire_time = now()").format(table))


async def settled(keys: TenantKeys, tenant: Placement, count: int) -> list[x509.Certificate]:
    """Wait until a process shows so many; a test that hangs here has found one that never does."""
    while len(await trusted(keys, tenant)) != count:  # noqa: ASYNC110 there is nothing that could tell
        await asyncio.sleep(0.05)
    return await trusted(keys, tenant)


@pytest.mark.behaviour("S2.5")
async def test_a_new_authority_is_shown_by_every_process_before_it_signs(bench: Bench, ring: Ring) -> None:
    tenant, keys, other = await bench.cell.tenant(), ring.cell.keys, ring.other_process()
    (old,), _ = await trusted(keys, tenant), await trusted(other, tenant)
    begun = await ring.rotate(tenant, "authority")
    runs = ring.plans[begun.kind].runs
    await runs["publication"](begun)
    both = await settled(other, tenant, 2)

    assert both[0] == old
    shown = [(await each.authorities(tenant)).signing.certificate for each in (keys, other)]
    assert shown == [old, old]
    before = await bench.issue(tenant)
    assert chain(before)[1:] == [old]
    await runs["use"](begun)
    assert await trusted(keys, tenant) == both[::-1]
    assert chain(await bench.issue(tenant))[-1] == both[1]
    assert [version.primary for version in await ring.versions(tenant, "authority")] == [True, False]


@pytest.mark.behaviour("S2.5")
async def test_a_new_authority_waits_until_every_process_has_asked_again(bench: Bench, ring: Ring) -> None:
    tenant = await bench.cell.tenant()
    begun = await ring.rotate(tenant, "authority")
    plan: Any = ring.plans[begun.kind]
    plan._settling = timedelta(hours=1)
    await plan.runs["publication"](begun)

    with pytest.raises(StepPausedError):
        await plan.runs["use"](begun)
    assert [version.primary for version in await ring.versions(tenant, "authority")] == [False, True]


@pytest.mark.behaviour("S2.5")
async def test_certificates_of_before_and_after_verify_against_what_the_authority_shows(
    bench: Bench, ring: Ring
) -> None:
    tenant = await bench.cell.tenant()
    before = await bench.issue(tenant)
    await ring.rotated(tenant, "authority")
    after = await bench.issue(tenant)
    new, old = await trusted(bench.cell.keys, tenant)

    assert (before.certificate.authority_version, after.certificate.authority_version) == (1, 2)
    assert (verifies(before, new, old), verifies(after, new, old)) == (True, True)
    assert (verifies(before, old), verifies(after, new)) == (True, True)
    assert verifies(after, old), "who trusts the old one alone takes what the new one signs"
    assert not verifies(before, new)
    leaf, cross, root = chain(after)
    assert (root, cross.issuer, cross.public_key()) == (new, old.subject, new.public_key())
    identifier = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert identifier == key_identifier(new).digest
    assert await states(ring, tenant) == [State.ENABLED, State.ENABLED]


@pytest.mark.behaviour("S2.5")
async def test_what_is_answered_says_which_version_has_signed(bench: Bench, ring: Ring, stub: Any) -> None:
    tenant = await bench.cell.tenant()
    member = bearer(await bench.cell.token(tenant))
    issue = certificates_pb2.IssueCertificateRequest(parent="tenants/org_1", csr_pem=signing_request())
    get = certificates_pb2.GetCertificateAuthorityRequest(name="tenants/org_1/certificateAuthority")
    first = await stub.IssueCertificate(issue, metadata=member)
    assert (await stub.GetCertificateAuthority(get, metadata=member)).key_version == FIRST
    await ring.rotated(tenant, "authority")
    second = await stub.IssueCertificate(issue, metadata=member)
    authority = await stub.GetCertificateAuthority(get, metadata=member)
    listed = await stub.ListCertificates(
        certificates_pb2.ListCertificatesRequest(parent="tenants/org_1"), metadata=member
    )

    assert (first.authority_version, second.authority_version) == (FIRST, SECOND)
    assert [each.authority_version for each in listed.certificates] == [SECOND, FIRST]
    got = await stub.GetCertificate(certificates_pb2.GetCertificateRequest(name=first.name), metadata=member)
    assert (got.authority_version, got.pem_chain) == (FIRST, first.pem_chain)
    assert authority.key_version == SECOND
    shown = x509.load_pem_x509_certificates(authority.pem.encode())
    assert shown == await trusted(bench.cell.keys, tenant)
    assert x509.load_pem_x509_certificates(second.pem_chain.encode())[-1] == shown[0], "the one that signs comes first"
    versions = await ring.versions(tenant, "authority")
    assert [each.public_pem for each in versions] == [pem(each) for each in shown]


@pytest.mark.behaviour("S2.5")
@pytest.mark.parametrize("fate", ["valid", "revoked", "expired"])
async def test_an_old_authority_is_retired_once_nothing_that_it_signed_is_valid(
    bench: Bench, ring: Ring, *, fate: str
) -> None:
    tenant = await bench.cell.tenant()
    issued = await bench.issue(tenant)
    if fate == "revoked":
        await bench.certificates.revoke(issued.certificate.id, reason="", effects=bench.effects(tenant))
    elif fate == "expired":
        await expire(bench, tenant)
    await ring.rotated(tenant, "authority")

    expected = [State.ENABLED, State.ENABLED if fate == "valid" else State.RETIRED]
    assert await states(ring, tenant) == expected
    assert len(await trusted(ring.other_process(), tenant)) == expected.count(State.ENABLED)
    about = [details for resource, details in await ring.log(tenant) if "/keys/authority/versions/" in resource]
    assert about[:2] == [{"state": "ENABLED"}, {"signs": True}]
    assert about[2:] == ([] if fate == "valid" else [{"state": "RETIRED"}])


@pytest.mark.behaviour("S2.5")
async def test_the_next_rotation_retires_what_the_one_before_had_to_leave(bench: Bench, ring: Ring) -> None:
    tenant = await bench.cell.tenant()
    await bench.issue(tenant)
    await ring.rotated(tenant, "authority")
    await expire(bench, tenant)
    kept = await bench.issue(tenant)
    await ring.rotated(tenant, "authority")

    assert await states(ring, tenant) == [State.ENABLED, State.ENABLED, State.RETIRED]
    assert verifies(kept, *await trusted(bench.cell.keys, tenant))
    # It says nothing any more of what is before the one before.
    assert len(chain(await bench.issue(tenant))) == 3


@pytest.mark.behaviour("S2.5")
async def test_who_has_not_heard_of_a_new_authority_signs_with_it_all_the_same(bench: Bench, ring: Ring) -> None:
    tenant, stale = await bench.cell.tenant(), ring.other_process()
    issuer = Certificates(stale, bench.objects, bench.caches)
    await stale.authorities(tenant)
    await ring.rotated(tenant, "authority")
    assert (await stale.authorities(tenant)).signing.version == 1
    asked = Asked(csr_pem=signing_request())
    issued = await issuer.issue(asked, drafts=bench.drafts(tenant), effects=bench.effects(tenant))

    assert issued.certificate.authority_version == 2
    assert chain(issued)[-1] == (await bench.cell.keys.authorities(tenant)).signing.certificate
    assert [row["authority_version"] for row in await bench.rows(tenant)] == [2]
    assert await bench.paths(tenant) == [issued.certificate.object_path]


@pytest.mark.behaviour("S2.5")
async def test_what_is_being_issued_keeps_its_authority(bench: Bench, ring: Ring) -> None:
    """Its row is there before it is asked which version signs: whoever looks after the change finds it."""
    tenant = await bench.cell.tenant()
    begun = await ring.rotate(tenant, "authority")
    runs = ring.plans[begun.kind].runs
    await runs["publication"](begun)
    order: Any = await bench.certificates._order(Asked(csr_pem=signing_request()), bench.drafts(tenant))
    draft, authority = await bench.certificates._signed(order, tenant)
    await pending.claim(draft.certificate, bench.drafts(tenant), clock=lambda: datetime.now(UTC))
    assert await bench.cell.keys.signs(tenant, authority)
    await runs["use"](begun)
    assert not await bench.cell.keys.signs(tenant, authority)
    await runs["retirement"](begun)

    assert await states(ring, tenant) == [State.ENABLED, State.ENABLED]
    await pending.withdraw(draft.certificate, objects=bench.objects, drafts=bench.drafts(tenant))
    await runs["retirement"](begun)
    assert await states(ring, tenant) == [State.ENABLED, State.RETIRED]


@pytest.mark.behaviour("S2.5")
async def test_what_a_suspected_authority_has_signed_is_trusted_by_nobody_who_asks_a_second_later(
    bench: Bench, ring: Ring
) -> None:
    tenant, other = await bench.cell.tenant(), ring.other_process()
    neighbour = await bench.cell.tenant("org_2")
    before, theirs = await bench.issue(tenant), await bench.issue(neighbour)
    await ring.rotated(tenant, "authority")
    after, _ = await bench.issue(tenant), await settled(other, tenant, 2)
    version = await retire(ring, tenant)

    assert (version.name, version.state) == (FIRST, State.RETIRED)
    assert len(await trusted(ring.other_process(), tenant)) == 1
    for process in (bench.cell.keys, other, ring.other_process()):
        roots = await settled(process, tenant, 1)
        assert (verifies(before, *roots), verifies(after, *roots)) == (False, True)
    # It is shown as it was, and says by whom it was signed; no new one leads back to the old authority.
    assert (await bench.certificates.get(before.certificate, tenant)).pem_chain == before.pem_chain
    assert chain(await bench.issue(tenant))[1:] == [(await bench.cell.keys.authorities(tenant)).signing.certificate]
    assert verifies(theirs, *await trusted(bench.cell.keys, neighbour))
    await enable(ring, tenant)
    assert verifies(before, *await settled(other, tenant, 2))
    assert (await bench.cell.keys.authorities(tenant)).signing.version == 2


@pytest.mark.behaviour("S2.5")
async def test_what_signs_is_not_retired_nor_what_is_about_to(bench: Bench, ring: Ring) -> None:
    tenant = await bench.cell.tenant()
    begun = await ring.rotate(tenant, "authority")
    await ring.plans[begun.kind].runs["publication"](begun)

    for name in (FIRST, SECOND):
        with pytest.raises(PreconditionError) as refused:
            await retire(ring, tenant, name)
        assert refused.value.code == "KEY_VERSION_PRIMARY"
    await ring.ended(begun)
    assert (await bench.issue(tenant)).certificate.authority_version == 2


@pytest.mark.behaviour("S2.5")
async def test_a_rotation_that_is_given_up_before_it_signs_leaves_nothing(
    bench: Bench, ring: Ring, superuser: Any
) -> None:
    tenant = await bench.cell.tenant()
    begun = await ring.rotate(tenant, "authority")
    await ring.plans[begun.kind].runs["publication"](begun)
    await superuser.execute("UPDATE csm_system.tenants SET state = 'SEALED'")
    with pytest.raises(TenantSealedError):
        await ring.other_process().authorities(tenant)
    await ring.runner.run(begun.id)
    await superuser.execute("UPDATE csm_system.tenants SET state = 'ACTIVE'")

    assert (await ring.operation(begun.id)).state is OperationState.FAILED
    assert await states(ring, tenant) == [State.ENABLED]
    await ring.rotated(tenant, "authority")
    assert await states(ring, tenant) == [State.ENABLED, State.RETIRED]


@pytest.mark.behaviour("S2.5")
@pytest.mark.parametrize("algorithm", [KeyAlgorithm.RSA_3072, KeyAlgorithm.EC_P384, KeyAlgorithm.ML_DSA_65])
async def test_the_algorithm_is_the_one_that_was_settled(bench: Bench, ring: Ring, algorithm: KeyAlgorithm) -> None:
    tenant = await bench.cell.tenant(authority=algorithm)
    await bench.issue(tenant)
    await ring.rotated(tenant, "authority")
    new, old = await trusted(bench.cell.keys, tenant)

    assert algorithm_of(new.public_key()) is algorithm_of(old.public_key()) is algorithm
    leaf = chain(await bench.issue(tenant))[0]
    leaf.verify_directly_issued_by(new)


async def test_an_authority_that_was_put_beside_a_tenants_own_is_shown_to_nobody(
    bench: Bench, ring: Ring, superuser: Any
) -> None:
    tenant, stranger = await bench.cell.tenant(), await bench.cell.tenant("org_2")
    await superuser.execute(
        """
        INSERT INTO csm_system.tenant_keys
               (id, tenant_uid, purpose, key_id, version, algorithm, kek_version, wrapped, public, state, use_time)
        SELECT gen_random_uuid(), %s, purpose, key_id, 2, algorithm, kek_version, wrapped, public, state, NULL
          FROM csm_system.tenant_keys WHERE tenant_uid = %s AND purpose = 'authority'
        """,
        (tenant.uid, stranger.uid),
    )

    with pytest.raises(Exception, match="does not open"):
        await ring.other_process().authorities(tenant)
    assert len(await trusted(ring.other_process(), stranger)) == 1
