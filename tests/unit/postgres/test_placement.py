"""Which names a tenant's schema and roles can have."""

from dataclasses import replace
from typing import Any, Final

import pytest

from control_plane.ids import TenantId, new_uuid
from control_plane.postgres.placement import Placement

SOUND: Final = Placement(
    tenant_id=TenantId("org_1"), uid=new_uuid(), schema="tenant_org_1", role="csm_t_1", login="csm_pool_0"
)


@pytest.mark.behaviour("T-D5")
@pytest.mark.parametrize(
    "names",
    [
        {"schema": "csm_system"},
        {"schema": "public"},
        {"schema": "tenant_"},
        {"schema": 'tenant_a"b'},
        {"schema": "tenant_a\n"},
        {"schema": "tenant_ä"},
        {"schema": "tenant_A"},
        {"schema": "tenant_" + "x" * 57},
        {"role": "csm_owner"},
        {"role": "csm_control"},
        {"role": "csm_t_"},
        {"role": "csm_t_0"},
        {"role": "csm_t_-1"},
        {"role": "csm_pool_1"},
        {"role": "none"},
        {"login": "csm_ddl"},
        {"login": "bulkhead"},
        {"login": "csm_pool_"},
        {"login": "csm_t_2"},
    ],
)
def test_a_placement_cannot_name_what_belongs_to_no_tenant(names: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not the name of a tenant"):
        replace(SOUND, **names)


def test_who_logs_in_as_itself_is_strict() -> None:
    assert replace(SOUND, login=SOUND.role).is_strict
    assert not SOUND.is_strict


def test_the_longest_names_are_not_cut_off_by_postgresql() -> None:
    placement = replace(SOUND, schema="tenant_" + "x" * 56, role="csm_t_" + "9" * 19)

    assert len(placement.schema) == 63
