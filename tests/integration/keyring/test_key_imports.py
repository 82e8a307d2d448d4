"""Keys that a tenant brings along: wrapped on its side, opened for one import, once, and looked at before they stay."""

import base64
import secrets
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bulkhead.v1 import key_imports_pb2, key_requests_pb2, keys_pb2
from control_plane.cli.keyring import wrapping
from control_plane.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    PreconditionError,
    QuotaExceededError,
)
from control_plane.keyring import imports
from control_plane.keys import store as keys_store
from control_plane.keys.named.imports import Method
from control_plane.postgres.placement import Placement
from control_plane.serving.call import begin_call
from tests.fixtures.keyring import Ring

CONTEXT: Any = None
SERVICE: Final = "/bulkhead.v1.KeyImportService"
ImportJob = key_imports_pb2.ImportJob
RAW: Final = secrets.token_bytes(32)


def der(key: Any) -> bytes:
    made: bytes = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made


async def begin(ring: Ring, tenant: Placement, key_id: str = "brought", *, signing: str = "", **more: Any) -> ImportJob:
    begin_call(ring.cell.call(tenant, method=f"{SERVICE}/CreateImportJob"))
    parent = f"tenants/{tenant.tenant_id}"
    job = ImportJob(
        key=f"{parent}/keys/{key_id}",
        purpose=keys_pb2.SIGNING if signing else keys_pb2.ENCRYPTION,
        algorithm=signing,
        **more,
    )
    request = key_imports_pb2.CreateImportJobRequest(parent=parent, import_job=job)
    return await ring.imports.CreateImportJob(request, CONTEXT)


def wrapped(key: bytes, job: ImportJob, **other: Any) -> bytes:
    said = {
        "public_key": base64.b64encode(job.public_key).decode(),
        "hpke_info": base64.b64encode(job.hpke_info).decode(),
        "method": ImportJob.Method.Name(job.method),
    }
    return base64.b64decode(wrapping.wrap(key, {**said, **other}))


async def deliver(ring: Ring, tenant: Placement, job: ImportJob, content: bytes) -> keys_pb2.Key:
    begin_call(ring.cell.call(tenant, method=f"{SERVICE}/ImportKey"))
    return await ring.imports.ImportKey(key_imports_pb2.ImportKeyRequest(name=job.name, wrapped_key=content), CONTEXT)


