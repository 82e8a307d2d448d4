"""A tenant's log is signed by a key of its own, and what was changed since is never signed over."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import pytest

from control_plane.audit.notary import Notary, RewrittenError
from control_plane.audit.service import verify_log
from control_plane.errors import ConflictError, TenantSealedError, UnavailableError
from control_plane.keys.model import MissingKeyError
from control_plane.postgres.database import Isolation
from control_plane.postgres.placement import Placement
from control_plane.proofs.audit_log import (
    Checkpoint,
)
from tests.fixtures.cell import Cell
from tests.integration.audit.signed import (
    SIGNED,
    Superuser,
    checkpoints,
    make_anew,
    restarted,
    signed,
    verified,
    write,
    write_unsealed,
)


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
