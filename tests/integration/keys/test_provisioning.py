"""Making and destroying a tenant's keys survives every fault, and being killed at every step."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Final

import psycopg
import pytest
from psycopg.rows import DictRow

from control_plane.errors import UnavailableError
from control_plane.keys.algorithms import KeyAlgorithm, new_key
from control_plane.keys.model import BUILT_IN, KekRef
from control_plane.keys.named.rsa_pool import RsaPool
from control_plane.keys.service import TenantKeys
from control_plane.keys.vault_software import SoftwareVault
from control_plane.postgres.database import Database, PostgresSettings
from control_plane.postgres.placement import Placement
from tests.fixtures import faults as broken
from tests.fixtures.faults import NOW, Fault, Faults, faulty_keys, placement_of

Superuser = psycopg.AsyncConnection[DictRow]

ALPHA: Final = placement_of(1)
SOFT_FAULTS: Final = [Fault.FAILED_BEFORE, Fault.DONE_BUT_REPORTED_FAILED]


@pytest.fixture
async def vault(tmp_path: Path) -> SoftwareVault:
    return await SoftwareVault.open(tmp_path / "vault")


async def _census(superuser: Superuser, vault: SoftwareVault) -> tuple[list[tuple[str, str]], list[KekRef]]:
    cursor = await superuser.execute("SELECT tenant_uid, purpose FROM csm_system.tenant_keys ORDER BY 1, 2")
    return [(str(row["tenant_uid"]), row["purpose"]) for row in await cursor.fetchall()], await vault.keks()


def _whole(*tenants: Placement) -> tuple[list[tuple[str, str]], list[KekRef]]:
    rows = [(str(tenant.uid), purpose.value) for tenant in tenants for purpose in BUILT_IN]
    return sorted(rows), [KekRef(tenant_uid=tenant.uid, version=1) for tenant in tenants]


async def _works(keys: TenantKeys, tenant: Placement) -> bool:
    sealed = await keys.encrypt(tenant, b"plain", object_name="name")
    await keys.token_signer(tenant)
    await keys.authorities(tenant)
    await keys.derive(tenant, b"label")
    return await keys.decrypt(tenant, sealed, object_name="name") == b"plain"


@pytest.mark.parametrize("fault", SOFT_FAULTS)
async def test_making_keys_again_after_any_fault_completes_them(
    vault: SoftwareVault, database: Database, superuser: Superuser, fault: Fault
) -> None:
    keys, steps = TenantKeys(vault, database), 0
    while True:
        faults = Faults(fault, strike=steps)
        broken_keys = faulty_keys(vault, database, faults=faults)
        if await _runs(broken_keys.create(ALPHA, now=NOW, display_name="Alpha")):
            break
        await keys.create(ALPHA, now=NOW, display_name="Alpha")

        assert await _census(superuser, vault) == _whole(ALPHA)
        assert await _works(keys, ALPHA)
        await keys.destroy(ALPHA)
        assert await _census(superuser, vault) == ([], [])
        steps += 1
    assert steps == 22


@pytest.mark.parametrize("fault", SOFT_FAULTS)
async def test_destroying_keys_again_after_any_fault_completes_it(
    vault: SoftwareVault, database: Database, superuser: Superuser, fault: Fault
) -> None:
    keys, steps = TenantKeys(vault, database), 0
    while True:
        await keys.create(ALPHA, now=NOW, display_name="Alpha")
        faults = Faults(fault, strike=steps)
        if await _runs(faulty_keys(vault, database, faults=faults).destroy(ALPHA)):
            break
        await keys.destroy(ALPHA)

        assert await _census(superuser, vault) == ([], [])
        steps += 1
    assert steps == 3


async def _runs(work: object) -> bool:
    try:
        await work  # type: ignore[misc]  # either use case
    except UnavailableError:
        return False
    return True


@pytest.mark.parametrize(("action", "steps"), [("create", 22), ("destroy", 3)])
async def test_keys_are_whole_or_gone_once_what_was_killed_is_run_again(
    vault: SoftwareVault,
    tmp_path: Path,
    postgres_settings: PostgresSettings,
    superuser: Superuser,
    *,
    action: str,
    steps: int,
) -> None:
    place = [str(postgres_settings.socket_dir), str(postgres_settings.port), postgres_settings.dbname]
    run = await asyncio.create_subprocess_exec(
        sys.executable, "-m", broken.__name__, action, str(tmp_path / "vault"), *place,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    said, complaint = await run.communicate()
    tenants = [placement_of(first + n) for first in (1, 101) for n in range(steps + 1)]

    assert run.returncode == 0, complaint.decode()
    assert int(said) == steps
    assert await _census(superuser, vault) == (_whole(*tenants) if action == "create" else ([], []))


async def test_many_that_make_a_tenants_keys_at_once_end_with_the_same(
    vault: SoftwareVault, database: Database, superuser: Superuser
) -> None:
    processes = [TenantKeys(vault, database) for _ in range(6)]
    await asyncio.gather(*(keys.create(ALPHA, now=NOW, display_name="Alpha") for keys in processes))
    sealed = [await keys.encrypt(ALPHA, b"plain", object_name="name") for keys in processes]

    assert await _census(superuser, vault) == _whole(ALPHA)
    assert len({(await keys.token_signer(ALPHA)).kid for keys in processes}) == 1
    assert {await processes[0].decrypt(ALPHA, each, object_name="name") for each in sealed} == {b"plain"}


async def test_a_purpose_that_is_new_is_given_to_a_tenant_that_has_the_others(
    vault: SoftwareVault, database: Database, superuser: Superuser
) -> None:
    keys = TenantKeys(vault, database)
    await keys.create(ALPHA, now=NOW, display_name="Alpha")
    kid = (await keys.token_signer(ALPHA)).kid
    await superuser.execute("DELETE FROM csm_system.tenant_keys WHERE purpose = 'enrolment'")
    await keys.create(ALPHA, now=NOW, display_name="Alpha")

    assert await _census(superuser, vault) == _whole(ALPHA)
    assert (await keys.token_signer(ALPHA)).kid == kid
    assert await _works(TenantKeys(vault, database), ALPHA)


async def test_an_authority_with_rsa_takes_its_key_from_the_pool(vault: SoftwareVault, database: Database) -> None:
    ready = new_key(KeyAlgorithm.RSA_3072)
    pool = RsaPool(make=lambda _: ready)
    keys = TenantKeys(vault, database, pool=pool)
    await keys.create(ALPHA, now=NOW, display_name="Alpha", authority_algorithm=KeyAlgorithm.RSA_3072)

    assert (await keys.authorities(ALPHA)).signing.private_key.public_key() == ready.public_key()
