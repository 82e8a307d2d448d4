"""Every wall is probed, and every probe notices when its wall is down."""

import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from uuid import UUID

import pytest
from psycopg import sql

from control_plane.cache import model as cache_model
from control_plane.errors import NotFoundError, UnavailableError
from control_plane.ids import TenantId
from control_plane.isolation.servicer import to_proto
from control_plane.keys.model import Binding
from control_plane.keys.sealing.objects import ObjectSeal
from control_plane.objects import paths
from control_plane.postgres.placement import Placement
from control_plane.serving.interceptors import authorization
from control_plane.serving.interceptors.authorization import check_tenant
from control_plane.serving.principal import Principal
from control_plane.tokens.verifier import TokenVerifier
from tests.fixtures.canaries import RawConnection
from tests.integration.isolation.conftest import Tower, outcomes

ALL: Final = [
    "database.role.foreign_tables",
    "database.role.ways_out",
    "database.rows.foreign_context",
    "database.rows.foreign_write",
    "database.context.marker",
    "database.context.residue",
    "database.history",
    "database.tables",
    "keys.foreign_key",
    "keys.foreign_token",
    "storage.marker",
    "storage.moved",
    "storage.ways_out",
    "cache.foreign_keys",
    "cache.ways_out",
    "cache.moved",
    "api.foreign_tenant",
    "api.forged_context",
]
LEVELS: Final = ("POOLED", "STRICT")


async def two_tenants(tower: Tower, level: str) -> tuple[Placement, Placement]:
    made = [await tower.cell.tenant(name, isolation=level) for name in ("org_1", "org_2")]
    return made[0], made[1]


@pytest.mark.behaviour("S1.18")
@pytest.mark.parametrize("level", LEVELS)
async def test_where_all_walls_hold_everything_passes(level: str, tower: Tower) -> None:
    ours, theirs = await two_tenants(tower, level)
    for placement in (ours, theirs):
        attestation = await tower.verify(placement)

        assert outcomes(attestation) == {}
        assert [probe.name for probe in attestation.probes] == ALL
        assert attestation.passed
        assert theirs.tenant_id not in str(attestation) or placement is theirs


async def test_a_tenant_that_is_alone_is_probed_as_well(tower: Tower) -> None:
    assert outcomes(await tower.verify(await tower.cell.tenant())) == {}


# Each takes a wall down, and says which probes must notice.
BREAKAGES: Final[Mapping[str, tuple[str, set[str]]]] = {
    "a grant on another tenant's tables": (
        (
            "GRANT USAGE ON SCHEMA {their_schema} TO {our_role};"
            "GRANT SELECT ON ALL TABLES IN SCHEMA {their_schema} TO {our_role}"
        ),
        {"database.role.foreign_tables"},
    ),
    "a membership of the owner's": (
        "GRANT csm_owner TO {our_login} WITH INHERIT FALSE, SET TRUE",
        {"database.role.ways_out"},
    ),
    "no row-level security": (
        (
            "ALTER TABLE {our_schema}.users DISABLE ROW LEVEL SECURITY;"
            "ALTER TABLE {our_schema}.canaries DISABLE ROW LEVEL SECURITY"
        ),
        {"database.rows.foreign_context", "database.rows.foreign_write", "database.tables"},
    ),
    "a second policy": (
        "CREATE POLICY more ON {our_schema}.users FOR INSERT WITH CHECK (true)",
        {"database.rows.foreign_write", "database.tables"},
    ),
    "another tenant's marker": (
        "UPDATE {our_schema}.canaries SET marker = (SELECT marker FROM {their_schema}.canaries)",
        {"database.context.marker"},
    ),
    "no marker": ("DELETE FROM {our_schema}.canaries", {"database.context.marker"}),
    "a context that sessions begin with": (
        "ALTER ROLE {our_login} SET app.tenant_id = '00000000-0000-0000-0000-000000000001'",
        {"database.context.residue"},
    ),
    "an audit log that can be changed": (
        (
            "ALTER TABLE {our_schema}.audit_entries DISABLE TRIGGER refuse_change;"
            "GRANT UPDATE, DELETE ON {our_schema}.audit_entries TO {our_role}"
        ),
        {"database.history"},
    ),
    "a right of everybody's": ("GRANT SELECT ON {our_schema}.users TO PUBLIC", {"database.tables"}),
}


