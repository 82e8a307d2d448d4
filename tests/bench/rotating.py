"""What an emergency costs: a new KEK for each of ten thousand tenants, by the code that rotates them, in both vaults.

The tenants are in a database of their own, with a key each that their KEK wraps, and a table for their audit log. Four
are rotated at a time, as by the worker of the control plane, for `LIMIT` at most: what is left takes as long each.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from control_plane.canary import Canaries
from control_plane.ids import TenantId, new_uuid
from control_plane.keyring import service
from control_plane.keyring.rotations.plan import Means
from control_plane.keyring.rotations.rotation import rotations
from control_plane.keys.material import Holder, new_material
from control_plane.keys.model import KekRef, Purpose, WrappedKey
from control_plane.keys.platform import PlatformKeys
from control_plane.keys.service import TenantKeys
from control_plane.keys.store import StoredKey
from control_plane.keys.vault import KeyVault
from control_plane.keys.vault_pkcs11 import Pkcs11Vault
from control_plane.keys.vault_software import SoftwareVault
from control_plane.objects.store import ObjectStore, open_bucket
from control_plane.operations.service import OperationRunner
from control_plane.postgres.database import Database, PostgresSettings, SystemTransaction
from control_plane.postgres.directory import Directory
from control_plane.postgres.placement import Placement
from control_plane.postgres.schemas import migrations, tenancy
from control_plane.settings import HsmSettings
from control_plane.tenants.store import find_placement
from tests.bench.measure import Figure, figures
from tests.bench.system import System
from tests.bench.vaults import fill_device
from tests.fixtures.softhsm import library_of, library_of_its_own

MANY: Final = 10_000
SHARDS: Final = 64
AT_ONCE: Final = 4
LIMIT: Final = timedelta(seconds=60)
_TENANTS: Final = "COPY csm_system.tenants (id, uid, display_name, state, tier, schema_name, dns_label) FROM STDIN"
_NUMBERS: Final = """
    SELECT setval(pg_get_serial_sequence('csm_system.tenants', 'number'),
                  1 + coalesce(max(substr(rolname, 7)::bigint), 0))
      FROM pg_roles WHERE rolname ~ '^csm_t_[0-9]+$'
"""
_KEYS: Final = """
    COPY csm_system.tenant_keys
         (id, tenant_uid, purpose, key_id, version, algorithm, kek_version, wrapped, public, state)
    FROM STDIN
"""
_KEKS: Final = "INSERT INTO csm_system.tenant_keks (tenant_uid, version) SELECT uid, 1 FROM csm_system.tenants"


class CountingVault:
    """A vault, and how often it was asked for what."""

    def __init__(self, vault: KeyVault) -> None:
        self._vault = vault
        self.asked = {"wrap": 0, "unwrap": 0}

    def __getattr__(self, name: str) -> Any:
        if name in self.asked:
            self.asked[name] += 1
        return getattr(self._vault, name)


async def rotation_of_all(system: System) -> AsyncIterator[Figure]:
    """Measure it in SoftHSM, in 64 tokens, and in software."""
    with TemporaryDirectory(prefix="bulkhead-bench-") as folder, library_of_its_own():
        vaults: dict[str, Callable[[], Awaitable[KeyVault]]] = {
            "softhsm": lambda: Pkcs11Vault.open(Path(folder) / "pkcs11", HsmSettings(shards=SHARDS)),
            "software": lambda: SoftwareVault.open(Path(folder) / "software"),
        }
        for name, opened in vaults.items():
            async with _registry(system, name) as database:
                vault = await opened()
                await _make_keks(vault, Path(folder) / "pkcs11")
                counting: Any = CountingVault(vault)
                tenants = await _fill(database, counting, _superuser(system, name))
                async for figure in _rotate_all(database, counting, tenants, Path(folder) / name, case=f"keks.{name}"):
                    yield figure


async def _rotate_all(
    database: Database, vault: Any, tenants: Sequence[TenantId], folder: Path, *, case: str
) -> AsyncIterator[Figure]:
    keys = TenantKeys(vault, database)
    plans = rotations(
        Means(
            database=database,
            directory=Directory(database),
            keys=keys,
            objects=ObjectStore(open_bucket(folder / "objects"), keys, Canaries(bytes(32))),
            vault=vault,
            platform_keys=PlatformKeys(vault, database),
            lagging_edges=_no_edges,
            touched=lambda _: None,
        )
    )
    runner, left, taken = OperationRunner(database, plans), iter(tenants), list[float]()
    before, begun = dict(vault.asked), time.perf_counter()

    async def work() -> None:
        for tenant_id in left:
            if time.perf_counter() - begun > LIMIT.total_seconds():
                return
            started = time.perf_counter()
            operation = await service.rotate_key(
                database.system(), await _request(database, tenant_id), defer=_nobody, now=datetime.now(UTC)
            )
            await runner.run(operation.id)
            taken.append((time.perf_counter() - started) * 1000)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    seconds = time.perf_counter() - begun
    for figure in figures(case, taken, [0.0], tail=0.99):
        yield figure
    yield _once(f"{case}_rate", len(taken) / seconds, "1/s", runs=len(taken))
    yield _once(f"{case}_all", seconds * len(tenants) / len(taken), "s", runs=len(taken))
    for name, count in vault.asked.items():
        yield _once(f"{case}_{name}s", (count - before[name]) / len(taken), "each", runs=len(taken))


def _superuser(system: System, name: str) -> str:
    settings = system.settings
    return make_conninfo(
        host=str(settings.postgres_socket_dir), port=settings.postgres_port, dbname=f"bench_{name}", user="bulkhead"
    )


@asynccontextmanager
async def _registry(system: System, name: str) -> AsyncIterator[Database]:
    """Have a database of its own, on the stack's server."""
    settings, dbname = system.settings, sql.Identifier(f"bench_{name}")
    admin = make_conninfo(_superuser(system, name), dbname="postgres")
    await migrations.migrate_system(_superuser(system, name))
    address = PostgresSettings(
        socket_dir=settings.postgres_socket_dir, port=settings.postgres_port, dbname=f"bench_{name}"
    )
    async with Database.open(address) as database:
        yield database
    async with await psycopg.AsyncConnection.connect(admin, autocommit=True) as connection:
        await connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(dbname))


