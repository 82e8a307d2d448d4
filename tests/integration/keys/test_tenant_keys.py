"""The keys of tenants, in a real database and a real vault: what they open, and what they do not."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import structlog
from psycopg.rows import DictRow

from control_plane.keys.model import IntegrityError, KekRef, MissingKeyError, Purpose
from control_plane.keys.service import TenantKeys
from control_plane.keys.vault_software import SoftwareVault
from control_plane.postgres.database import Database, PostgresSettings
from control_plane.postgres.placement import Placement
from tests.fixtures.faults import NOW, placement_of
from tests.fixtures.token_keys import ed25519

Superuser = psycopg.AsyncConnection[DictRow]

ALPHA, BETA = placement_of(1), placement_of(2)
NAME, PLAIN = "storage/org_1/a.pem", b"a canary in plain sight"
Use = Callable[[TenantKeys, Placement], Awaitable[object]]
USES: dict[str, Use] = {
    "storage": lambda keys, tenant: keys.encrypt(tenant, PLAIN, object_name=NAME),
    "tokens": lambda keys, tenant: keys.token_signer(tenant),
    "authority": lambda keys, tenant: keys.authorities(tenant),
    "audit": lambda keys, tenant: keys.audit_signer(tenant),
    "enrolment": lambda keys, tenant: keys.derive(tenant, b"label"),
}


@pytest.fixture
def vault_dir(tmp_path: Path) -> Path:
    return tmp_path / "vault"


@pytest.fixture
async def vault(vault_dir: Path) -> SoftwareVault:
    return await SoftwareVault.open(vault_dir)


@pytest.fixture
async def keys(vault: SoftwareVault, database: Database) -> TenantKeys:
    """The keys of a process that made both tenants'; nothing is cached yet."""
    made = TenantKeys(vault, database)
    await made.create(ALPHA, now=NOW, display_name="Alpha")
    await made.create(BETA, now=NOW, display_name="Beta")
    return made


@pytest.fixture
def restarted(vault: SoftwareVault, database: Database) -> Callable[[], TenantKeys]:
    return lambda: TenantKeys(vault, database)


async def _rows(superuser: Superuser, tenant: Placement) -> list[dict[str, Any]]:
    cursor = await superuser.execute(
        "SELECT * FROM csm_system.tenant_keys WHERE tenant_uid = %s ORDER BY purpose", [tenant.uid]
    )
    return await cursor.fetchall()


async def test_a_tenant_gets_one_key_for_each_purpose_under_a_kek_of_its_own(
    keys: TenantKeys, vault: SoftwareVault, superuser: Superuser
) -> None:
    rows = await _rows(superuser, ALPHA)

    assert [(row["purpose"], row["algorithm"], row["version"], row["kek_version"], row["state"]) for row in rows] == [
        ("audit", "Ed25519", 1, 1, "ENABLED"),
        ("authority", "ECDSA-P256-SHA256", 1, 1, "ENABLED"),
        ("enrolment", "HMAC-SHA256", 1, 1, "ENABLED"),
        ("services", "AES-256-GCM", 1, 1, "ENABLED"),
        ("storage", "AES-256-GCM", 1, 1, "ENABLED"),
        ("tokens", "Ed25519", 1, 1, "ENABLED"),
    ]
    assert await vault.keks() == [KekRef(tenant_uid=tenant.uid, version=1) for tenant in (ALPHA, BETA)]
    assert not keys.hsm_backed


async def test_keys_are_the_same_after_a_restart_and_after_being_made_again(
    keys: TenantKeys, restarted: Callable[[], TenantKeys]
) -> None:
    sealed = await keys.encrypt(ALPHA, PLAIN, object_name=NAME)
    again = restarted()
    await again.create(ALPHA, now=NOW + timedelta(days=1), display_name="Another name")

    assert await again.decrypt(ALPHA, sealed, object_name=NAME) == PLAIN
    assert (await again.authorities(ALPHA)).signing.certificate == (await keys.authorities(ALPHA)).signing.certificate
    assert (await again.token_signer(ALPHA)).kid == (await keys.token_signer(ALPHA)).kid
    assert await again.derive(ALPHA, b"label") == await keys.derive(ALPHA, b"label")


