"""The platform's own schemas, brought up to date by the superuser before the control plane starts.

`sql/system/NNNN_name.sql` are applied once each, in order, all that are due in one transaction; `roles.sql` each time.
An applied file is never changed: another one follows it.
"""

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

from control_plane.postgres.pools import Connection
from control_plane.postgres.schemas.catalogue import find_weaknesses

_FILE: Final = re.compile(r"(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.sql")
_LOCK: Final = 0x62756C6B  # any number, the same in every process: "bulk"


class MigrationError(Exception):
    """The database's schema cannot be brought to this code's version; the text says why. Nothing was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One file of SQL, applied once."""

    version: int
    name: str
    text: LiteralString
    """Comes from the package itself."""

    @property
    def checksum(self) -> bytes:
        """Tell whether the file is still what was applied."""
        return hashlib.sha256(self.text.encode()).digest()


def read_migrations(folder: str) -> tuple[Migration, ...]:
    """Read `sql/<folder>/NNNN_name.sql` in order; versions begin at 1 and have no gaps."""
    found = []
    for path in files("control_plane.postgres").joinpath("sql", folder).iterdir():
        if match := _FILE.fullmatch(path.name):
            text = path.read_text(encoding="utf-8")
            found.append(Migration(version=int(match["version"]), name=match["name"], text=text))
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        message = f"the files of sql/{folder} are not numbered 1, 2, 3, …"
        raise MigrationError(message)
    return tuple(found)


SYSTEM_MIGRATIONS: Final = read_migrations("system")
SYSTEM_VERSION: Final = SYSTEM_MIGRATIONS[-1].version


async def migrate_system(conninfo: str) -> None:
    """Make the database, the roles and the platform's schemas what this code needs. Safe to call again, and at once.

    Raises:
        MigrationError: the database is newer than this code, was migrated by other files, or is not sound afterwards.
        psycopg.OperationalError: the server is away.
    """
    await _create_database(conninfo)
    connection = await psycopg.AsyncConnection.connect(conninfo, row_factory=dict_row)
    async with connection, connection.transaction():
        await connection.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s)", (_LOCK,))
        await connection.execute(read_roles())
        applied = await _applied(connection)
        _check_history(applied)
        due = SYSTEM_MIGRATIONS[len(applied) :]
        for migration in due:
            await connection.execute(migration.text)
        for migration in due:
            await connection.execute(
                "INSERT INTO csm_system.schema_migrations (version, name, checksum) VALUES (%s, %s, %s)",
                (migration.version, migration.name, migration.checksum),
            )
        if weaknesses := await find_weaknesses(connection):
            message = "the database does not keep tenants apart: " + "; ".join(weaknesses)
            raise MigrationError(message)


async def _create_database(conninfo: str) -> None:
    name = str(conninfo_to_dict(conninfo)["dbname"])
    connection = await psycopg.AsyncConnection.connect(make_conninfo(conninfo, dbname="postgres"), autocommit=True)
    async with connection:
        await connection.execute("SELECT pg_catalog.pg_advisory_lock(%s)", (_LOCK,))
        found = await connection.execute("SELECT FROM pg_database WHERE datname = %s", (name,))
        if await found.fetchone() is None:
            create = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(sql.Identifier(name))
            await connection.execute(create)


def read_roles() -> LiteralString:
    """Read what `migrate_system` runs each time; it holds for the cluster, and for the database where it is run."""
    return files("control_plane.postgres").joinpath("sql", "system", "roles.sql").read_text(encoding="utf-8")


async def _applied(connection: Connection) -> list[bytes]:
    """Read the checksums of what was applied, in order."""
    found = await connection.execute("SELECT to_regclass('csm_system.schema_migrations') IS NOT NULL AS is_there")
    row = await found.fetchone()
    if not row or not row["is_there"]:
        return []
    cursor = await connection.execute("SELECT checksum FROM csm_system.schema_migrations ORDER BY version")
    return [bytes(row["checksum"]) for row in await cursor.fetchall()]


def _check_history(applied: list[bytes]) -> None:
    if len(applied) > SYSTEM_VERSION:
        message = f"the database has version {len(applied)}, this code knows {SYSTEM_VERSION}: start the newer release"
        raise MigrationError(message)
    for migration, checksum in zip(SYSTEM_MIGRATIONS, applied, strict=False):
        if migration.checksum != checksum:
            message = f"{migration.version:04}_{migration.name}.sql is not the file that was applied: restore it"
            raise MigrationError(message)
