"""What the directory knows of tenants, and for how long."""

import pytest

from control_plane.ids import new_uuid
from control_plane.postgres import directory as directory_module
from control_plane.postgres.database import Database
from control_plane.postgres.directory import MAXIMUM_AGE, Directory
from tests.fixtures.canaries import RawConnection
from tests.fixtures.postgres import MakeTenant


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory(database: Database, clock: Clock) -> Directory:
    return Directory(database, clock=clock)


async def set_state(superuser: RawConnection, tenant_id: str, state: str) -> None:
    await superuser.execute("UPDATE csm_system.tenants SET state = %s WHERE id = %s", (state, tenant_id))


async def state_of(directory: Directory, tenant_id: str) -> str | None:
    entry = await directory.find(tenant_id)
    return entry.state if entry else None


async def test_a_tenant_is_found_by_its_id_and_by_its_uid(directory: Directory, make_tenant: MakeTenant) -> None:
    placement = await make_tenant("org_1")
    await make_tenant("org_2")

    by_id, by_uid = await directory.find("org_1"), await directory.find_uid(placement.uid)

    assert by_id is not None
    assert by_id.placement == placement
    assert by_id.state == "ACTIVE"
    assert by_uid == by_id


@pytest.mark.parametrize("name", ["absent", "", "ORG_1", "org_1\x20", "x" * 10_000, "'; --", "\x00", "\ud800", "ö"])
async def test_an_absent_tenant_is_not_found_whatever_was_asked_for(
    name: str, directory: Directory, make_tenant: MakeTenant
) -> None:
    await make_tenant("org_1")

    assert await directory.find(name) is None
    assert await directory.find_uid(new_uuid()) is None


async def test_what_was_found_is_remembered_for_a_second(
    directory: Directory, clock: Clock, make_tenant: MakeTenant, superuser: RawConnection
) -> None:
    placement = await make_tenant("org_1")
    assert await state_of(directory, "org_1") == "ACTIVE"
    await set_state(superuser, "org_1", "SUSPENDED")

    clock.now += MAXIMUM_AGE.total_seconds() * 0.99
    assert await state_of(directory, "org_1") == "ACTIVE"
    by_uid = await directory.find_uid(placement.uid)
    assert by_uid is not None
    assert by_uid.state == "ACTIVE"

    clock.now += MAXIMUM_AGE.total_seconds() * 0.02
    assert await state_of(directory, "org_1") == "SUSPENDED"


async def test_who_is_suspended_is_asked_for_again(
    directory: Directory, make_tenant: MakeTenant, superuser: RawConnection
) -> None:
    await make_tenant("org_1")
    await set_state(superuser, "org_1", "SUSPENDED")
    suspended = await state_of(directory, "org_1")
    await set_state(superuser, "org_1", "ACTIVE")

    assert (suspended, await state_of(directory, "org_1")) == ("SUSPENDED", "ACTIVE")


async def test_who_is_sealed_costs_a_crowd_of_callers_one_query_a_second(
    directory: Directory, clock: Clock, make_tenant: MakeTenant, superuser: RawConnection
) -> None:
    await make_tenant("org_1")
    await set_state(superuser, "org_1", "SEALED")
    sealed = await state_of(directory, "org_1")
    await set_state(superuser, "org_1", "SUSPENDED")
    remembered = await state_of(directory, "org_1")
    clock.now += MAXIMUM_AGE.total_seconds()

    assert (sealed, remembered) == ("SEALED", "SEALED")
    assert await state_of(directory, "org_1") == "SUSPENDED"


async def test_a_uid_never_leads_to_the_tenant_that_has_its_id_now(
    directory: Directory, make_tenant: MakeTenant, superuser: RawConnection, clock: Clock
) -> None:
    former = await make_tenant("org_1")
    assert await directory.find_uid(former.uid) is not None
    await superuser.execute("UPDATE csm_system.tenants SET uid = %s WHERE id = 'org_1'", (new := new_uuid(),))
    clock.now += MAXIMUM_AGE.total_seconds()
    found = await directory.find("org_1")

    assert found is not None
    assert found.placement.uid == new
    assert await directory.find_uid(former.uid) is None


async def test_what_was_not_found_is_asked_for_again(directory: Directory, make_tenant: MakeTenant) -> None:
    assert await state_of(directory, "org_1") is None

    await make_tenant("org_1")

    assert await state_of(directory, "org_1") == "ACTIVE"


async def test_what_was_forgotten_is_read_anew(
    directory: Directory, make_tenant: MakeTenant, superuser: RawConnection
) -> None:
    placement = await make_tenant("org_1")
    await directory.find_uid(placement.uid)
    await set_state(superuser, "org_1", "SUSPENDED")

    directory.forget("org_1")
    directory.forget("absent")

    assert await state_of(directory, "org_1") == "SUSPENDED"
    by_uid = await directory.find_uid(placement.uid)
    assert by_uid is not None
    assert by_uid.state == "SUSPENDED"


async def test_memory_is_bounded(
    directory: Directory, make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "_MOST_TENANTS", 2)
    for number in range(4):
        await make_tenant(f"org_{number}")
        await directory.find(f"org_{number}")

    assert list(directory._by_id) == ["org_2", "org_3"]
    assert len(directory._id_by_uid) == 2


@pytest.mark.parametrize("page", [1, 2, 100])
async def test_all_tenants_that_have_a_schema_are_gone_through(
    page: int, directory: Directory, make_tenant: MakeTenant, superuser: RawConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "_PAGE", page)
    tenants = [await make_tenant(f"org_{number}") for number in range(4)]
    await superuser.execute("SET session_replication_role = replica")  # no trigger: it refuses this way back
    await set_state(superuser, "org_1", "PROVISIONING")
    await set_state(superuser, "org_2", "SUSPENDED")

    assert [placement async for placement in directory.placements()] == [tenants[0], tenants[2], tenants[3]]
