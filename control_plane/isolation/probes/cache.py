"""What Valkey keeps apart: by the tenant's user, by its commands, by the seal; and what it says that all users may."""

from control_plane.cache.probing import Prober
from control_plane.cache.reconciler import Everyone
from control_plane.isolation.model import WallDownError, check
from control_plane.isolation.probes.probe import Between, Probe, absent_tenant


def cache_probes(cache: Prober, between: Between) -> list[Probe]:
    """Return the questions to Valkey about a tenant."""
    own, other = between.own, between.other.tenant_id if between.other is not None else absent_tenant()

    async def foreign_keys() -> str:
        check(await cache.foreign_keys(own, other))
        return "held"

    async def ways_out() -> str:
        check(await cache.ways_out(own))
        return "held"

    async def moved() -> str:
        if await cache.moved(own):
            raise WallDownError("what was cached under one name is taken for what another one has")
        return "held"

    return [
        Probe(
            name="cache.foreign_keys",
            promise="The tenant's user of Valkey reaches no key of another tenant, by any command that it has.",
            ask=foreign_keys,
        ),
        Probe(
            name="cache.ways_out",
            promise="The tenant's user of Valkey has no command that shows others' names, or leads out of its part.",
            ask=ways_out,
        ),
        Probe(
            name="cache.moved",
            promise="What was cached under one name is nothing in another one's place.",
            ask=moved,
        ),
    ]


def user_probe(cache: Prober, everyone: Everyone) -> Probe:
    """Return the question to Valkey about all of its users at once."""

    async def users() -> str:
        count, strange = await cache.strange_rights(everyone)
        check(strange)
        return f"{count} users: {count * (count - 1)} pairs are apart"

    return Probe(
        name="cache.users",
        promise="By what Valkey's users may do, no tenant's reaches a key of another's: for all pairs.",
        ask=users,
    )