async def test_the_keys_of_two_tenants_have_nothing_in_common(keys: TenantKeys) -> None:
    alpha, beta = [await keys.token_signer(tenant) for tenant in (ALPHA, BETA)]
    one, other = [(await keys.authorities(tenant)).signing for tenant in (ALPHA, BETA)]

    assert alpha.kid != beta.kid
    assert alpha.private_key.public_key() != beta.private_key.public_key()
    assert one.private_key.public_key() != other.private_key.public_key()
    assert one.certificate.subject != other.certificate.subject
    assert await keys.derive(ALPHA, b"label") != await keys.derive(BETA, b"label")
    assert await keys.derive(ALPHA, b"label") != await keys.derive(ALPHA, b"other")


async def test_what_was_sealed_opens(keys: TenantKeys) -> None:
    for size in (0, 1, 4096, 256 * 1024 + 1):
        sealed = await keys.encrypt(ALPHA, b"x" * size, object_name=NAME)

        assert len(sealed) == size + 73 + 16 * max(1, -(-size // 65_536))
        assert await keys.decrypt(ALPHA, sealed, object_name=NAME) == b"x" * size
        assert await keys.encrypt(ALPHA, b"x" * size, object_name=NAME) != sealed


@pytest.mark.behaviour("S2.7")
@pytest.mark.behaviour("T-K1")
async def test_sealed_data_opens_for_its_tenant_and_its_object_only_and_a_refusal_is_an_event(keys: TenantKeys) -> None:
    sealed = await keys.encrypt(ALPHA, PLAIN, object_name=NAME)
    changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    other_version = sealed[:8] + b"\x02" + sealed[9:]
    assert await keys.decrypt(ALPHA, sealed, object_name=NAME) == PLAIN
    refusals = set()
    with structlog.testing.capture_logs() as events:
        for tenant, data, name in (
            (BETA, sealed, NAME),
            (ALPHA, sealed, "storage/org_1/b.pem"),
            (ALPHA, other_version, NAME),
            (ALPHA, changed, NAME),
            (ALPHA, sealed[:20], NAME),
            (ALPHA, PLAIN, NAME),
        ):
            with pytest.raises(IntegrityError) as refused:
                await keys.decrypt(tenant, data, object_name=name)
            refusals.add(str(refused.value).removeprefix(name))

    assert len(refusals) == 1
    assert [event["event"] for event in events] == ["sealed_data_refused"] * 6
    assert repr(PLAIN)[2:-1] not in str(events)


@pytest.mark.behaviour("S2.7")
async def test_sealed_data_does_not_open_for_another_tenant_that_had_its_key(
    keys: TenantKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it is bound to holds alone, whatever mixed the keys up."""
    sealed = await keys.encrypt(ALPHA, PLAIN, object_name=NAME)
    alphas = await keys._opened(ALPHA.uid, Purpose.STORAGE, version=1)

    async def opened(*_: object, **__: object) -> object:
        return alphas

    monkeypatch.setattr(keys, "_opened", opened)

    assert await keys.decrypt(ALPHA, sealed, object_name=NAME) == PLAIN
    with pytest.raises(IntegrityError):
        await keys.decrypt(BETA, sealed, object_name=NAME)


@pytest.mark.behaviour("T-K1")
async def test_a_wrapped_key_in_another_tenants_row_does_not_open(
    keys: TenantKeys, restarted: Callable[[], TenantKeys], superuser: Superuser
) -> None:
    await superuser.execute(
        """
        UPDATE csm_system.tenant_keys AS mine SET wrapped = theirs.wrapped, public = theirs.public
          FROM csm_system.tenant_keys AS theirs
         WHERE mine.tenant_uid = %s AND theirs.tenant_uid = %s AND mine.purpose = theirs.purpose
        """,
        [ALPHA.uid, BETA.uid],
    )

    for use in USES.values():
        with structlog.testing.capture_logs() as events, pytest.raises(IntegrityError):
            await use(restarted(), ALPHA)
        assert [event["event"] for event in events] == ["wrapped_key_refused"]
        await use(restarted(), BETA)


@pytest.mark.behaviour("T-K1")
async def test_a_row_that_was_changed_in_the_database_does_not_open(
    keys: TenantKeys, restarted: Callable[[], TenantKeys], superuser: Superuser
) -> None:
    await superuser.execute("CREATE TABLE public.untouched AS SELECT * FROM csm_system.tenant_keys")
    for change in (
        "version = 2",
        "algorithm = algorithm || '2'",
        "id = gen_random_uuid()",
        "wrapped = ''",
        "wrapped = wrapped || 'x'",
        "wrapped = set_byte(wrapped, 8, 2)",
        "wrapped = set_byte(wrapped, 40, 7 # get_byte(wrapped, 40))",
    ):
        await superuser.execute(f"UPDATE csm_system.tenant_keys SET {change} WHERE tenant_uid = '{ALPHA.uid}'".encode())

        for use in USES.values():
            with pytest.raises(IntegrityError):
                await use(restarted(), ALPHA)
            await use(restarted(), BETA)
        await superuser.execute("DELETE FROM csm_system.tenant_keys")
        await superuser.execute("INSERT INTO csm_system.tenant_keys SELECT * FROM public.untouched")
    for use in USES.values():
        await use(restarted(), ALPHA)


@pytest.mark.behaviour("T-K1")
async def test_a_key_moved_to_another_purpose_does_not_open(
    keys: TenantKeys, restarted: Callable[[], TenantKeys], superuser: Superuser
) -> None:
    await superuser.execute(
        "UPDATE csm_system.tenant_keys SET version = 2 WHERE purpose = 'storage' AND tenant_uid = %s", [ALPHA.uid]
    )
    await superuser.execute(
        "UPDATE csm_system.tenant_keys SET purpose = 'storage' WHERE purpose = 'enrolment' AND tenant_uid = %s",
        [ALPHA.uid],
    )

    for purpose in ("storage", "enrolment"):
        with pytest.raises((IntegrityError, MissingKeyError)):
            await USES[purpose](restarted(), ALPHA)


async def test_a_public_half_that_was_changed_in_the_database_is_refused(
    keys: TenantKeys, restarted: Callable[[], TenantKeys], superuser: Superuser
) -> None:
    await superuser.execute(
        """
        UPDATE csm_system.tenant_keys AS mine SET public = theirs.public FROM csm_system.tenant_keys AS theirs
         WHERE mine.tenant_uid = %s AND theirs.tenant_uid = %s AND mine.purpose = theirs.purpose
        """,
        [ALPHA.uid, BETA.uid],
    )

    for purpose in ("tokens", "authority"):
        with pytest.raises(IntegrityError):
            await USES[purpose](restarted(), ALPHA)
        await USES[purpose](restarted(), BETA)


@pytest.mark.behaviour("S2.1")
async def test_a_copy_of_the_database_opens_nothing_without_the_vault(
    keys: TenantKeys, database: Database, superuser: Superuser, tmp_path: Path
) -> None:
    sealed = await keys.encrypt(ALPHA, PLAIN, object_name=NAME)
    thief = TenantKeys(await SoftwareVault.open(tmp_path / "thief"), database)
    secrets = [await keys.derive(ALPHA, b""), ed25519((await keys.token_signer(ALPHA)).private_key).private_bytes_raw()]
    dump = repr(await _rows(superuser, ALPHA))

    assert not any(repr(secret)[2:-1] in dump for secret in secrets)
    with pytest.raises(IntegrityError):
        await thief.decrypt(ALPHA, sealed, object_name=NAME)
    for use in USES.values():
        with pytest.raises(MissingKeyError):
            await use(thief, ALPHA)


async def test_a_lost_kek_is_noticed_and_never_replaced(
    keys: TenantKeys, restarted: Callable[[], TenantKeys], vault: SoftwareVault
) -> None:
    await vault.destroy_kek(KekRef(tenant_uid=ALPHA.uid, version=1))

    with pytest.raises(MissingKeyError):
        await restarted().create(ALPHA, now=NOW, display_name="Alpha")
    assert await vault.keks() == [KekRef(tenant_uid=BETA.uid, version=1)]


async def test_a_token_key_is_found_by_its_id_with_the_tenant_that_it_speaks_for(
    keys: TenantKeys, restarted: Callable[[], TenantKeys]
) -> None:
    signer = await keys.token_signer(ALPHA)
    found = await restarted().token_verifier(signer.kid)

    assert found is not None
    assert (found.kid, found.tenant_uid) == (signer.kid, ALPHA.uid)
    assert found.public_key == signer.private_key.public_key()


async def test_no_other_id_finds_a_token_key(keys: TenantKeys, superuser: Superuser) -> None:
    others = [row["id"] for row in await _rows(superuser, ALPHA) if row["purpose"] != "tokens"]

    for kid in (*others, uuid4(), ALPHA.uid, UUID(int=0)):
        assert await keys.token_verifier(kid) is None


async def test_a_token_key_that_was_unknown_is_found_once_it_is_there(keys: TenantKeys, superuser: Superuser) -> None:
    """A process that is asked too early does not hold on to its answer."""
    signer = await keys.token_signer(ALPHA)
    await superuser.execute("UPDATE csm_system.tenant_keys SET state = 'RETIRED' WHERE id = %s", [signer.kid])
    assert await keys.token_verifier(signer.kid) is None
    await superuser.execute("UPDATE csm_system.tenant_keys SET state = 'ENABLED' WHERE id = %s", [signer.kid])

    assert await keys.token_verifier(signer.kid) is not None


async def test_destroyed_keys_are_gone_from_database_vault_and_memory(
    keys: TenantKeys, vault: SoftwareVault, superuser: Superuser
) -> None:
    sealed = await keys.encrypt(ALPHA, PLAIN, object_name=NAME)
    signer = await keys.token_signer(ALPHA)
    assert await keys.token_verifier(signer.kid) is not None
    await keys.destroy(ALPHA)
    await keys.destroy(ALPHA)

    assert await _rows(superuser, ALPHA) == []
    assert await vault.keks() == [KekRef(tenant_uid=BETA.uid, version=1)]
    assert await keys.token_verifier(signer.kid) is None
    with pytest.raises(IntegrityError):
        await keys.decrypt(ALPHA, sealed, object_name=NAME)
    for use in USES.values():
        with pytest.raises(MissingKeyError):
            await use(keys, ALPHA)
        await use(keys, BETA)


async def test_rows_restored_from_a_backup_stay_shut_once_the_kek_is_destroyed(
    keys: TenantKeys, restarted: Callable[[], TenantKeys], superuser: Superuser
) -> None:
    sealed = await keys.encrypt(ALPHA, PLAIN, object_name=NAME)
    await superuser.execute("CREATE TABLE public.backup AS SELECT * FROM csm_system.tenant_keys")
    await keys.destroy(ALPHA)
    await superuser.execute(
        "INSERT INTO csm_system.tenant_keys SELECT * FROM public.backup WHERE tenant_uid = %s", [ALPHA.uid]
    )

    with pytest.raises(IntegrityError):
        await restarted().decrypt(ALPHA, sealed, object_name=NAME)


async def test_opened_keys_are_kept_and_forgotten_when_told(keys: TenantKeys, superuser: Superuser) -> None:
    sealed = await keys.encrypt(ALPHA, PLAIN, object_name=NAME)
    await superuser.execute("DELETE FROM csm_system.tenant_keys WHERE tenant_uid = %s", [ALPHA.uid])
    assert await keys.decrypt(ALPHA, sealed, object_name=NAME) == PLAIN
    keys.forget(BETA.uid)
    assert await keys.decrypt(ALPHA, sealed, object_name=NAME) == PLAIN
    keys.forget(ALPHA.uid)

    with pytest.raises(MissingKeyError):
        await keys.encrypt(ALPHA, PLAIN, object_name=NAME)
    with pytest.raises(IntegrityError):
        await keys.decrypt(ALPHA, sealed, object_name=NAME)


async def test_many_first_uses_at_once_agree(keys: TenantKeys, restarted: Callable[[], TenantKeys]) -> None:
    cold = restarted()
    sealed = await asyncio.gather(*(cold.encrypt(ALPHA, PLAIN, object_name=NAME) for _ in range(32)))

    assert [await keys.decrypt(ALPHA, each, object_name=NAME) for each in sealed] == [PLAIN] * 32


async def test_the_certificate_services_role_reads_keys_and_makes_none(
    keys: TenantKeys, vault: SoftwareVault, postgres_settings: PostgresSettings
) -> None:
    async with Database.open(replace(postgres_settings, system_role="csm_directory")) as database:
        other = TenantKeys(vault, database)

        assert (await other.token_signer(ALPHA)).kid == (await keys.token_signer(ALPHA)).kid
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await other.destroy(ALPHA)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await other.create(placement_of(3), now=NOW, display_name="Gamma")


async def test_what_the_keys_give_out_shows_no_private_key(keys: TenantKeys) -> None:
    signer, authority = await keys.token_signer(ALPHA), await keys.authorities(ALPHA)
    seed = ed25519(signer.private_key).private_bytes_raw()
    shown = repr([keys, signer, authority, vars(keys)])

    assert "private_key" not in shown
    assert repr(seed)[2:-1] not in shown