async def _fill(database: Database, vault: KeyVault, superuser: str) -> list[TenantId]:
    """Make the tenants, with a key each that their KEK in the vault wraps."""
    uids = {TenantId(f"bench_{number}"): UUID(int=number) for number in range(1, MANY + 1)}
    await PlatformKeys(vault, database).attestation_signer()
    keys = [await _key(vault, tenant_id, uid) for tenant_id, uid in uids.items()]
    async with await psycopg.AsyncConnection.connect(superuser) as connection, connection.cursor() as cursor:
        # Roles belong to all databases of a server, and are named by tenants' numbers.
        await cursor.execute(_NUMBERS)
        async with cursor.copy(_TENANTS) as copying:
            for tenant_id, uid in uids.items():
                label = tenant_id.replace("_", "-")
                await copying.write_row((tenant_id, uid, "Bench", "ACTIVE", "standard", f"tenant_{tenant_id}", label))
        async with cursor.copy(_KEYS) as copying:
            for key in keys:
                named = (key.id, key.tenant_uid, key.purpose.value, key.key_id, 1, key.algorithm, 1)
                await copying.write_row((*named, key.wrapped, key.public, "ENABLED"))
        await cursor.execute(_KEKS)
    first = await _placement(database, next(iter(uids)))
    await tenancy.create_tenant_schema(database, first)
    await _make_logs(superuser, first, [tenant_id for tenant_id in uids if tenant_id != first.tenant_id])
    return list(uids)


async def _make_keks(vault: KeyVault, directory: Path) -> None:
    if isinstance(vault, Pkcs11Vault):
        await library_of(vault).run_to_end(lambda: fill_device(vault, directory, MANY))
        return
    for begin in range(1, MANY + 1, 50):
        keks = [KekRef(tenant_uid=UUID(int=number), version=1) for number in range(begin, min(begin + 50, MANY + 1))]
        await asyncio.gather(*map(vault.create_kek, keks))


async def _make_logs(superuser: str, first: Placement, tenants: Sequence[TenantId]) -> None:
    """Give each a table for its audit log, like the first one's, and no more of a schema."""
    async with await psycopg.AsyncConnection.connect(superuser, autocommit=True) as connection:
        for tenant_id in tenants:
            schema = sql.Identifier(f"tenant_{tenant_id}")
            statements = (
                "CREATE SCHEMA {schema};"
                "CREATE TABLE {schema}.audit_entries (LIKE {first}.audit_entries INCLUDING ALL);"
                "GRANT USAGE ON SCHEMA {schema} TO csm_control; GRANT INSERT ON {schema}.audit_entries TO csm_control"
            )
            await connection.execute(sql.SQL(statements).format(schema=schema, first=sql.Identifier(first.schema)))


async def _key(vault: KeyVault, tenant_id: TenantId, uid: UUID) -> StoredKey:
    kek = KekRef(tenant_uid=uid, version=1)
    holder = Holder(tenant_uid=uid, display_name=tenant_id, tenant_id=tenant_id)
    material = new_material(Purpose.TOKENS, holder=holder, now=datetime.now(UTC))
    fields: dict[str, Any] = {
        "id": new_uuid(),
        "tenant_uid": uid,
        "purpose": Purpose.TOKENS,
        "version": 1,
        "algorithm": holder.algorithm(Purpose.TOKENS),
        "kek_version": 1,
        "public": material.public,
    }
    aad = StoredKey(**fields, wrapped=WrappedKey(b"")).binding.aad()
    return StoredKey(**fields, wrapped=await vault.wrap(kek, material.private, aad=aad))


async def _request(database: Database, tenant_id: TenantId) -> service.Request:
    return service.Request(
        placement=await _placement(database, tenant_id),
        key_id="kek",
        etag="",
        actor="bench",
        call_request_id="bench",
        request_id=None,
        request_hash=b"",
    )


async def _placement(database: Database, tenant_id: TenantId) -> Placement:
    found = await database.system().run(lambda tx: find_placement(tx, tenant_id))
    assert found is not None
    return found


async def _no_edges(_: int) -> Sequence[str]:
    return []


async def _nobody(_: UUID, __: SystemTransaction) -> None:
    """The worker is here."""


def _once(case: str, value: float, unit: str, *, runs: int) -> Figure:
    return Figure(case=case, value=round(value, 3), unit=unit, baseline=0, runs=runs)
