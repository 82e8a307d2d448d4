"""What each of a thousand tenants' users may do in Valkey, read back from the server and held against the template."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import pytest_asyncio

from control_plane import cell_key
from control_plane.cache.acl import CONTROL_PLANE_COMMANDS, EDGE_COMMANDS, TENANT_COMMANDS
from control_plane.postgres.placement import Placement
from tests.fixtures.cache import CacheServer, cache_server, placement

pytestmark = pytest.mark.asyncio(loop_scope="module")

MANY: Final = [placement(number) for number in range(1000)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def valkey() -> AsyncIterator[CacheServer]:
    async with cache_server(MANY) as server:
        yield server


async def rights(valkey: CacheServer, name: str) -> dict[str, Any]:
    """Return all that the server says of a user, the commands in no order."""
    said = await valkey.client.acl_getuser(name)
    assert said is not None
    read: dict[str, Any] = dict(said)
    return {**read, "commands": sorted(read["commands"])}


def commands(*names: str) -> list[str]:
    return sorted(f"+{name}" for name in names)


def template(valkey: CacheServer, tenant: Placement) -> dict[str, Any]:
    password = cell_key.password(valkey.server.secret, str(tenant.uid))
    return {
        "enabled": True,
        "flags": ["on"],
        "passwords": [hashlib.sha256(password.encode()).hexdigest()],
        "commands": commands(*TENANT_COMMANDS),
        "categories": ["-@all"],
        "keys": [f"~tenant:{{{tenant.tenant_id}}}:*"],
        "channels": [],
        "databases": "alldbs",
        "selectors": [],
    }


@pytest.mark.behaviour("T-V1")
@pytest.mark.behaviour("S1.11")
async def test_each_of_a_thousand_users_is_as_the_template_says(valkey: CacheServer) -> None:
    different = [
        (tenant.tenant_id, found)
        for tenant in MANY
        if (found := await rights(valkey, str(tenant.uid))) != template(valkey, tenant)
    ]

    assert different == []
    assert valkey.server.tenants_known() == {str(tenant.uid) for tenant in MANY}


@pytest.mark.behaviour("T-V1")
async def test_no_two_of_them_have_a_password_or_a_pattern_in_common(valkey: CacheServer) -> None:
    found = [await rights(valkey, str(tenant.uid)) for tenant in MANY]

    assert len({password for user in found for password in user["passwords"]}) == len(MANY)
    assert len({pattern for user in found for pattern in user["keys"]}) == len(MANY)


@pytest.mark.behaviour("T-V1")
async def test_the_audit_would_see_a_right_too_many(valkey: CacheServer) -> None:
    tenant = placement(2000)
    sound = template(valkey, tenant)
    slips: dict[str, dict[str, Any]] = {
        "nothing": {},
        "a command": {"commands": ["+keys"]},
        "a category": {"categories": ["+@read"]},
        "all keys": {"keys": ["*"]},
        "another tenant's keys": {"keys": ["tenant:{org_1}:*"]},
        "a channel": {"channels": ["*"]},
        "another password": {"passwords": ["+x"]},
        "no password": {"nopass": True},
    }
    names = [command for command in TENANT_COMMANDS if "|" not in command]
    for name, slip in slips.items():
        given: dict[str, Any] = {
            "enabled": True,
            "reset": True,
            "categories": ["-@all"],
            "keys": [f"tenant:{{{tenant.tenant_id}}}:*"],
            "hashed_passwords": [f"+{sound['passwords'][0]}"],
            "commands": [f"+{command}" for command in [*names, "memory|usage"]],
        }
        for aspect, more in slip.items():
            given[aspect] = [*given.get(aspect, []), *more] if isinstance(more, list) else more
        if "nopass" in slip:
            del given["hashed_passwords"]
        await valkey.client.acl_setuser("audited", **given)

        assert (await rights(valkey, "audited") == sound) == (name == "nothing"), name
    await valkey.client.acl_deluser("audited")


@pytest.mark.behaviour("T-V1")
async def test_the_platforms_users_reach_no_tenant(valkey: CacheServer) -> None:
    default, edge, control_plane = [await rights(valkey, name) for name in ("default", "edge", "control-plane")]

    assert (default["flags"], default["keys"], default["commands"], default["channels"]) == (["off"], [], [], [])
    assert (edge["flags"], edge["keys"], edge["channels"]) == (["on"], ["~edge:*"], [])
    assert edge["commands"] == commands(*EDGE_COMMANDS)
    assert (control_plane["flags"], control_plane["keys"], control_plane["channels"]) == (["on"], [], [])
    assert control_plane["commands"] == commands(*CONTROL_PLANE_COMMANDS)
    assert {user["categories"][0] for user in (default, edge, control_plane)} == {"-@all"}
