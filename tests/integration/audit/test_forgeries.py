"""What somebody with all rights on the database signs, or publishes, is believed by nobody."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from control_plane.audit import store
from control_plane.audit.notary import RewrittenError
from control_plane.audit.publication import Publication
from control_plane.keys.model import IntegrityError
from control_plane.keys.platform import PlatformKeys
from control_plane.postgres.database import Isolation
from control_plane.postgres.placement import Placement
from control_plane.proofs.audit_log import (
    Checkpoint,
)
from tests.fixtures.cell import Cell
from tests.integration.audit.signed import Superuser, checkpoints, forged, published_by, put, restarted, verified, write


@pytest.mark.behaviour("S2.14")
@pytest.mark.parametrize(
    "change",
    [
        "payload = convert_to(replace(convert_from(payload, 'UTF8'), ':\"8\"', ':\"9\"'), 'UTF8')",
        "payload = 'nothing'",
        "payload = payload || ' '",
        "signature = sha512(signature)",
        "signature = ''",
        "(payload, signature) = (SELECT payload, signature FROM audit_checkpoints WHERE sequence = 12)",
        "(payload, signature) = (SELECT payload, signature FROM tenant_org_2.audit_checkpoints)",
    ],
)
async def test_a_checkpoint_that_was_changed_is_named(
    cell: Cell, log: Placement, superuser: Superuser, *, change: str
) -> None:
    other = await cell.tenant("org_2")
    await write(cell, other, 8)
    await cell.notary.round()
    await superuser.execute(f"UPDATE audit_checkpoints SET {change} WHERE sequence = 8")
    found = await verified(cell, log)

    assert (found.first_forged_checkpoint, found.first_broken) == (8, 0)
    assert found.last_signed is not None
    assert found.last_signed.sequence == 12


@pytest.mark.behaviour("S2.14")
async def test_a_checkpoint_of_one_tenants_key_is_none_of_anothers(
    cell: Cell, log: Placement, superuser: Superuser
) -> None:
    """Not even with the head of the other's log, and with its uid."""
    other = await cell.tenant("org_2")
    head = (await verified(cell, log)).head
    by_another = await forged(cell, other, tenant_uid=log.uid, tenant="tenants/org_1", head=head)
    own = (await cell.keys.audit_signer(log)).key_id
    named = await forged(cell, other, tenant_uid=log.uid, tenant="tenants/org_1", head=head, key_id=own)
    for stored in (by_another, named):
        await put(superuser, log, stored)

        assert (await verified(cell, log)).first_forged_checkpoint == 12


async def test_a_checkpoint_from_outside_of_its_keys_time_is_forged(
    cell: Cell, log: Placement, superuser: Superuser
) -> None:
    head = (await verified(cell, log)).head
    await put(superuser, log, await forged(cell, log, head=head, time=datetime.now(UTC) - timedelta(days=1)))

    assert (await verified(cell, log)).first_forged_checkpoint == 12


async def test_nothing_is_signed_on_top_of_a_checkpoint_that_is_forged(
    cell: Cell, log: Placement, superuser: Superuser
) -> None:
    await write(cell, log)
    other = await cell.tenant("org_2")
    genuine = await forged(cell, log)
    for stored, text in (
        (replace(genuine, payload=b"{}"), "is none"),
        (replace(genuine, signature=bytes(64)), "was not signed by the log's key"),
        (await forged(cell, log, tenant_uid=other.uid), "was not signed by the log's key"),
        (await forged(cell, log, sequence=11), "was not signed by the log's key"),
    ):
        await put(superuser, log, replace(stored, sequence=12))
        with pytest.raises(RewrittenError, match=text):
            await restarted(cell).sign(log)
    await put(superuser, log, genuine)
    with pytest.raises(RewrittenError, match="the checkpoint at 12 was replaced"):
        await cell.notary.sign(log)
    with pytest.raises(RewrittenError, match="the entry at 12 is not the one that was signed"):
        await restarted(cell).sign(log)


@pytest.mark.behaviour("S2.14")
@pytest.mark.parametrize(
    "change",
    [
        "payload = convert_to(replace(convert_from(k.payload, 'UTF8'), '+00:00', '+01:00'), 'UTF8')",
        "payload = ''",
        "platform_signature = k.own_signature",
        "own_signature = k.platform_signature",
        "(payload, platform_signature, own_signature) = (o.payload, o.platform_signature, o.own_signature)",
    ],
)
async def test_a_published_key_that_was_changed_is_named_and_nothing_of_it_is_believed(
    cell: Cell, log: Placement, superuser: Superuser, *, change: str
) -> None:
    other = await cell.tenant("org_2")
    await write(cell, other)
    await cell.notary.round()
    await superuser.execute(
        f"UPDATE csm_system.audit_keys AS k SET {change} FROM csm_system.audit_keys AS o"
        " WHERE o.tenant_uid <> k.tenant_uid AND k.tenant_uid = %s",
        [log.uid],
    )
    found = await verified(cell, log)

    assert (found.first_forged_key, found.first_forged_checkpoint, found.last_signed) == (1, 4, None)
    with pytest.raises(IntegrityError):
        await cell.publication.ensure(log, now=datetime.now(UTC))


