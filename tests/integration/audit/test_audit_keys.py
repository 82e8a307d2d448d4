"""The key of a tenant's log through its life: its rotation, a seal, its end, and who else signs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from control_plane.audit.notary import Notary
from control_plane.audit.service import verify_log
from control_plane.errors import TenantSealedError, UnavailableError
from control_plane.keys.model import IntegrityError, MissingKeyError, Purpose
from control_plane.keys.named import model as named_model
from control_plane.postgres.database import Database, PostgresSettings
from control_plane.postgres.placement import Placement
from tests.fixtures.cell import Cell
from tests.fixtures.keyring import Ring
from tests.integration.audit.signed import (
    Superuser,
    restarted,
    signed,
    verified,
    write,
)


@pytest.fixture
async def elsewhere(cell: Cell, postgres_settings: PostgresSettings) -> AsyncIterator[Notary]:
    """Be the certificate service, which may make no key and publish none."""
    async with Database.open(replace(postgres_settings, system_role="csm_directory")) as database:
        yield Notary(database, type(cell.keys)(cell.keys._vault, database), publication=None)


@pytest.mark.behaviour("S2.14")
async def test_after_a_rotation_the_new_version_signs_and_what_the_old_one_signed_holds(
    cell: Cell, ring: Ring, log: Placement, superuser: Superuser
) -> None:
    versions = [(await signed(cell, log))[1]]
    for _ in range(2):
        await ring.rotated(log, "audit")
        await write(cell, log)
        await cell.notary.sign(log)
        versions.append((await signed(cell, log))[1])
    keys = await cell.publication.log_keys(log)
    ends = [keys.end_time(version) for version in (1, 2, 3)]
    told = [
        details.get("public_key") for resource, details in await ring.log(log) if "/keys/audit/versions/" in resource
    ]

    assert versions == [1, 2, 3]
    assert [key.version for key in keys.keys] == [1, 2, 3]
    assert ends == [keys.keys[1].previous_end_time, keys.keys[2].previous_end_time, None]
    assert told == [key.public.hex() for key in keys.keys[1:]]


async def test_a_rotation_of_a_key_that_never_signed_publishes_both(
    cell: Cell, ring: Ring, placement: Placement
) -> None:
    await ring.rotated(placement, "audit")
    await write(cell, placement)
    await cell.notary.sign(placement)

    assert (await signed(cell, placement))[1] == 2
    assert [key.version for key in (await cell.publication.log_keys(placement)).keys] == [1, 2]


async def test_a_new_version_begins_after_the_one_before_whatever_the_clocks_say(
    cell: Cell, ring: Ring, placement: Placement
) -> None:
    ahead = datetime.now(UTC) + timedelta(hours=1)
    await cell.publication.ensure(placement, now=ahead)
    await ring.rotated(placement, "audit")
    await write(cell, placement)
    first, second = (await cell.publication.log_keys(placement)).keys
    with pytest.raises(UnavailableError, match="this clock is behind"):
        await cell.notary.sign(placement)
    later = Notary(cell.database, cell.keys, publication=cell.publication, now=lambda: ahead + timedelta(seconds=1))
    await later.sign(placement)

    assert first.start_time == ahead < second.start_time
    assert (await signed(cell, placement))[1] == 2


async def test_a_version_that_is_not_published_signs_nothing(
    cell: Cell, ring: Ring, log: Placement, superuser: Superuser
) -> None:
    await ring.rotated(log, "audit")
    await write(cell, log)
    await superuser.execute("DELETE FROM csm_system.audit_keys WHERE version = 2")
    with pytest.raises(UnavailableError) as raised:
        await cell.notary.sign(log)

    assert raised.value.code == "KEY_NOT_PUBLISHED"


@pytest.mark.behaviour("S2.14")
async def test_a_key_outlives_a_new_kek_and_what_it_signed_outlives_the_key(
    cell: Cell, ring: Ring, log: Placement, superuser: Superuser
) -> None:
    await ring.rotated(log, "kek")
    await write(cell, log)
    await restarted(cell).sign(log)
    before = await signed(cell, log)
    await cell.keys.destroy(log)
    found = await verified(cell, log)

    assert before[1] == 1
    assert (found.last_signed is not None, found.first_forged_key, found.first_broken) == (True, 0, 0)


@pytest.mark.behaviour("S2.14")
async def test_of_a_sealed_tenant_the_log_goes_on_and_is_signed_once_it_is_unsealed(
    cell: Cell, log: Placement, superuser: Superuser
) -> None:
    await write(cell, log)
    await superuser.execute("UPDATE csm_system.tenants SET state = 'SEALED' WHERE uid = %s", [log.uid])
    notary = Notary(cell.database, type(cell.keys)(cell.keys._vault, cell.database), publication=cell.publication)
    with pytest.raises(TenantSealedError):
        await notary.sign(log)
    handle = cell.database.sealer(log)
    while_sealed = await handle.run(partial(verify_log, keys=await cell.publication.log_keys(log)))
    await superuser.execute("UPDATE csm_system.tenants SET state = 'ACTIVE' WHERE uid = %s", [log.uid])
    await notary.sign(log)

    assert (while_sealed.sealed, while_sealed.last_signed and while_sealed.last_signed.sequence) == (13, 12)
    assert await signed(cell, log) == (13, 1)


@pytest.mark.behaviour("S2.14")
async def test_a_tenant_from_before_gets_a_key_with_its_first_checkpoint_one_from_however_many(
    cell: Cell, placement: Placement, superuser: Superuser
) -> None:
    await superuser.execute("DELETE FROM csm_system.tenant_keys WHERE purpose = 'audit'")
    await write(cell, placement, 2)

    async def sign() -> None:
        # Who looked before another has published the key comes again.
        with suppress(UnavailableError):
            await restarted(cell).sign(placement)

    await asyncio.gather(*(sign() for _ in range(4)))
    await sign()
    found = await superuser.execute("SELECT version FROM csm_system.tenant_keys WHERE purpose = 'audit'")

    assert await signed(cell, placement) == (2, 1)
    assert await found.fetchall() == [{"version": 1}]


async def test_a_key_that_the_tenant_had_called_so_before_stays_its_own_and_signs_no_log(
    cell: Cell, ring: Ring, placement: Placement, superuser: Superuser, monkeypatch: pytest.MonkeyPatch
) -> None:
    await superuser.execute("DELETE FROM csm_system.tenant_keys WHERE purpose = 'audit'")
    with monkeypatch.context() as patch:
        patch.setattr(named_model, "BUILT_IN_IDS", ())
        await ring.create(placement, "audit", "ENCRYPTION")
    await write(cell, placement)
    await cell.keys.named_key(placement, "audit")
    with pytest.raises(MissingKeyError):
        await cell.notary.sign(placement)

    assert (await ring.key(placement, "audit")).purpose == 7
    assert (await ring.schedule(placement, "audit")).name == "tenants/org_1/keys/audit"


async def test_a_process_that_publishes_nothing_signs_with_what_is_published(
    cell: Cell, elsewhere: Notary, placement: Placement, superuser: Superuser
) -> None:
    await write(cell, placement)
    with pytest.raises(MissingKeyError):
        await elsewhere.sign(placement)
    await cell.publication.ensure(placement, now=datetime.now(UTC))
    await elsewhere.sign(placement)
    assert await signed(cell, placement) == (1, 1)
    await write(cell, placement)
    await superuser.execute("UPDATE csm_system.audit_keys SET payload = 'nothing'")
    # As after a restart: what is published is not looked at again while the vault's key is the same.
    elsewhere._logs.clear()
    with pytest.raises(IntegrityError):
        await elsewhere.sign(placement)


async def test_a_key_that_is_published_and_is_not_the_vaults_signs_nothing(
    cell: Cell, elsewhere: Notary, placement: Placement, superuser: Superuser
) -> None:
    other = await cell.tenant("org_2")
    for tenant in (placement, other):
        await write(cell, tenant)
        await cell.publication.ensure(tenant, now=datetime.now(UTC))
    await superuser.execute(
        "UPDATE csm_system.audit_keys AS k SET payload = o.payload FROM csm_system.audit_keys AS o"
        " WHERE o.tenant_uid <> k.tenant_uid"
    )
    with pytest.raises(IntegrityError):
        await elsewhere.sign(placement)


async def test_a_schema_of_an_older_release_is_verified_and_waits_with_its_checkpoints(
    cell: Cell, placement: Placement, superuser: Superuser
) -> None:
    await write(cell, placement)
    await superuser.execute("DROP TABLE tenant_org_1.audit_checkpoints")
    with pytest.raises(UnavailableError) as raised:
        await cell.notary.sign(placement)

    assert raised.value.code == "SCHEMA_TOO_OLD"
    assert await signed(cell, placement) == (0, 0)


async def test_a_tenants_purpose_for_its_log_has_a_key_of_its_own(cell: Cell, placement: Placement) -> None:
    other = await cell.tenant("org_2")
    one, another = [await cell.keys.audit_signer(tenant) for tenant in (placement, other)]

    assert one.private_key.public_key() != another.private_key.public_key()
    assert Purpose.AUDIT.value == "audit"
