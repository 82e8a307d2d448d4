"""What the database keeps apart: by role, by row-level security, by the handle; and what its catalogue says of that."""

from collections.abc import Awaitable, Callable

from control_plane.isolation.model import check
from control_plane.isolation.probes.probe import Between, Probe
from control_plane.postgres.database import Database
from control_plane.postgres.schemas.catalogue import find_weaknesses
from control_plane.postgres.schemas.probing import Session
from control_plane.postgres.schemas.reach import prove_apart


def database_probes(database: Database, between: Between) -> list[Probe]:
    """Return the questions to the database about a tenant."""
    session, other = Session(database, between.own), between.other

    return [
        _probe(
            "role.foreign_tables",
            "The tenant's role reads no table of another tenant.",
            lambda: session.foreign_tables(other),
        ),
        _probe(
            "role.ways_out",
            "Nothing that runs in the tenant's session chooses another role or another tenant.",
            lambda: session.ways_out(other),
        ),
        _probe(
            "rows.foreign_context",
            "Row-level security shows the tenant's rows to its own context alone.",
            lambda: session.foreign_rows(other),
        ),
        _probe(
            "rows.foreign_write",
            "Row-level security takes no row that belongs to another tenant.",
            lambda: session.written_rows(other),
        ),
        _probe(
            "context.marker",
            "A transaction of the tenant sees the tenant's own marker.",
            session.other_context,
        ),
        _probe(
            "context.residue",
            "A session that is given back has nothing left of the tenant.",
            session.residue,
        ),
        _probe(
            "history",
            "The audit log is appended to alone, and what all tenants read is written by none.",
            session.changed_history,
        ),
        _probe(
            "tables",
            "Each table names the tenant in every row, forces row-level security by it, and is granted to nobody else.",
            session.faulty_tables,
        ),
    ]


def catalogue_probes(database: Database) -> list[Probe]:
    """Return the questions to the database about all of its tenants at once."""

    async def reach() -> str:
        proof = await database.system().run(prove_apart)
        check(proof.findings)
        return f"{proof.relations} relations of {proof.tenants} tenants: {proof.pairs} pairs are apart"

    async def weaknesses() -> str:
        async with database.ddl() as connection:
            check(await find_weaknesses(connection))
        return "none"

    return [
        Probe(
            name="database.reach",
            promise="By PostgreSQL's catalogue, no tenant's role reaches a relation of another's: for all pairs.",
            ask=reach,
        ),
        Probe(
            name="database.weaknesses",
            promise="No role is too powerful, no table lacks its policies, and nothing is granted to everybody.",
            ask=weaknesses,
        ),
    ]


def _probe(name: str, promise: str, question: Callable[[], Awaitable[list[str]]]) -> Probe:
    async def ask() -> str:
        check(await question())
        return "held"

    return Probe(name=f"database.{name}", promise=promise, ask=ask)
