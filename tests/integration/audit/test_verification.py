"""What somebody with all rights on the database changes in a sealed log is found, and the first place is named."""

import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

import psycopg
import pytest
from psycopg.rows import DictRow

from control_plane.audit.model import Chain, Verification
from control_plane.audit.service import verify_log
from control_plane.audit.store import sealed_page
from control_plane.postgres.database import Isolation, TenantTransaction
from control_plane.postgres.effects import Effect
from control_plane.postgres.placement import Placement
from tests.fixtures.cell import Cell

Superuser = psycopg.AsyncConnection[DictRow]
ENTRIES: Final = 24
# Another value for each column; `id` and `entry_id` get one that comes after all others.
COLUMNS: Final = {
    "id": "uuidv7()",
    "tenant_id": "gen_random_uuid()",
    "xact": "'7'::xid8",
    "create_time": "create_time + interval '1 microsecond'",
    "actor": "actor || ' '",
    "method": "method || '2'",
    "resource": "resource || '/0'",
    "outcome": "CASE outcome WHEN 'EFFECT' THEN 'DENIED' ELSE 'EFFECT' END",
    "reason": "reason || 'R'",
    "request_id": "request_id || 'r'",
    "count": "count + 1",
    "details": "details || '{\"a\": 1e400}'",
}
SEAL_COLUMNS: Final = {
    "tenant_id": "gen_random_uuid()",
    "entry_id": "uuidv7()",
    "entry_xact": "'7'::xid8",
    "hash": "sha256(hash)",
}


class Attacker:
    """A superuser on a log of sealed entries; each attack returns the sequence number that must be named."""

    def __init__(self, superuser: Superuser, placement: Placement, *, rng: random.Random) -> None:
        self._superuser = superuser
        self._placement = placement
        self._rng = rng
        self.attacks: list[Callable[[], Awaitable[int]]] = [
            self.edit_an_entry,
            self.edit_a_seal,
            self.delete_an_entry,
            self.delete_a_seal,
            self.delete_both,
            self.swap_entries,
            self.swap_seals,
            self.put_an_entry_in,
            self.take_another_tenants_entry,
            self.put_an_older_entry_back,
        ]

    async def run(self, query: str, **values: object) -> None:
        await self._superuser.execute(query, values)

    async def verify(self) -> Verification:
        async with self._superuser.pipeline() as pipeline:
            return await verify_log(TenantTransaction(self._superuser, pipeline, placement=self._placement))

    def any_sequence(self, *, below: int = ENTRIES + 1) -> int:
        return self._rng.randrange(1, below)

    async def edit_an_entry(self) -> int:
        sequence = self.any_sequence()
        column = self._rng.choice(sorted(COLUMNS))
        await self.run(
            f"UPDATE audit_entries SET {column} = {COLUMNS[column]}"
            " WHERE id = (SELECT entry_id FROM audit_seals WHERE sequence = %(sequence)s)",
            sequence=sequence,
        )
        return sequence

    async def edit_a_seal(self) -> int:
        sequence = self.any_sequence()
        column = self._rng.choice(sorted(SEAL_COLUMNS))
        # Without its last link the log looks as it did before that was sealed, which is no lie.
        sequence = sequence - 1 or 1 if column == "tenant_id" and sequence == ENTRIES else sequence
        await self.run(
            f"UPDATE audit_seals SET {column} = {SEAL_COLUMNS[column]} WHERE sequence = %(sequence)s",
            sequence=sequence,
        )
        return sequence

    async def delete_an_entry(self) -> int:
        sequence = self.any_sequence()
        await self.run(
            "DELETE FROM audit_entries WHERE id = (SELECT entry_id FROM audit_seals WHERE sequence = %(sequence)s)",
            sequence=sequence,
        )
        return sequence

    async def delete_a_seal(self) -> int:
        sequence = self.any_sequence(below=ENTRIES)
        await self.run("DELETE FROM audit_seals WHERE sequence = %(sequence)s", sequence=sequence)
        return sequence

    async def delete_both(self) -> int:
        sequence = self.any_sequence(below=ENTRIES)
        await self.run(
            "WITH seal AS (DELETE FROM audit_seals WHERE sequence = %(sequence)s RETURNING entry_id)"
            " DELETE FROM audit_entries USING seal WHERE id = seal.entry_id",
            sequence=sequence,
        )
        return sequence

    async def swap_entries(self) -> int:
        first, second = sorted(self._rng.sample(range(1, ENTRIES + 1), 2))
        await self.run(
            "UPDATE audit_entries AS e SET resource = other.resource FROM audit_entries AS other, audit_seals AS a,"
            " audit_seals AS b WHERE a.entry_id = e.id AND b.entry_id = other.id AND a.sequence <> b.sequence"
            " AND ARRAY[a.sequence, b.sequence] <@ %(pair)s::bigint[]",
            pair=[first, second],
        )
        return first

    async def swap_seals(self) -> int:
        first, second = sorted(self._rng.sample(range(1, ENTRIES + 1), 2))
        for old, new in ((first, 0), (second, first), (0, second)):
            await self.run("UPDATE audit_seals SET sequence = %(new)s WHERE sequence = %(old)s", old=old, new=new)
        return first

    async def put_an_entry_in(self) -> int:
        """Before the entry of that number: in its transaction, with an id that is less."""
        sequence = self.any_sequence()
        await self.run(
            "INSERT INTO audit_entries SELECT e.tenant_id, '00000000-0000-7000-8000-000000000001', xact, create_time,"
            " actor, method, resource, outcome, reason, request_id, count, details"
            " FROM audit_entries AS e JOIN audit_seals ON entry_id = id WHERE sequence = %(sequence)s",
            sequence=sequence,
        )
        return sequence

    async def take_another_tenants_entry(self) -> int:
        sequence = self.any_sequence()
        await self.run(
            "UPDATE audit_entries AS e SET (actor, resource, request_id, create_time) ="
            " (SELECT actor, resource, request_id, create_time FROM tenant_org_2.audit_entries LIMIT 1)"
            " FROM audit_seals WHERE entry_id = e.id AND sequence = %(sequence)s",
            sequence=sequence,
        )
        return sequence

    async def put_an_older_entry_back(self) -> int:
        sequence = self.any_sequence(below=ENTRIES)
        await self.run(
            "UPDATE audit_entries AS e SET (actor, method, resource, request_id, details) ="
            " (SELECT actor, method, resource, request_id, details FROM audit_entries AS o JOIN audit_seals AS s"
            "  ON s.entry_id = o.id WHERE s.sequence = %(other)s)"
            " FROM audit_seals AS t WHERE t.entry_id = e.id AND t.sequence = %(sequence)s",
            sequence=sequence,
            other=ENTRIES,
        )
        return sequence