@pytest.mark.behaviour("S2.14")
async def test_who_can_write_into_the_database_publishes_no_key_of_their_own(
    cell: Cell, log: Placement, superuser: Superuser
) -> None:
    """All in one: another key, published by itself, and every checkpoint made anew with it."""
    other = await cell.tenant("org_2")
    mallory = await cell.keys.audit_signer(other)
    (genuine,) = await cell.database.system().run(lambda tx: store.published_keys(tx, log.uid))
    key = genuine.maybe_read()
    assert key is not None
    public = mallory.private_key.public_key().public_bytes_raw()
    own = replace(key, key_id=mallory.key_id, public=public)
    made = published_by(own, mallory, platform=genuine.signatures[0])
    await superuser.execute("DELETE FROM csm_system.audit_keys WHERE tenant_uid = %s", [log.uid])
    await cell.database.system().run(lambda tx: store.insert_published_key(tx, log.uid, version=1, key=made))
    head = (await verified(cell, log)).head
    said = Checkpoint.read((await forged(cell, log, head=head, key_id=mallory.key_id)).payload)
    await superuser.execute("DELETE FROM audit_checkpoints")
    await put(superuser, log, said.signed(mallory.sign))
    found = await verified(cell, log)

    assert (found.first_forged_key, found.first_forged_checkpoint, found.last_signed) == (1, 12, None)


async def test_a_key_whose_public_half_was_changed_signs_nothing(
    cell: Cell, placement: Placement, superuser: Superuser
) -> None:
    await write(cell, placement)
    await superuser.execute(
        "UPDATE csm_system.tenant_keys SET public = sha256(public) WHERE purpose = 'audit' AND tenant_uid = %s",
        [placement.uid],
    )
    with pytest.raises(IntegrityError):
        await cell.notary.sign(placement)

    assert await checkpoints(superuser) == []


async def test_checkpoints_are_only_ever_added_and_by_the_sealer_alone(
    cell: Cell, log: Placement, superuser: Superuser
) -> None:
    await superuser.execute("ALTER TABLE audit_checkpoints ENABLE ALWAYS TRIGGER refuse_change")
    for statement in (
        "UPDATE audit_checkpoints SET signature = ''",
        "DELETE FROM audit_checkpoints",
        "TRUNCATE audit_checkpoints",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="audit logs are never changed"):
            await superuser.execute(statement)
    handle = cell.database.tenant(log, isolation=Isolation.READ_COMMITTED)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await handle.run(
            lambda tx: tx.execute("INSERT INTO audit_checkpoints (sequence, payload, signature) VALUES (13, '', '')")
        )


async def test_checkpoints_are_refused_a_change_as_they_are_made(placement: Placement, superuser: Superuser) -> None:
    for statement in ("DELETE FROM", "TRUNCATE"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="audit logs are never changed"):
            await superuser.execute(f"{statement} tenant_org_1.audit_checkpoints")


@pytest.mark.behaviour("S2.14")
async def test_the_platforms_key_is_the_vaults_and_not_the_databases(
    cell: Cell, log: Placement, superuser: Superuser
) -> None:
    await superuser.execute("UPDATE csm_system.platform_keys SET public = sha256(public)")
    later = Publication(cell.database, cell.keys, PlatformKeys(cell.keys._vault, cell.database))
    with pytest.raises(IntegrityError):
        await later.log_keys(log)


async def test_the_sealers_role_reaches_no_key(cell: Cell, log: Placement) -> None:
    for table in ("tenant_keys", "audit_keys", "platform_keys"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await cell.database.sealer(log).run(
                lambda tx, table=table: tx.fetch_all(f"SELECT * FROM csm_system.{table}")  # type: ignore[misc]  # a default binds the loop's value
            )


async def test_nobody_takes_back_what_is_published(cell: Cell, log: Placement) -> None:
    for statement in ("DELETE FROM csm_system.audit_keys", "UPDATE csm_system.audit_keys SET payload = ''"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await cell.database.system().run(
                lambda tx, statement=statement: tx.execute(statement)  # type: ignore[misc]  # the same
            )
