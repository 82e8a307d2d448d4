"""What the object store keeps apart: each object opens for its tenant, in its place, and no path leads elsewhere."""

from contextlib import suppress
from typing import Final

from control_plane.errors import InvalidArgumentError, NotFoundError
from control_plane.ids import new_uuid
from control_plane.isolation.model import WallDownError
from control_plane.isolation.probes.probe import Between, Probe, absent_tenant
from control_plane.keys.model import IntegrityError
from control_plane.objects.paths import object_key
from control_plane.objects.store import ObjectStore, TenantObjects
from control_plane.postgres.placement import Placement

_MARKER: Final = "isolation/marker"
_MOVED: Final = "isolation/moved"


def storage_probes(objects: ObjectStore, between: Between) -> list[Probe]:
    """Return the questions to the object store about a tenant."""
    own = objects.of(between.own)
    marker = objects.canaries.marker(between.own.uid).encode()
    other = between.other.tenant_id if between.other is not None else absent_tenant()

    async def own_marker() -> str:
        if await _kept(own, marker) != marker:
            raise WallDownError("the tenant's marker is not where it was put")
        return "held"

    async def moved() -> str:
        await _kept(own, marker)
        return await _stays_shut(objects, between.own)

    async def ways_out() -> str:
        for way in (f"../{other}/{_MARKER}", f"/storage/{other}/{_MARKER}", f"{_MARKER}/../../../{other}/{_MARKER}"):
            # What leads there has gone through, whether or not there is anything.
            with suppress(NotFoundError, IntegrityError):
                try:
                    await own.get(way)
                except InvalidArgumentError:
                    continue
            raise WallDownError("a path that leads out of the tenant's folder is taken")
        return "held"

    return [
        Probe(
            name="storage.marker",
            promise="The tenant's objects are its own: its marker is where it was put, and nobody else's.",
            ask=own_marker,
        ),
        Probe(
            name="storage.moved",
            promise="What was sealed for one object does not open in another one's place.",
            ask=moved,
        ),
        Probe(
            name="storage.ways_out",
            promise="No path leads out of the tenant's folder.",
            ask=ways_out,
        ),
    ]


async def _stays_shut(objects: ObjectStore, placement: Placement) -> str:
    """Move the sealed marker to another place of the same tenant, and try to open it there."""
    own, path = objects.of(placement), f"{_MOVED}-{new_uuid()}"
    sealed = await objects.bucket.get(object_key(placement.tenant_id, _MARKER))
    await objects.bucket.put(object_key(placement.tenant_id, path), sealed)
    try:
        await own.get(path)
    except IntegrityError:
        return "held"
    finally:
        await own.delete(path)
    raise WallDownError("an object opens in another object's place")


async def _kept(folder: TenantObjects, marker: bytes) -> bytes:
    """Return what lies where the marker belongs; put it there the first time."""
    try:
        return await folder.get(_MARKER)
    except NotFoundError:
        await folder.put(_MARKER, plaintext=marker)
        return await folder.get(_MARKER)
    except IntegrityError as error:
        raise WallDownError("the tenant's marker does not open") from error