async def write_entries(cell: Cell, placement: Placement, count: int) -> None:
    for number in range(count):

        async def work(tx: TenantTransaction, number: int = number) -> None:
            tx.record(Effect(resource=f"tenants/{placement.tenant_id}/{number}", details={"number": number}))

        await cell.call(placement).tenant().run(work)
    await cell.sealer.seal(placement)


@pytest.fixture
async def attacker(cell: Cell, superuser: Superuser) -> Attacker:
    ours, theirs = await cell.tenant("org_1"), await cell.tenant("org_2")
    await write_entries(cell, ours, ENTRIES)
    await write_entries(cell, theirs, 3)
    await superuser.execute("SET search_path = tenant_org_1")
    for table in ("audit_entries", "audit_seals"):
        await superuser.execute(f"ALTER TABLE {table} DISABLE TRIGGER refuse_change")
    return Attacker(superuser, ours, rng=random.Random(1))


@pytest.mark.behaviour("T-L1")
async def test_of_five_hundred_edits_the_verifier_names_the_first_bad_entry_of_each(
    attacker: Attacker, superuser: Superuser
) -> None:
    missed: list[tuple[Any, ...]] = []
    for number in range(500):
        attack = attacker.attacks[number % len(attacker.attacks)]
        async with superuser.transaction(force_rollback=True):
            expected = await attack()
            found = (await attacker.verify()).first_broken
        if found != expected:
            missed.append((attack.__name__, expected, found))

    assert missed == []
    assert (await attacker.verify()).first_broken == 0


