"""Whenever a process dies, each effect that it committed has one entry, and what it answered is committed."""

import asyncio
import random
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections import Counter
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import DictRow

from control_plane.audit.service import verify_log
from control_plane.keys.vault_software import SoftwareVault
from control_plane.postgres.database import Isolation, PostgresSettings
from tests.fixtures.cell import Cell

KILLS = 5


@pytest.mark.behaviour("T-L4")
async def test_a_process_that_is_killed_leaves_one_entry_for_each_effect_and_loses_no_answer(
    cell: Cell, vault: SoftwareVault, postgres_settings: PostgresSettings, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    placement = await cell.tenant()
    rng = random.Random(50)
    answered: list[str] = []
    arguments = [
        *(str(postgres_settings.socket_dir), str(postgres_settings.port), postgres_settings.dbname),
        str(vault._keks.parent),
        *(placement.tenant_id, str(placement.uid), placement.schema, placement.role, placement.login),
    ]
    for _ in range(KILLS):
        process = await asyncio.create_subprocess_exec(
            sys.executable, Path(__file__).with_name("dying_issuer.py"), *arguments, stdout=PIPE, stderr=DEVNULL
        )
        assert process.stdout is not None
        answered.append((await process.stdout.readline()).decode().strip())
        await asyncio.sleep(rng.uniform(0, 0.2))
        process.kill()
        output, _ = await process.communicate()
        # The last line may be cut; it was not an answer then.
        answered += output.decode().split("\n")[:-1]
    await cell.sealer.seal(placement)
    tokens = await (await superuser.execute("SELECT id::text FROM tenant_org_1.tokens")).fetchall()
    entries = await (await superuser.execute("SELECT resource FROM tenant_org_1.audit_entries")).fetchall()
    verification = await cell.database.tenant(placement, isolation=Isolation.SERIALIZABLE).run(verify_log)

    assert len(answered) > KILLS
    assert {row["id"] for row in tokens} >= set(answered)
    assert Counter(row["resource"].rpartition("/")[2] for row in entries) == Counter(row["id"] for row in tokens)
    assert (verification.sealed, verification.first_broken) == (len(tokens), 0)
