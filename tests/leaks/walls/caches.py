"""Who is let into Valkey, as whom, and what a value there is good for."""

from typing import Final

from tests.leaks.model import Mutation

ACL: Final = "control_plane/cache/acl.py"
MODEL: Final = "control_plane/cache/model.py"
HANDLES: Final = "control_plane/cache/handles.py"
CONNECTION: Final = "control_plane/cache/connection.py"
POOL: Final = "control_plane/cache/pool.py"
USERS: Final = "control_plane/cache/users.py"
RECONCILER: Final = "control_plane/cache/reconciler.py"
LEDGER: Final = "control_plane/cache/cache.lua"
CERTIFICATES: Final = "control_plane/certificates/service.py"
ACL_TESTS: Final = "tests/unit/cache/test_acl.py"
MODEL_TESTS: Final = "tests/unit/cache/test_model.py"
CONNECTION_TESTS: Final = "tests/integration/cache/test_connections.py"
HANDLE_TESTS: Final = "tests/integration/cache/test_handles.py"
LEDGER_TESTS: Final = "tests/integration/cache/test_ledger.py"
USER_TESTS: Final = "tests/integration/cache/test_users.py"
RECONCILER_TESTS: Final = "tests/integration/cache/test_reconciler.py"
POISON_TESTS: Final = "tests/isolation/test_cache_poison.py"
CACHED_TESTS: Final = "tests/integration/certificates/test_cached.py"