@pytest.mark.parametrize("method", [None, *Method])
async def test_a_key_comes_in_as_it_was_by_each_method(method: Method | None, ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    job = await begin(ring, tenant, method=ImportJob.Method.Value(method) if method else 0)
    key = await deliver(ring, tenant, job, wrapped(RAW, job))
    (entry,) = [each for each in await ring.log(tenant) if each[0].endswith("/versions/1")]
    rows = await ring.cell.database.system().run(lambda tx: keys_store.all_of(tx, tenant.uid))

    assert (await ring.other_process().named_key(tenant, "brought")).private == RAW
    assert key.lifecycle.origin == key_requests_pb2.KeyLifecycle.IMPORTED
    assert (key.primary_version, key.algorithm) == (1, "AES-256-GCM")
    assert entry[1]["origin"] == "IMPORTED"
    assert [row for row in rows if row.key_id.startswith("import/")] == []
    assert ImportJob.Method.Name(job.method) == (method or Method.HPKE_AES)


@pytest.mark.parametrize(
    ("algorithm", "make"),
    [
        ("EC_P256", lambda: ec.generate_private_key(ec.SECP256R1())),
        ("EC_P384", lambda: ec.generate_private_key(ec.SECP384R1())),
        ("ED25519", Ed25519PrivateKey.generate),
        ("RSA_3072", lambda: rsa.generate_private_key(65537, 3072)),
        ("ML_DSA_65", mldsa.MLDSA65PrivateKey.generate),
    ],
)
async def test_a_private_key_comes_in_and_its_public_half_is_its_own(algorithm: str, make: Any, ring: Ring) -> None:
    tenant, key = await ring.cell.tenant(), make()
    await ring.cell.database.system().run(
        lambda tx: tx.execute("UPDATE csm_system.tenants SET post_quantum = 'HYBRID'")
    )
    job = await begin(ring, tenant, signing=algorithm)
    await deliver(ring, tenant, job, wrapped(der(key), job))
    (version,) = await ring.versions(tenant, "brought")
    own = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    assert version.public_pem == own.decode()


async def test_the_next_version_is_brought_along_too_and_is_not_made_here(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    for number in (1, 2):
        job = await begin(ring, tenant)
        key = await deliver(ring, tenant, job, wrapped(bytes([number]) + RAW[1:], job))
        assert key.primary_version == number
    with pytest.raises(PreconditionError, match="imported, too") as refused:
        await ring.rotate(tenant, "brought")
    with pytest.raises(AlreadyExistsError):
        await begin(ring, tenant, signing="ED25519")
    await ring.create(tenant, "made", "ENCRYPTION")
    with pytest.raises(AlreadyExistsError):
        await begin(ring, tenant, "made")
    other = ring.other_process()

    assert refused.value.code == "ROTATION_NOT_SUPPORTED"
    assert (await other.named_key(tenant, "brought")).private[0] == 2
    assert (await other.named_key(tenant, "brought", version=1)).private[0] == 1


async def test_an_import_is_used_once_and_the_same_again_gets_the_same_answer(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    job = await begin(ring, tenant)
    content = wrapped(RAW, job)
    first, second = [await deliver(ring, tenant, job, content) for _ in range(2)]
    with pytest.raises(PreconditionError) as used:
        await deliver(ring, tenant, job, wrapped(RAW, job))

    assert first == second
    assert used.value.code == "IMPORT_JOB_USED"
    assert len(await ring.versions(tenant, "brought")) == 1


async def test_what_is_late_is_refused_and_forgotten(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant = await ring.cell.tenant()
    monkeypatch.setattr(imports, "LIFETIME", timedelta())
    job = await begin(ring, tenant)
    with pytest.raises(PreconditionError) as late:
        await deliver(ring, tenant, job, wrapped(RAW, job))
    await ring.disposal.look()
    with pytest.raises(NotFoundError):
        await deliver(ring, tenant, job, wrapped(RAW, job))
    rows = await ring.cell.database.system().run(lambda tx: keys_store.all_of(tx, tenant.uid))

    assert late.value.code == "IMPORT_JOB_EXPIRED"
    assert [row for row in rows if row.key_id.startswith("import/")] == []


async def test_an_import_is_open_for_three_days_and_a_tenant_has_so_many(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    jobs = [await begin(ring, tenant, f"key-{number}") for number in range(10)]
    with pytest.raises(QuotaExceededError) as refused:
        await begin(ring, tenant, "another")
    await ring.disposal.look()
    await deliver(ring, tenant, jobs[0], wrapped(RAW, jobs[0]))
    await begin(ring, tenant, "another")
    made = (await ring.key(tenant, "key-0")).create_time.ToDatetime()

    assert refused.value.code == "IMPORT_LIMIT_REACHED"
    assert abs(jobs[0].expire_time.ToDatetime() - made - timedelta(days=3)) < timedelta(minutes=5)


@pytest.mark.behaviour("S2.7")
async def test_what_was_wrapped_for_one_import_comes_in_by_no_other(ring: Ring) -> None:
    tenant, other = await ring.cell.tenant(), await ring.cell.tenant("org_2")
    job, sibling = await begin(ring, tenant), await begin(ring, tenant, "sibling")
    foreign = await begin(ring, other)
    hpke = [wrapped(RAW, sibling), wrapped(RAW, foreign)]
    # Even under the right key: what it is said to be for is bound, too.
    infos = (sibling.hpke_info, foreign.hpke_info, b"", job.hpke_info + b" ")
    hpke += [wrapped(RAW, job, hpke_info=base64.b64encode(info).decode()) for info in infos]
    chacha = wrapped(RAW, job, method="HPKE_MLKEM768_X25519_CHACHA20_POLY1305")
    altered = wrapped(RAW, job)
    for content in (*hpke, chacha, altered[:-1], bytes([altered[0] ^ 1]) + altered[1:], b"none"):
        with pytest.raises(InvalidArgumentError) as refused:
            await deliver(ring, tenant, job, content)
        assert [each.reason for each in refused.value.violations] == ["WRAPPED_KEY"]
    with pytest.raises(NotFoundError):
        await deliver(ring, other, job, wrapped(RAW, job))

    assert (await deliver(ring, tenant, job, wrapped(RAW, job))).primary_version == 1


async def test_of_a_device_what_is_altered_or_for_another_import_does_not_open(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    method = ImportJob.RSA_OAEP_4096_SHA256_AES_KWP
    job, other = await begin(ring, tenant, method=method), await begin(ring, tenant, "other", method=method)
    content = wrapped(RAW, job)
    changed = [content[:n] + bytes([content[n] ^ 1]) + content[n + 1 :] for n in (0, 511, 512, len(content) - 1)]
    for each in (*changed, wrapped(RAW, other), content[:512], content[:-8], b"none"):
        with pytest.raises(InvalidArgumentError) as refused:
            await deliver(ring, tenant, job, each)
        assert [each.reason for each in refused.value.violations] == ["WRAPPED_KEY"]


async def test_a_key_that_is_not_taken_is_in_no_error_and_can_be_replaced(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    job = await begin(ring, tenant, signing="EC_P256")
    bad = der(ec.generate_private_key(ec.SECP256K1()))
    with pytest.raises(InvalidArgumentError) as refused:
        await deliver(ring, tenant, job, wrapped(bad, job))
    said = repr(refused.value) + str(refused.value.__cause__) + str(refused.value.__context__)
    good = der(ec.generate_private_key(ec.SECP256R1()))

    assert [each.reason for each in refused.value.violations] == ["KEY_CURVE", "KEY_ALGORITHM"]
    assert bad.hex() not in said
    assert (await deliver(ring, tenant, job, wrapped(good, job))).primary_version == 1


@pytest.mark.behaviour("S2.8")
async def test_where_post_quantum_is_required_nothing_weaker_wraps_and_nothing_weaker_comes_in(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    await ring.cell.database.system().run(
        lambda tx: tx.execute("UPDATE csm_system.tenants SET post_quantum = 'REQUIRED'")
    )
    codes = []
    for asked in ({"method": ImportJob.RSA_OAEP_4096_SHA256_AES_KWP}, {"signing": "EC_P256"}):
        with pytest.raises(PreconditionError) as refused:
            await begin(ring, tenant, **asked)
        codes.append(refused.value.code)
    await begin(ring, tenant)
    await begin(ring, tenant, "signer", signing="ML_DSA_65")

    assert codes == ["KEY_POLICY"] * 2


async def test_everything_that_is_wrong_with_an_import_is_said_at_once(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    with pytest.raises(InvalidArgumentError) as refused:
        await begin(ring, tenant, "kek", signing="RSA_2048", method=77)
    job = ImportJob(key="tenants/org_2/keys/x", purpose=keys_pb2.ENCRYPTION)
    request = key_imports_pb2.CreateImportJobRequest(parent="tenants/org_1", import_job=job)
    with pytest.raises(InvalidArgumentError) as foreign:
        await ring.imports.CreateImportJob(request, CONTEXT)

    assert [each.field for each in refused.value.violations] == [
        "import_job.key",
        "import_job.algorithm",
        "import_job.method",
    ]
    assert [each.field for each in foreign.value.violations] == ["import_job.key"]


@pytest.mark.behaviour("S2.6")
async def test_a_rotation_of_the_kek_between_the_two_calls_does_no_harm(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    job = await begin(ring, tenant)
    await ring.rotated(tenant, "kek")
    await deliver(ring, tenant, job, wrapped(RAW, job))

    assert (await ring.other_process().named_key(tenant, "brought")).private == RAW


def test_what_the_command_reads_is_checked_on_its_owners_side(tmp_path: Path) -> None:
    raw, pem, none = tmp_path / "raw", tmp_path / "pem", tmp_path / "none"
    raw.write_bytes(RAW)
    key = ec.generate_private_key(ec.SECP256R1())
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )

    assert wrapping.read(raw, is_signing=False) == RAW
    assert wrapping.read(pem, is_signing=True) == der(key)
    for file, signing in ((pem, False), (raw, True), (none, True)):
        with pytest.raises(wrapping.UnusableKeyError):
            wrapping.read(file, is_signing=signing)
