"""Old versions of a key for services are ended by who knows that nothing needs them any more, and brought back."""

from typing import Any

import pytest

from bulkhead.v1 import key_changes_pb2, keys_pb2
from control_plane.errors import EtagMismatchError, KeyRetiredError, NotFoundError, PreconditionError
from control_plane.postgres.placement import Placement
from tests.fixtures.keyring import Ring
from tests.fixtures.stored import State, states

CONTEXT: Any = None
FIRST = "tenants/org_1/keys/services/versions/1"


async def _retire(ring: Ring, tenant: Placement, name: str = FIRST, **options: Any) -> keys_pb2.KeyVersion:
    request = key_changes_pb2.RetireKeyVersionRequest(name=name, **options)
    return await ring.calling(tenant, "RetireKeyVersion").RetireKeyVersion(request, CONTEXT)


async def _enable(ring: Ring, tenant: Placement, name: str = FIRST, **options: Any) -> keys_pb2.KeyVersion:
    request = key_changes_pb2.EnableKeyVersionRequest(name=name, **options)
    return await ring.calling(tenant, "EnableKeyVersion").EnableKeyVersion(request, CONTEXT)


@pytest.mark.behaviour("S2.5")
async def test_a_version_that_is_retired_opens_nothing_in_any_process_until_it_is_enabled(ring: Ring) -> None:
    tenant, neighbour, other = await ring.cell.tenant(), await ring.cell.tenant("org_2"), ring.other_process()
    before = await other.services_key(tenant, version=1)
    for each in (tenant, neighbour):
        await ring.rotated(each, "services")
    retired = await _retire(ring, tenant)
    # As `run` does twice a second.
    await other.forget_unusable()

    assert (retired.name, retired.state, retired.primary) == (FIRST, State.RETIRED, False)
    for process in (ring.cell.keys, other, ring.other_process()):
        with pytest.raises(KeyRetiredError, match=FIRST):
            await process.services_key(tenant, version=1)
        assert (await process.services_key(tenant)).version == 2
        await process.services_key(neighbour, version=1)
    assert await states(ring, neighbour, "services") == [State.ENABLED, State.ENABLED]
    enabled = await _enable(ring, tenant)
    assert (enabled.state, enabled.primary) == (State.ENABLED, False)
    for process in (ring.cell.keys, other, ring.other_process()):
        assert await process.services_key(tenant, version=1) == before
        assert (await process.services_key(tenant)).version == 2


async def test_what_is_done_to_a_version_is_in_the_tenants_audit_log_and_what_is_done_already_is_not(
    ring: Ring,
) -> None:
    tenant = await ring.cell.tenant()
    await ring.rotated(tenant, "services")
    before = len(await ring.log(tenant))
    for change in (_retire, _retire, _enable, _enable):
        await change(ring, tenant)

    assert (await ring.log(tenant))[before:] == [(FIRST, {"state": "RETIRED"}), (FIRST, {"state": "ENABLED"})]


async def test_what_seals_is_not_retired_and_nothing_that_its_rotation_sees_to(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    for name, reason in {
        FIRST: "KEY_VERSION_PRIMARY",
        "tenants/org_1/keys/tokens/versions/1": "KEY_VERSION_NOT_CHANGED",
        "tenants/org_1/keys/kek/versions/1": "KEY_VERSION_NOT_CHANGED",
    }.items():
        with pytest.raises(PreconditionError) as refused:
            await _retire(ring, tenant, name)
        assert refused.value.code == reason

    assert await states(ring, tenant, "services") == [State.ENABLED]
    for name in ("tenants/org_1/keys/services/versions/2", "tenants/org_1/keys/nothing/versions/1"):
        with pytest.raises(NotFoundError):
            await _retire(ring, tenant, name)


async def test_a_key_that_was_changed_since_it_was_read_is_left_as_it_is(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    etag = (await ring.key(tenant, "services")).etag
    await ring.rotated(tenant, "services")

    with pytest.raises(EtagMismatchError):
        await _retire(ring, tenant, etag=etag)
    await _retire(ring, tenant, etag=(await ring.key(tenant, "services")).etag)
    with pytest.raises(EtagMismatchError):
        await _enable(ring, tenant, etag=etag)
    assert await states(ring, tenant, "services") == [State.RETIRED, State.ENABLED]