@pytest.mark.behaviour("T-L1")
async def test_every_column_counts(attacker: Attacker, superuser: Superuser) -> None:
    """But for the time of sealing, on which nothing rests."""
    found = await superuser.execute(
        "SELECT relname, array_agg(attname::text ORDER BY attname) AS columns FROM pg_attribute"
        " JOIN pg_class ON pg_class.oid = attrelid WHERE attnum > 0"
        " AND attrelid IN ('audit_entries'::regclass, 'audit_seals'::regclass) GROUP BY relname"
    )
    columns = {row["relname"]: set(row["columns"]) for row in await found.fetchall()}

    assert columns["audit_entries"] == COLUMNS.keys()
    assert columns["audit_seals"] == SEAL_COLUMNS.keys() | {"sequence", "seal_time"}


@pytest.mark.behaviour("T-L1")
async def test_a_log_with_values_that_python_cannot_hold_is_still_verified(
    attacker: Attacker, superuser: Superuser
) -> None:
    for change in (
        "create_time = 'infinity'",
        "create_time = '294000-01-01'",
        "count = 9223372036854775807",
        "details = jsonb_build_object('a', repeat('9', 5000)::numeric)",
        "details = '\"text\"'",
        "xact = '18446744073709551615'::xid8",
    ):
        async with superuser.transaction(force_rollback=True):
            await attacker.run(f"UPDATE audit_entries SET {change} WHERE details = '{{\"number\": 5}}'")

            assert (await attacker.verify()).first_broken == 6


@pytest.mark.behaviour("T-L1")
async def test_a_link_that_was_made_anew_is_found_by_the_next(attacker: Attacker, superuser: Superuser) -> None:
    """Who forges an entry with its link, but not all links behind it, has broken the one behind."""
    sequence = 9
    await attacker.run(
        "UPDATE audit_entries SET actor = 'tenant-admin:mallory' WHERE id ="
        " (SELECT entry_id FROM audit_seals WHERE sequence = %(sequence)s)",
        sequence=sequence,
    )
    async with superuser.pipeline() as pipeline:
        tx = TenantTransaction(superuser, pipeline, placement=attacker._placement)
        (before, _), (_, record) = await sealed_page(tx, sequence - 2, limit=2)
    assert record is not None
    forged = Chain(attacker._placement.uid, before).extend(record)
    await attacker.run("UPDATE audit_seals SET hash = %(hash)s WHERE sequence = 9", hash=forged.hash)

    assert (await attacker.verify()).first_broken == sequence + 1


@pytest.mark.behaviour("T-L1")
async def test_a_tail_that_was_cut_off_shows_only_against_a_head_that_somebody_kept(
    cell: Cell, attacker: Attacker
) -> None:
    """What the chain alone does not promise; signed heads, kept elsewhere, will."""
    kept = await attacker.verify()
    await attacker.run(
        "WITH seals AS (DELETE FROM audit_seals WHERE sequence > 20 RETURNING entry_id)"
        " DELETE FROM audit_entries USING seals WHERE id = seals.entry_id"
    )
    cut = await attacker.verify()

    assert (cut.first_broken, cut.sealed, cut.unsealed) == (0, 20, 0)
    assert (kept.sealed, kept.head) != (cut.sealed, cut.head)


async def test_seals_that_were_removed_alone_are_made_again_as_they_were(cell: Cell, attacker: Attacker) -> None:
    before = await attacker.verify()
    await attacker.run("DELETE FROM audit_seals WHERE sequence > 20")
    await cell.sealer.seal(attacker._placement)

    assert await attacker.verify() == before


@pytest.mark.behaviour("T-L1")
async def test_the_tenant_sees_the_damage_and_the_sealer_does_not_hide_it(cell: Cell, attacker: Attacker) -> None:
    placement = attacker._placement
    handle = cell.database.tenant(placement, isolation=Isolation.SERIALIZABLE)
    await attacker.run("UPDATE audit_entries SET actor = 'nobody' WHERE details = '{\"number\": 3}'")
    before = await handle.run(verify_log)
    await write_entries(cell, placement, 3)
    after = await handle.run(verify_log)

    assert (before.first_broken, before.sealed) == (4, ENTRIES)
    assert (after.first_broken, after.sealed, after.unsealed) == (4, ENTRIES + 3, 0)
