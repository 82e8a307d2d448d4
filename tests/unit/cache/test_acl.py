"""What the rules say, before any server reads them."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from control_plane.cache import acl
from control_plane.cache.acl import (
    CONTROL_PLANE_COMMANDS,
    EDGE_COMMANDS,
    TENANT_COMMANDS,
    acl_file,
    control_plane_user,
    edge_user,
    tenant_user,
)
from control_plane.cache.handles import LIBRARY
from control_plane.ids import TenantId
from ext_authz.budgets import counter
from tests.fixtures.cache import placement

SECRET: Final = bytes(range(32))
# What shows names of keys, reaches more than the keys that it names, or leads to somebody else. By first word.
NOBODYS: Final = frozenset({
    "acl", "bgrewriteaof", "bgsave", "client", "cluster", "command", "config", "copy", "dbsize", "debug", "dump",
    "eval", "eval_ro", "evalsha", "evalsha_ro", "failover", "fcall_ro", "flushall", "flushdb", "function", "hscan",
    "info", "keys", "lastsave", "latency", "migrate", "module", "monitor", "move", "multi", "object", "psubscribe",
    "psync", "publish", "pubsub", "randomkey", "rename", "replicaof", "reset", "restore", "role", "save", "scan",
    "script", "select", "shutdown", "slaveof", "slowlog", "sort", "sort_ro", "spublish", "ssubscribe", "sscan",
    "subscribe", "swapdb", "sync", "unwatch", "wait", "watch", "xadd", "xread", "xreadgroup", "zscan",
})  # fmt: skip


def called(lua: Path) -> set[str]:
    """Return the commands that a library calls, as an ACL names them."""
    found = re.findall(r"server\.p?call\('(\w+)'(?:, '(USAGE)')?", lua.read_text())
    return {"|".join(filter(None, words)).lower() for words in found}


@pytest.mark.behaviour("T-V1")
def test_a_tenant_may_exactly_what_its_functions_do() -> None:
    assert set(TENANT_COMMANDS) == called(LIBRARY) | {"fcall"}


@pytest.mark.behaviour("T-V1")
def test_the_edge_may_exactly_what_its_function_does_and_bring_it() -> None:
    assert set(EDGE_COMMANDS) == called(counter._LIBRARY) | {"fcall", "function|load"}


@pytest.mark.behaviour("T-V1")
def test_no_tenant_has_a_command_that_shows_names_or_reaches_further() -> None:
    assert {command.partition("|")[0] for command in TENANT_COMMANDS} & NOBODYS == set()
    assert [command for command in TENANT_COMMANDS if command.startswith("memory")] == ["memory|usage"]


def test_the_control_plane_has_no_keys_and_reads_no_values() -> None:
    user = control_plane_user(SECRET)

    assert user.pattern is None
    assert {command.partition("|")[0] for command in CONTROL_PLANE_COMMANDS} == {"acl", "function", "ping"}


def test_rules_begin_with_nothing_and_name_all_that_is_allowed() -> None:
    tenant = placement(1)
    reset, on, password, *rest = tenant_user(tenant, SECRET).rules

    assert (reset, on) == ("reset", "on")
    assert re.fullmatch("#[0-9a-f]{64}", password)
    assert rest == [
        "resetkeys",
        "~tenant:{org_1}:*",
        "resetchannels",
        "-@all",
        *(f"+{command}" for command in TENANT_COMMANDS),
    ]


@pytest.mark.behaviour("T-V3")
@pytest.mark.parametrize("tenant_id", ["a*", "org?", "org_[1]", "org:1", "org_1\n", "org_1}:*"])
def test_nobody_is_made_whose_id_reads_as_more_than_itself(tenant_id: str) -> None:
    with pytest.raises(ValueError, match="must"):
        tenant_user(replace(placement(1), tenant_id=TenantId(tenant_id)), SECRET)


def test_a_later_tenant_of_the_same_id_is_another_user() -> None:
    one, other = placement(1), replace(placement(1), uid=placement(2).uid)

    assert tenant_user(one, SECRET).name != tenant_user(other, SECRET).name
    assert tenant_user(one, SECRET).password != tenant_user(other, SECRET).password


def test_passwords_stay_out_of_reprs_and_of_rules() -> None:
    for user in (tenant_user(placement(1), SECRET), control_plane_user(SECRET), edge_user(SECRET)):
        assert user.password not in f"{user!r} {user.rules}"


def test_a_file_has_hashes_only_and_shuts_the_default_user_out() -> None:
    control_plane, edge = control_plane_user(SECRET), edge_user(bytes(32))
    default, *others = acl_file(control_plane, edge).splitlines()

    assert default == f"user {acl.DEFAULT} off resetkeys resetchannels -@all"
    assert [line.split()[:3] for line in others] == [["user", "control-plane", "on"], ["user", "edge", "on"]]
    assert not any(user.password in acl_file(control_plane, edge) for user in (control_plane, edge))


def test_the_edges_name_is_the_same_on_both_sides() -> None:
    assert acl.EDGE == counter._USER