@pytest.mark.behaviour("S1.18")
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("breakage", BREAKAGES)
async def test_what_is_wrong_in_the_database_is_noticed(
    breakage: str, level: str, tower: Tower, superuser: RawConnection
) -> None:
    ours, theirs = await two_tenants(tower, level)
    statements, noticing = BREAKAGES[breakage]
    await superuser.execute(
        sql.SQL(statements).format(
            our_schema=sql.Identifier(ours.schema),
            our_role=sql.Identifier(ours.role),
            our_login=sql.Identifier(ours.login),
            their_schema=sql.Identifier(theirs.schema),
        )
    )

    found = outcomes(await tower.verify(ours))

    assert {name for name, outcome in found.items() if outcome == "FAILED"} == noticing
    assert theirs.tenant_id not in str(await tower.verify(ours))


async def _believe_the_claim(verifier: Any, _key: object, claims: Any) -> Placement:
    entry = await verifier._directory.find(claims.tenant_id)
    placement: Placement = entry.placement
    return placement


def _nobodys_binding(*_: object) -> Binding:
    return Binding(tenant_uid=UUID(int=0), purpose="cache", version=1, object_name="")


HOLES: Final[Mapping[str, tuple[object, str, object, set[str]]]] = {
    "sealed for no place": (ObjectSeal, "_aad", lambda *_: b"", {"keys.foreign_key", "storage.moved"}),
    "paths not checked": (paths, "path_violation", lambda _: None, {"storage.ways_out"}),
    "a claim believed": (TokenVerifier, "_tenant_of", _believe_the_claim, {"keys.foreign_token"}),
    "cached for no name": (cache_model, "_binding", _nobodys_binding, {"cache.moved"}),
    "tenants not compared": (authorization, "check_tenant", lambda *_: None, {"api.foreign_tenant"}),
    "signatures not compared": (hmac, "compare_digest", lambda *_: True, {"api.forged_context"}),
}