WALLS: Final = (
    Mutation(
        name="a tenant's user reaches all tenants' keys",
        file=ACL,
        before='pattern=f"{key_prefix(placement.tenant_id)}*"',
        after='pattern="tenant:*"',
        noticed_by=(f"{ACL_TESTS}::test_rules_begin_with_nothing_and_name_all_that_is_allowed",),
    ),
    Mutation(
        name="a tenant's user reaches keys that begin alike",
        file=MODEL,
        before='return f"tenant:{{{tenant_id}}}:"',
        after='return f"tenant:{tenant_id}"',
        noticed_by=(f"{MODEL_TESTS}::test_no_tenants_prefix_begins_with_another_ones",),
    ),
    Mutation(
        name="an id that is a pattern makes a user of it",
        file=MODEL,
        before="    if violation is not None:",
        after="    if violation is not None and not tenant_id:",
        noticed_by=(f"{ACL_TESTS}::test_nobody_is_made_whose_id_reads_as_more_than_itself",),
    ),
    Mutation(
        name="a tenant's user keeps the rights that it had",
        file=ACL,
        before='            "reset",\n',
        after="",
        noticed_by=(f"{ACL_TESTS}::test_rules_begin_with_nothing_and_name_all_that_is_allowed",),
    ),
    Mutation(
        name="a tenant's user begins with every command",
        file=ACL,
        before='            "-@all",\n',
        after='            "+@all",\n',
        noticed_by=(f"{ACL_TESTS}::test_rules_begin_with_nothing_and_name_all_that_is_allowed",),
    ),
    Mutation(
        name="a tenant's user hears all channels",
        file=ACL,
        before='            "resetchannels",\n',
        after='            "allchannels",\n',
        noticed_by=(f"{ACL_TESTS}::test_rules_begin_with_nothing_and_name_all_that_is_allowed",),
    ),
    Mutation(
        name="a tenant's user may list keys",
        file=ACL,
        before='"del", "fcall", "get", "hdel"',
        after='"del", "fcall", "get", "scan", "hdel"',
        noticed_by=(f"{ACL_TESTS}::test_a_tenant_may_exactly_what_its_functions_do",),
    ),
    Mutation(
        name="the edge reaches tenants' caches",
        file=ACL,
        before='pattern="edge:*"',
        after='pattern="*"',
        noticed_by=("tests/isolation/test_cache_users.py::test_the_platforms_users_reach_no_tenant",),
    ),
    Mutation(
        name="the control plane reads what tenants keep",
        file=ACL,
        before="CONTROL_PLANE), commands=CONTROL_PLANE_COMMANDS",
        after='CONTROL_PLANE), pattern="*", commands=CONTROL_PLANE_COMMANDS',
        noticed_by=(f"{ACL_TESTS}::test_the_control_plane_has_no_keys_and_reads_no_values",),
    ),
    Mutation(
        name="Valkey is open to whoever comes",
        file=ACL,
        before="user {DEFAULT} off resetkeys",
        after="user {DEFAULT} on nopass resetkeys",
        noticed_by=(f"{ACL_TESTS}::test_a_file_has_hashes_only_and_shuts_the_default_user_out",),
    ),
    Mutation(
        name="all tenants' users have one password",
        file=ACL,
        before="password=cell_key.password(cell_secret, name)",
        after='password=cell_key.password(cell_secret, "tenant")',
        noticed_by=(f"{ACL_TESTS}::test_a_later_tenant_of_the_same_id_is_another_user",),
    ),
    Mutation(
        name="a connection goes on as whoever had it before",
        file=CONNECTION,
        before="        if self.user != login.user:",
        after="        if self.user is None:",
        noticed_by=(f"{CONNECTION_TESTS}::test_whose_turn_it_is_reaches_no_other_tenants_keys",),
    ),
    Mutation(
        name="whoever is not let in speaks as whoever had the connection",
        file=CONNECTION,
        before='[("RESET",), ("AUTH", login.user, login.password)]',
        after='[("PING",), ("AUTH", login.user, login.password)]',
        noticed_by=(f"{CONNECTION_TESTS}::test_whose_turn_fails_speaks_for_nobody",),
    ),
    Mutation(
        name="a connection is used on after its caller has gone",
        file=POOL,
        before="            await connection.close()\n            raise\n",
        after="            self._idle.append(connection)\n            raise\n",
        noticed_by=(f"{CONNECTION_TESTS}::test_nobody_gets_the_answer_that_somebody_else_stopped_waiting_for",),
    ),
    Mutation(
        name="one tenant's commands take all connections",
        file=POOL,
        before="            async with turns.share:\n                yield",
        after="            yield",
        noticed_by=(f"{CONNECTION_TESTS}::test_a_tenant_that_asks_for_much_at_once_leaves_room_for_others",),
    ),
    Mutation(
        name="one tenant keeps the server busy",
        file=HANDLES,
        before="if function in _SHARED and not",
        after="if function in () and not",
        noticed_by=(f"{HANDLE_TESTS}::test_whoever_keeps_the_server_busy_does_without_and_others_do_not",),
    ),
    Mutation(
        name="what a tenant is sent keeps nobody waiting",
        file=HANDLES,
        before="        if isinstance(answer, bytes):",
        after="        if answer is None:",
        noticed_by=(f"{HANDLE_TESTS}::test_whoever_keeps_the_server_busy_does_without_and_others_do_not",),
    ),
    Mutation(
        name="one tenant's share is everybody's",
        file=MODEL,
        before="        return self._whole_at_s.get(user, now_s) - now_s < 1",
        after="        return max(self._whole_at_s.values(), default=now_s) - now_s < 1",
        noticed_by=(f"{MODEL_TESTS}::test_whoever_had_a_seconds_worth_at_once_has_nothing_left_until_time_goes_by",),
    ),
    Mutation(
        name="values of all tenants are sealed alike",
        file=MODEL,
        before="return Binding(tenant_uid=tenant_uid, purpose=_PURPOSE",
        after="return Binding(tenant_uid=UUID(int=tenant_uid.int % 1), purpose=_PURPOSE",
        noticed_by=(f"{MODEL_TESTS}::test_another_tenants_value_does_not_open_even_under_the_same_key",),
    ),
    Mutation(
        name="a value opens under another name",
        file=MODEL,
        before="version=_VERSION, object_name=name)",
        after="version=_VERSION, object_name=name[:0])",
        noticed_by=(f"{MODEL_TESTS}::test_another_names_value_does_not_open",),
    ),
    Mutation(
        name="a value is good beyond its time",
        file=MODEL,
        before="if _milliseconds(now) < expires else None",
        after="if _milliseconds(now) < expires or opened else None",
        noticed_by=(f"{MODEL_TESTS}::test_a_value_is_over_when_its_time_is_whatever_valkey_keeps",),
    ),
    Mutation(
        name="Valkey sees what things are called",
        file=MODEL,
        before="checked_name(name).encode(), key=keys.names, digest",
        after="checked_name(name).encode(), key=keys.names[:0], digest",
        noticed_by=(f"{MODEL_TESTS}::test_a_digest_tells_nothing_without_the_tenants_key",),
    ),
    Mutation(
        name="what does not open stays in its place",
        file=HANDLES,
        before='            await self._call("cache_delete", digest(keys, name))\n            return None',
        after="            return None",
        noticed_by=(f"{POISON_TESTS}::test_what_is_not_the_tenants_own_value_is_a_miss_an_event_and_gone",),
    ),
    Mutation(
        name="a tenant's cache has no end",
        file=LEDGER,
        before="  local fits = taken(root) <= limit",
        after="  local fits = taken(root) <= limit * 1000",
        noticed_by=(
            f"{LEDGER_TESTS}::test_a_tenant_never_takes_more_than_its_limit_and_loses_what_it_used_longest_ago",
        ),
    ),
    Mutation(
        name="a value that nobody counts is found",
        file=LEDGER,
        before="  if type(value) == 'string' and is_known then",
        after="  if type(value) == 'string' then",
        noticed_by=(f"{LEDGER_TESTS}::test_a_value_that_the_ledger_does_not_know_is_not_found_and_goes",),
    ),
    Mutation(
        name="a tenant that is removed leaves its user",
        file=USERS,
        before=('            continue\n        await self._call(self._login, "ACL", "DELUSER", user.name)'),
        after="            continue",
        noticed_by=(f"{USER_TESTS}::test_of_a_tenant_that_was_removed_nothing_is_left",),
    ),
    Mutation(
        name="users of nobody stay in Valkey",
        file=RECONCILER,
        before="strange = sorted(there - wanted - PLATFORM)",
        after="strange = sorted(there - wanted - PLATFORM - there)",
        noticed_by=(f"{RECONCILER_TESTS}::test_a_pass_ends_with_the_registrys_tenants_whatever_was_there",),
    ),
    Mutation(
        name="rights that somebody added stay after a start",
        file=RECONCILER,
        before="is_whole = self._whole_at_s is None or",
        after="is_whole = self._whole_at_s is not None and",
        noticed_by=(f"{RECONCILER_TESTS}::test_rights_that_somebody_changed_are_as_they_ought_to_be_after_a_start",),
    ),
    Mutation(
        name="functions that somebody changed stay in Valkey",
        file=RECONCILER,
        before="        if self._library in strings(libraries):",
        after="        if strings(libraries):",
        noticed_by=(f"{RECONCILER_TESTS}::test_functions_that_are_others_are_replaced",),
    ),
    Mutation(
        name="a cached text is believed to be the certificate's",
        file=CERTIFICATES,
        before="if text is None or not certificate.is_text(text):",
        after="if text is None:",
        noticed_by=(CACHED_TESTS,),
    ),
)
