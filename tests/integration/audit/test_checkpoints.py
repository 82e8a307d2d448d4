"""A tenant's log is signed by a key of its own; what was changed since is found, and is never signed over."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

import psycopg
import pytest
from psycopg.rows import DictRow

from control_plane.audit import store
from control_plane.audit.model import Chain, Verification
from control_plane.audit.notary import Notary, RewrittenError
from control_plane.audit.publication import Publication
from control_plane.audit.service import verify_log
from control_plane.errors import ConflictError, TenantSealedError, UnavailableError
from control_plane.keys.model import IntegrityError, MissingKeyError, Purpose
from control_plane.keys.named import model as named_model
from control_plane.keys.platform import PlatformKeys
from control_plane.postgres.database import Database, Isolation, PostgresSettings, TenantTransaction
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
from tests.fixtures.keyring import Ring

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


@pytest.mark.behaviour("S2.14")
async def test_what_is_sealed_is_signed_in_the_next_round_and_once(
    cell: Cell, placement: Placement, superuser: Superuser
) -> None:
    await write(cell, placement, 3)
    before = await signed(cell, placement)
    await cell.notary.round()
    after = await signed(cell, placement)
    await cell.notary.round()
    await cell.sealer.seal(placement)
    await cell.sealer.sweep()
    await cell.notary.round()

    assert (before, after) == ((0, 0), (3, 1))
    assert await checkpoints(superuser) == [3]


async def test_a_checkpoint_says_whose_log_it_is_and_when_by_which_key(cell: Cell, placement: Placement) -> None:
    await write(cell, placement)
    before = datetime.now(UTC)
    await cell.notary.sign(placement)
    found = await verified(cell, placement)
    signer = await cell.keys.audit_signer(placement)

    assert found.last_signed is not None
    assert before <= found.last_signed.time <= datetime.now(UTC)
    assert replace(found.last_signed, time=before) == Checkpoint(
        tenant="tenants/org_1",
        tenant_uid=placement.uid,
        sequence=1,
        head=found.head,
        time=before,
        key_version=1,
        key_id=signer.key_id,
    )


async def test_a_long_log_is_signed_a_thousand_entries_at_a_time(
    cell: Cell, placement: Placement, superuser: Superuser
) -> None:
    handle = cell.database.tenant(placement, isolation=Isolation.READ_COMMITTED)
    await handle.run(
        lambda tx: tx.execute(
            "INSERT INTO audit_entries (id, actor, method, resource, outcome, request_id)"
            " SELECT uuidv7(), '', '', '', 'EFFECT', '' FROM generate_series(1, 2100)"
        )
    )
    await cell.sealer.seal(placement)
    await cell.notary.round()

    assert await checkpoints(superuser) == [1000, 2000, 2100]
    assert await signed(cell, placement) == (2100, 1)


async def test_a_log_of_nothing_is_not_signed(cell: Cell, placement: Placement, superuser: Superuser) -> None:
    await cell.notary.sign(placement)

    assert await checkpoints(superuser) == []


@pytest.mark.behaviour("S2.14")
@pytest.mark.parametrize(("since", "first_broken"), [(1, 1), (4, 1), (5, 5), (7, 5), (12, 9)])
async def test_a_chain_that_was_made_anew_is_found_where_the_last_checkpoint_ends_that_holds(
    cell: Cell, log: Placement, superuser: Superuser, *, since: int, first_broken: int
) -> None:
    await make_anew(superuser, log, since=since)
    without_keys = await cell.database.tenant(log, isolation=Isolation.SERIALIZABLE).run(verify_log)
    found = await verified(cell, log)

    assert without_keys.first_broken == 0
    assert (found.first_broken, found.first_forged_checkpoint) == (first_broken, 0)
    assert (found.last_signed.sequence if found.last_signed else 0) == first_broken - 1


@pytest.mark.behaviour("S2.14")
@pytest.mark.parametrize("since", [1, 7, 12])
async def test_a_chain_that_was_made_anew_is_never_signed(
    cell: Cell, log: Placement, superuser: Superuser, *, since: int
) -> None:
    await make_anew(superuser, log, since=since)
    await write(cell, log)
    # Who has changed what is far behind is not found by each checkpoint, but by whoever verifies the log.
    if since == 12:
        with pytest.raises(RewrittenError, match="the entry at 12 is not the one that was signed"):
            await restarted(cell).sign(log)
    assert (await verified(cell, log)).first_broken == {1: 1, 7: 5, 12: 9}[since]


async def test_an_entry_that_was_changed_before_it_was_signed_stays_unsigned(
    cell: Cell, log: Placement, superuser: Superuser
) -> None:
    await write(cell, log, 3)
    await superuser.execute(
        "UPDATE audit_entries SET actor = '' WHERE id = (SELECT entry_id FROM audit_seals WHERE sequence = 14)"
    )
    with pytest.raises(RewrittenError, match="the chain is broken at 14"):
        await cell.notary.sign(log)
    await cell.notary.round()

    assert await checkpoints(superuser) == [*SIGNED]
    assert (await verified(cell, log)).first_broken == 14


@pytest.mark.behaviour("S2.14")
async def test_a_tail_that_was_cut_off_shows_where_its_checkpoint_is_left(
    cell: Cell, log: Placement, superuser: Superuser
) -> None:
    await superuser.execute(
        "WITH seals AS (DELETE FROM audit_seals WHERE sequence > 10 RETURNING entry_id)"
        " DELETE FROM audit_entries USING seals WHERE id = seals.entry_id"
    )
    found = await verified(cell, log)

    assert (found.first_broken, found.sealed) == (11, 10)


async def test_who_takes_the_newest_checkpoints_away_gets_no_new_ones_from_who_has_made_them(
    cell: Cell, log: Placement, superuser: Superuser
) -> None:
    await superuser.execute("DELETE FROM audit_checkpoints WHERE sequence > 4")
    await make_anew(superuser, log, since=5)
    with pytest.raises(RewrittenError, match="the checkpoint at 12 is gone"):
        await cell.notary.sign(log)
    await superuser.execute("DELETE FROM audit_checkpoints")
    with pytest.raises(RewrittenError, match="the checkpoint at 12 is gone"):
        await cell.notary.sign(log)


async def test_what_takes_a_witness_elsewhere_is_a_log_without_its_newest_checkpoints(
    cell: Cell, log: Placement, superuser: Superuser
) -> None:
    """What is not promised: a process that has just started knows no better than the database."""
    await superuser.execute("DELETE FROM audit_checkpoints WHERE sequence > 4")
    await make_anew(superuser, log, since=5)
    await restarted(cell).sign(log)

    assert await signed(cell, log) == (12, 1)


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


def published_by(key: AuditKey, signer: Any, *, platform: Signature) -> PublishedKey:
    payload = key.payload()
    own = Signature(key_id=key.key_id, signature=signer.sign(CHECKPOINT_TYPE, payload))
    return PublishedKey(payload=payload, signatures=[platform, own])


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


async def test_what_may_succeed_later_is_tried_again_ever_more_seldom(
    cell: Cell, placement: Placement, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: Sequence[Exception] = (
        TenantSealedError("tenants/org_1"),
        RewrittenError("a test"),
        MissingKeyError("a test"),
        RuntimeError("a test"),
        ConflictError("a test"),
        UnavailableError("a test"),
    )
    tried: dict[str, list[float]] = {}
    for error in errors:
        clock_s = [0.0]
        notary = Notary(cell.database, cell.keys, publication=None, monotonic_s=partial(clock_s.__getitem__, 0))
        times = tried.setdefault(type(error).__name__, [])

        async def fail(_: Placement, *, error: Exception, times: list[float], clock_s: list[float]) -> None:
            times.append(clock_s[0])
            raise error

        monkeypatch.setattr(notary, "sign", partial(fail, error=error, times=times, clock_s=clock_s))
        notary.touch(placement)
        for second in range(200):
            clock_s[0] = float(second)
            await notary.round()

    for_ever = ["TenantSealedError", "RewrittenError", "MissingKeyError", "RuntimeError"]
    later = [0, 1, 3, 7, 15, 31, 63, 123, 183]
    assert tried == {**{key: [0] for key in for_ever}, "ConflictError": later, "UnavailableError": later}


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


@pytest.fixture
async def elsewhere(cell: Cell, postgres_settings: PostgresSettings) -> AsyncIterator[Notary]:
    """Be the certificate service, which may make no key and publish none."""
    async with Database.open(replace(postgres_settings, system_role="csm_directory")) as database:
        yield Notary(database, type(cell.keys)(cell.keys._vault, database), publication=None)


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


@pytest.mark.behaviour("S2.14")
async def test_sealers_and_notaries_at_once_that_are_killed_at_any_moment_leave_a_log_that_holds(
    cell: Cell, placement: Placement, superuser: Superuser
) -> None:
    rng, done = random.Random(14), asyncio.Event()

    async def work() -> None:
        while not done.is_set():
            notary = restarted(cell)
            for reconcile in (cell.sealer.seal, notary.sign):
                with suppress(ConflictError, UnavailableError, TimeoutError):
                    await asyncio.wait_for(reconcile(placement), rng.choice((0.002, 0.005, 0.02, 1)))
            await asyncio.sleep(0)

    workers = [asyncio.create_task(work()) for _ in range(3)]
    for _ in range(40):
        await write_unsealed(cell, placement)
    done.set()
    await asyncio.gather(*workers)
    await cell.sealer.seal(placement)
    await restarted(cell).sign(placement)

    assert await signed(cell, placement) == (40, 1)
    assert (await checkpoints(superuser))[-1] == 40


async def write_unsealed(cell: Cell, placement: Placement) -> None:
    async def work(tx: TenantTransaction) -> None:
        tx.record(Effect(resource="tenants/org_1"))

    await cell.call(placement).tenant().run(work)


async def test_a_tenants_purpose_for_its_log_has_a_key_of_its_own(cell: Cell, placement: Placement) -> None:
    other = await cell.tenant("org_2")
    one, another = [await cell.keys.audit_signer(tenant) for tenant in (placement, other)]

    assert one.private_key.public_key() != another.private_key.public_key()
    assert Purpose.AUDIT.value == "audit"
