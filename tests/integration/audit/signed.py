"""Logs that are signed, and what somebody with all rights on the database does to them."""

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import psycopg
import pytest
from psycopg.rows import DictRow

from control_plane.audit import store
from control_plane.audit.model import Chain, Verification
from control_plane.audit.notary import Notary
from control_plane.audit.service import verify_log
from control_plane.postgres.database import Isolation, TenantTransaction
from control_plane.postgres.effects import Effect
from control_plane.postgres.placement import Placement
from control_plane.proofs.audit_log import (
    CHECKPOINT_TYPE,
    AuditKey,
    Checkpoint,
    PublishedKey,
    Signature,
    SignedCheckpoint,
)
from tests.fixtures.cell import Cell

Superuser = psycopg.AsyncConnection[DictRow]
SIGNED: Final = (4, 8, 12)


async def write(cell: Cell, placement: Placement, count: int = 1) -> None:
    """Write entries, and have them sealed."""
    for number in range(count):

        async def work(tx: TenantTransaction, number: int = number) -> None:
            tx.record(Effect(resource=f"tenants/{placement.tenant_id}/{number}"))

        await cell.call(placement).tenant().run(work)
    await cell.sealer.seal(placement)


async def verified(cell: Cell, placement: Placement) -> Verification:
    keys = await cell.publication.log_keys(placement)
    handle = cell.database.tenant(placement, isolation=Isolation.SERIALIZABLE)
    return await handle.run(partial(verify_log, keys=keys))


async def signed(cell: Cell, placement: Placement) -> tuple[int, int]:
    """Say up to which entry the log is signed, and by which version."""
    found = await verified(cell, placement)
    assert (found.first_broken, found.first_forged_checkpoint, found.first_forged_key) == (0, 0, 0)
    return (found.last_signed.sequence, found.last_signed.key_version) if found.last_signed else (0, 0)


async def checkpoints(superuser: Superuser, schema: str = "tenant_org_1") -> list[int]:
    found = await superuser.execute(f"SELECT sequence FROM {schema}.audit_checkpoints ORDER BY sequence")
    return [row["sequence"] for row in await found.fetchall()]


@pytest.fixture
async def placement(cell: Cell) -> Placement:
    return await cell.tenant()


@pytest.fixture
async def log(cell: Cell, placement: Placement, superuser: Superuser) -> Placement:
    """A log of twelve entries, signed after each four, that its tables' triggers do not protect."""
    for _ in SIGNED:
        await write(cell, placement, 4)
        await cell.notary.round()
    await superuser.execute("SET search_path = tenant_org_1")
    for table in ("audit_entries", "audit_seals", "audit_checkpoints"):
        await superuser.execute(f"ALTER TABLE {table} DISABLE TRIGGER refuse_change")
    return placement


async def make_anew(superuser: Superuser, placement: Placement, *, since: int) -> None:
    """Change an entry, and make all links from there on as if it had always been so."""
    await superuser.execute(
        "UPDATE audit_entries SET actor = 'tenant-admin:mallory' WHERE id ="
        " (SELECT entry_id FROM audit_seals WHERE sequence = %s)",
        [since],
    )
    async with superuser.pipeline() as pipeline:
        tx = TenantTransaction(superuser, pipeline, placement=placement)
        before = await store.seal_at(tx, since - 1) if since > 1 else None
        records = [record for _, record in await store.sealed_page(tx, since - 1, limit=100)]
    chain = Chain(placement.uid, before)
    for record in records:
        assert record is not None
        made = chain.extend(record)
        await superuser.execute("UPDATE audit_seals SET hash = %s WHERE sequence = %s", [made.hash, made.sequence])


def restarted(cell: Cell) -> Notary:
    """Be a process that has signed nothing yet."""
    return Notary(cell.database, cell.keys, publication=cell.publication)


async def forged(cell: Cell, placement: Placement, **changes: Any) -> SignedCheckpoint:
    """Make a checkpoint that the tenant's key has signed, of something else."""
    signer = await cell.keys.audit_signer(placement)
    said = Checkpoint(
        tenant=f"tenants/{placement.tenant_id}",
        tenant_uid=placement.uid,
        sequence=12,
        head=bytes(32),
        time=datetime.now(UTC),
        key_version=1,
        key_id=signer.key_id,
    )
    return replace(said, **changes).signed(signer.sign)


async def put(superuser: Superuser, placement: Placement, stored: SignedCheckpoint) -> None:
    await superuser.execute(
        "INSERT INTO audit_checkpoints VALUES (%s, %s, %s, %s) ON CONFLICT (tenant_id, sequence) DO UPDATE"
        " SET payload = excluded.payload, signature = excluded.signature",
        [placement.uid, stored.sequence, stored.payload, stored.signature],
    )


def published_by(key: AuditKey, signer: Any, *, platform: Signature) -> PublishedKey:
    payload = key.payload()
    own = Signature(key_id=key.key_id, signature=signer.sign(CHECKPOINT_TYPE, payload))
    return PublishedKey(payload=payload, signatures=[platform, own])


async def write_unsealed(cell: Cell, placement: Placement) -> None:
    async def work(tx: TenantTransaction) -> None:
        tx.record(Effect(resource="tenants/org_1"))

    await cell.call(placement).tenant().run(work)
