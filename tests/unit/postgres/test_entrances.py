"""What a tenant's transaction begins with: all of it ends with the transaction, and the role comes last."""

import re
from dataclasses import replace
from typing import Final

import pytest

from control_plane.ids import TenantId, new_uuid
from control_plane.postgres.handles import Entrance, Isolation, sealer_entrance, tenant_entrance
from control_plane.postgres.placement import Placement

POOLED: Final = Placement(
    tenant_id=TenantId("org_1"), uid=new_uuid(), schema="tenant_org_1", role="csm_t_1", login="csm_pool_0"
)
STRICT: Final = replace(POOLED, login=POOLED.role)
ENTRANCES: Final = {
    "pooled": tenant_entrance(POOLED, Isolation.SERIALIZABLE),
    "strict": tenant_entrance(STRICT, Isolation.SERIALIZABLE),
    "sealer": sealer_entrance(POOLED),
}
EACH: Final = pytest.mark.parametrize("entrance", ENTRANCES.values(), ids=ENTRANCES)


def said(entrance: Entrance) -> list[str]:
    return [statement.decode() for statement in entrance.statements]


@EACH
def test_all_that_a_transaction_begins_with_ends_with_it(entrance: Entrance) -> None:
    """Without a word of the pool's: COMMIT and ROLLBACK undo it."""
    begin, *settings = said(entrance)

    assert begin.startswith("BEGIN ")
    assert settings
    kinds = r"SET LOCAL (search_path = |app\.tenant_id = |ROLE )|SELECT csm_session\.admit\(1\)"
    assert [one for one in settings if not re.match(kinds, one)] == []


@EACH
def test_names_are_the_catalogues_and_then_the_tenants_and_temporary_ones_last(entrance: Entrance) -> None:
    """What a path does not name comes first, and so would a temporary table of a tenant's table's name."""
    assert 'SET LOCAL search_path = pg_catalog, "tenant_org_1", pg_temp' in said(entrance)


@EACH
def test_a_transaction_says_whose_it_is(entrance: Entrance) -> None:
    assert f"SET LOCAL app.tenant_id = '{POOLED.uid}'" in said(entrance)


@pytest.mark.behaviour("S2.3")
def test_a_tenants_own_transaction_asks_whether_it_is_sealed_before_it_becomes_the_tenant() -> None:
    asks = {name: "SELECT csm_session.admit(1)" in said(entrance) for name, entrance in ENTRANCES.items()}

    assert asks == {"pooled": True, "strict": True, "sealer": False}


def test_from_the_role_on_nothing_more_is_set() -> None:
    assert said(ENTRANCES["pooled"])[-1] == 'SET LOCAL ROLE "csm_t_1"'


def test_only_who_has_logged_in_as_somebody_else_takes_on_a_role() -> None:
    assert [name for name, entrance in ENTRANCES.items() if "ROLE" in "".join(said(entrance))] == ["pooled"]