@pytest.mark.behaviour("S1.18")
@pytest.mark.parametrize("hole", HOLES)
async def test_what_is_wrong_in_the_code_is_noticed(hole: str, tower: Tower, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = [await tower.cell.tenant(name) for name in ("org_1", "org_2")]
    owner, name, instead, noticing = HOLES[hole]
    monkeypatch.setattr(owner, name, instead)

    assert outcomes(await tower.verify(ours)) == dict.fromkeys(noticing, "FAILED")


async def test_an_absent_tenant_that_is_told_from_another_one_is_noticed(
    tower: Tower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were tenants looked up before they are compared, this is what could be seen."""
    ours = await tower.cell.tenant("org_1")

    def told_apart(principal: Principal, tenant_id: TenantId) -> None:
        if tenant_id != "org_1":
            raise NotFoundError(f"tenants/{tenant_id}")
        check_tenant(principal, tenant_id)

    monkeypatch.setattr(authorization, "check_tenant", told_apart)

    assert outcomes(await tower.verify(ours)) == {"api.foreign_tenant": "FAILED"}


@pytest.mark.behaviour("S1.17", "S1.18")
async def test_another_tenants_marker_among_the_objects_is_noticed(tower: Tower) -> None:
    ours, theirs = [await tower.cell.tenant(name) for name in ("org_1", "org_2")]
    marker = tower.cell.database.canaries.marker(theirs.uid)
    await tower.objects.of(ours).put("isolation/marker", plaintext=marker.encode())

    assert outcomes(await tower.verify(ours)) == {"storage.marker": "FAILED", "storage.moved": "FAILED"}


async def test_what_cannot_be_reached_is_unknown_and_nothing_else(tower: Tower) -> None:
    ours = await tower.cell.tenant()
    await tower.certificates.stop(None)
    await tower.valkey.kill()
    attestation = await tower.verify(ours)
    of_the_cell = await tower.verify_cell()

    assert outcomes(attestation) == dict.fromkeys(
        ("cache.foreign_keys", "cache.ways_out", "cache.moved", "api.foreign_tenant", "api.forged_context"), "UNKNOWN"
    )
    assert not attestation.passed
    assert outcomes(to_proto(of_the_cell, "cells/local")) == {"cache.users": "UNKNOWN"}


RIGHTS: Final[Mapping[str, tuple[str, set[str]]]] = {
    "all keys": ("allkeys", {"cache.foreign_keys"}),
    "another tenant's keys": ("~tenant:{{{other}}}:*", {"cache.foreign_keys"}),
    "keys by a pattern that is another tenant's, too": ("~tenant:{{org*", {"cache.foreign_keys"}),
    "more rights, with other keys": ("(~tenant:{{{other}}}:* +get)", {"cache.foreign_keys"}),
    "a command that shows keys": ("+scan", {"cache.ways_out"}),
    "scripts": ("+eval", {"cache.ways_out"}),
    "all channels": ("allchannels", set()),
    "no password": ("nopass", set()),
}


@pytest.mark.behaviour("S1.11", "S1.18")
@pytest.mark.parametrize("right", RIGHTS)
async def test_a_right_too_many_in_valkey_is_noticed(right: str, tower: Tower) -> None:
    ours, theirs = await two_tenants(tower, "POOLED")
    rule, noticing = RIGHTS[right]
    before = await tower.verify_cell()
    async with tower.valkey.superuser() as client:
        given = rule.format(other=theirs.tenant_id)
        await client.execute_command("ACL", "SETUSER", str(ours.uid), given)  # type: ignore[no-untyped-call]  # its own lack
        after, attestation = await tower.verify_cell(), await tower.verify(ours)

    assert outcomes(attestation) == dict.fromkeys(noticing, "FAILED")
    assert theirs.tenant_id not in str(attestation)
    assert b"2 users: 2 pairs are apart" in before.payload
    assert outcomes(to_proto(after, "cells/local")) == {"cache.users": "FAILED"}
    assert str(ours.uid).encode() in after.payload
    assert str(theirs.uid).encode() not in after.payload


@pytest.mark.behaviour("S1.11")
async def test_a_user_that_is_nobodys_is_noticed(tower: Tower) -> None:
    await tower.cell.tenant()
    async with tower.valkey.superuser():
        assert outcomes(to_proto(await tower.verify_cell(), "cells/local")) == {"cache.users": "FAILED"}


async def test_a_tenant_whose_user_is_not_there_yet_is_not_attested_nor_in_doubt(tower: Tower) -> None:
    ours = await tower.cell.tenant()
    async with tower.valkey.superuser() as client:
        await client.acl_deluser(str(ours.uid))

        assert outcomes(await tower.verify(ours)) == dict.fromkeys(
            ("cache.foreign_keys", "cache.ways_out", "cache.moved"), "UNKNOWN"
        )


async def test_a_neighbour_whose_old_key_is_retired_is_no_hole(tower: Tower, superuser: RawConnection) -> None:
    """What was sealed elsewhere does not open there, also where the version that it names is not used any more."""
    ours, theirs = await two_tenants(tower, "POOLED")
    await superuser.execute(
        "UPDATE csm_system.tenant_keys SET state = 'RETIRED' WHERE purpose = 'storage' AND tenant_uid = %s",
        [theirs.uid],
    )

    assert outcomes(await tower.verify(ours)) == {}


@pytest.mark.parametrize("failure", [RuntimeError("a fault"), UnavailableError("away"), TimeoutError()])
async def test_a_probe_that_breaks_does_not_pass(
    failure: Exception, tower: Tower, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = await tower.cell.tenant()

    async def fail(*_: object, **__: object) -> None:
        raise failure

    broken: Callable[..., Awaitable[None]] = fail
    monkeypatch.setattr(type(tower.cell.keys), "encrypt", broken)

    assert outcomes(await tower.verify(ours)) == dict.fromkeys(
        ("keys.foreign_key", "storage.marker", "storage.moved"), "UNKNOWN"
    )


@pytest.mark.behaviour("S1.18")
async def test_a_cells_verification_proves_all_pairs_apart(tower: Tower, superuser: RawConnection) -> None:
    ours, theirs = await two_tenants(tower, "POOLED")
    before = await tower.verify_cell()
    await superuser.execute(
        sql.SQL("GRANT SELECT ON {}.users TO {}").format(sql.Identifier(theirs.schema), sql.Identifier(ours.role))
    )
    after = await tower.verify_cell()

    assert (before.passed, after.passed) == (True, False)
    assert b"2 pairs are apart" in before.payload
    assert b"may SELECT" in after.payload
