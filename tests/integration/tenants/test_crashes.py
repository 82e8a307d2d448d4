"""`kill -9` at each point of provisioning: the tenant completes or is cleanly absent, and nothing is left over."""

import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from control_plane.ids import TenantId
from control_plane.keys.vault_software import SoftwareVault
from control_plane.operations.jobs import JobQueue
from control_plane.postgres.database import Database, Isolation, PostgresSettings
from control_plane.postgres.directory import Directory
from control_plane.tenants import service
from control_plane.tenants.model import Settings
from tests.fixtures.cache import admit
from tests.integration.ext_authz.limiter.valkey_servers import Server, valkey_server

_WORKER = Path(__file__).with_name("dying_worker.py")
_POINTS = [f"{when}:{step}" for step in service.LATER_STEPS for when in ("before", "after")]
_UNDO_POINTS = ["undo:destroy", "undo:drop", "undo:remove"]


@pytest.fixture
async def valkey() -> AsyncIterator[Server]:
    async with valkey_server() as server:
        # Who takes a creation back needs the functions, which the control plane brings.
        await admit(server, ())
        yield server


@dataclass(frozen=True, slots=True)
class Workers:
    """Starts workers on the test's database."""

    settings: PostgresSettings
    vault: Path
    valkey: Server

    def run(self, tenant: str, point: str) -> int:
        where = self.settings
        valkey = (self.valkey.socket, self.valkey.valkey.secrets_dir / "valkey.key")
        arguments = [where.socket_dir, where.port, where.dbname, self.vault, *valkey, tenant, point]
        command = [sys.executable, str(_WORKER), *map(str, arguments)]
        with self.log.open("ab") as log:
            return subprocess.run(command, check=False, timeout=90, stdout=log, stderr=log).returncode

    @property
    def log(self) -> Path:
        return self.vault.with_name("workers.log")


async def _begin(database: Database, queue: JobQueue, tenant: str) -> None:
    creation = service.Creation(
        tenant_id=TenantId(tenant),
        settings=Settings(display_name=tenant),
        actor="platform-admin:test",
        call_request_id="request",
        request_id=None,
        request_hash=b"",
    )
    await service.create_tenant(
        database.system(),
        creation,
        defer=lambda operation_id, tx: queue.defer(operation_id, within=tx),
        now=datetime.now(UTC),
    )


async def _all(database: Database, query: Any) -> list[dict[str, Any]]:
    return await database.system().run(lambda tx: tx.fetch_all(query))


@pytest.mark.behaviour("S4.2")
@pytest.mark.behaviour("T-P1")
@pytest.mark.timeout(180)
async def test_a_killed_creation_completes_or_leaves_nothing(
    database: Database, postgres_settings: PostgresSettings, valkey: Server, tmp_path: Path
) -> None:
    workers = Workers(postgres_settings, tmp_path / "vault", valkey)
    queue = JobQueue(database, postgres_settings)
    doomed = {f"doomed_{index}": point for index, point in enumerate(_UNDO_POINTS)}
    saved = {f"saved_{index}": point for index, point in enumerate(_POINTS)}
    async with queue.open():
        for tenant, point in (saved | doomed).items():
            await _begin(database, queue, tenant)
            assert workers.run(tenant, point) == -signal.SIGKILL, (point, workers.log.read_text())
        assert workers.run("nobody", "never") == 0, workers.log.read_text()

    tenants = await _all(database, "SELECT id, uid, state, schema_name, role_name FROM csm_system.tenants")
    assert {row["id"]: row["state"] for row in tenants} == dict.fromkeys(saved, "ACTIVE")
    operations = await _all(database, "SELECT tenant_id, state, error_reason FROM csm_system.operations")
    assert {row["tenant_id"]: row["state"] for row in operations} == dict.fromkeys(saved, "SUCCEEDED") | dict.fromkeys(
        doomed, "FAILED"
    )
    await _check_nothing_is_left_over(database, tenants, workers)
    await _check_each_has_one_of_everything(database, list(saved))


async def _check_nothing_is_left_over(database: Database, tenants: list[dict[str, Any]], workers: Workers) -> None:
    schemas = await _all(database, "SELECT nspname AS name FROM pg_namespace WHERE nspname LIKE 'tenant\\_%%'")
    assert {row["name"] for row in schemas} == {row["schema_name"] for row in tenants}
    keys = await _all(database, "SELECT DISTINCT tenant_uid AS uid FROM csm_system.tenant_keys")
    assert {row["uid"] for row in keys} == {row["uid"] for row in tenants}
    versions = await _all(database, "SELECT tenant_uid AS uid FROM csm_system.tenant_schemas")
    assert {row["uid"] for row in versions} == {row["uid"] for row in tenants}
    keks = await (await SoftwareVault.open(workers.vault)).keks()
    assert {kek.tenant_uid for kek in keks} == {row["uid"] for row in tenants}
    async with workers.valkey.superuser(decode_responses=True) as client:
        assert await client.keys() == []
    assert workers.valkey.tenants_known() == {str(row["uid"]) for row in tenants}
    roles = await _all(
        database,
        """
        SELECT rolname AS name FROM pg_roles, (SELECT min(number) / 2000 * 2000 AS first FROM csm_system.tenants) AS own
        WHERE rolname LIKE 'csm\\_t\\_%%' AND substr(rolname, 7)::bigint BETWEEN first AND first + 1999
        """,
    )
    # Roles belong to the whole server, which other tests share: each test's tenants have numbers of their own.
    assert {row["role_name"] for row in tenants} == {row["name"] for row in roles}


async def _check_each_has_one_of_everything(database: Database, tenants: list[str]) -> None:
    directory = Directory(database)
    for tenant in tenants:
        entry = await directory.find(tenant)
        assert entry is not None
        handle = database.tenant(entry.placement, isolation=Isolation.READ_COMMITTED)
        counts = await handle.run(
            lambda tx: tx.fetch_one(
                """
                SELECT (SELECT count(*) FROM users) AS users, (SELECT count(*) FROM enrolments) AS enrolments,
                       (SELECT count(*) FROM audit_entries) AS entries
                """
            )
        )
        assert counts == {"users": 1, "enrolments": 1, "entries": 1}, tenant
