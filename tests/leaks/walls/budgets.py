"""How much a tenant's rates let through."""

from typing import Final

from tests.leaks.model import Mutation

LUA: Final = "ext_authz/budgets/budget.lua"
COUNTER: Final = "ext_authz/budgets/counter.py"
MODEL: Final = "ext_authz/budgets/model.py"
RESERVES: Final = "ext_authz/budgets/reserves.py"
WINDOWS: Final = "ext_authz/budgets/windows.py"
MESSAGES: Final = "ext_authz/policies/messages.py"
SERVICER: Final = "ext_authz/authz/servicer.py"
COUNTS: Final = "tests/contracts/test_counts.py"
ACCOUNTS: Final = "tests/unit/ext_authz/budgets/test_account.py"
RESERVE_TESTS: Final = "tests/unit/ext_authz/budgets/test_reserves.py"
WINDOW_TESTS: Final = "tests/unit/ext_authz/budgets/test_windows.py"
HELD: Final = "tests/integration/ext_authz/budgets/test_reserves.py"
CHECKS: Final = "tests/integration/ext_authz/check/test_check.py"

WALLS: Final = (
    Mutation(
        name="all tenants share one count",
        file=COUNTER,
        before='return b"edge:{%b}:%b" % (str(tenant_uid).encode(), name)',
        after='return b"edge:{%b}:%b" % (b"all", name)',
        noticed_by=(f"{COUNTS}::test_a_count_goes_when_its_window_is_over",),
    ),
    Mutation(
        name="one tenant's request passes for another's",
        file=COUNTER,
        before='request=_key(tenant_uid, b"request:"),',
        after='request=b"edge:{all}:request:",',
        noticed_by=(f"{COUNTS}::test_a_count_goes_when_its_window_is_over",),
    ),
    Mutation(
        name="what a call costs is not looked at",
        file=LUA,
        before="/ (window.price * parts)))",
        after="/ parts))",
        noticed_by=(f"{COUNTS}::test_as_many_are_taken_as_all_windows_allow",),
    ),
    Mutation(
        name="what a call costs is not counted",
        file=LUA,
        before="      window.used = window.used + calls * window.price\n",
        after="      window.used = window.used + calls\n",
        noticed_by=(f"{COUNTS}::test_what_one_window_refuses_is_taken_from_none",),
    ),
    Mutation(
        name="who reserves takes all that remains",
        file=LUA,
        before="/ (window.price * parts)))",
        after="/ window.price))",
        noticed_by=(f"{COUNTS}::test_who_reserves_gets_a_small_part_of_what_remains",),
    ),
    Mutation(
        name="the asker's clock says which window it is",
        file=LUA,
        before="  if now < begins or now >= ends then\n",
        after="  if now < begins - ends then\n",
        noticed_by=(f"{COUNTS}::test_who_asks_about_other_times_is_told_the_time_and_takes_nothing",),
    ),
    Mutation(
        name="another time zone empties the day",
        file=LUA,
        before="  if kept_from and kept_until > begins then\n",
        after="  if kept_from == begins then\n",
        noticed_by=(f"{COUNTS}::test_where_days_begin_at_another_time_what_was_used_of_the_day_stays_used",),
    ),
    Mutation(
        name="a clock that is put back empties the window that comes again",
        file=LUA,
        before="    if kept_from > now then\n",
        after="    if kept_from > ends then\n",
        noticed_by=(f"{COUNTS}::test_a_clock_that_is_put_back_does_not_empty_the_window_that_comes_again",),
    ),
    Mutation(
        name="what cannot be read counts as nothing",
        file=LUA,
        before="    error('what is counted cannot be read')\n",
        after="    return nil\n",
        noticed_by=(f"{COUNTS}::test_a_count_that_nobody_can_read_is_not_taken_for_none",),
    ),
    Mutation(
        name="what was taken from one window is given back to the next",
        file=LUA,
        before="    if begins == taken_from and now < ends then\n",
        after="    if begins and now < ends then\n",
        noticed_by=(f"{COUNTS}::test_what_is_given_back_can_be_taken_again_as_long_as_its_window_lasts",),
    ),
    Mutation(
        name="more is given back than was used",
        file=LUA,
        before="count(key, begins, ends, math.max(used - calls * price, 0))",
        after="count(key, begins, ends, math.abs(used - calls * price))",
        noticed_by=(f"{COUNTS}::test_more_than_was_used_is_not_given_back",),
    ),
    Mutation(
        name="what is left of a lease is given back as often as somebody says so",
        file=LUA,
        before="server.call('SET', keys[1], '', 'NX', 'PX', TOLD_TWICE_WITHIN_MS)",
        after="server.call('SET', keys[1], '', 'PX', TOLD_TWICE_WITHIN_MS)",
        noticed_by=(f"{COUNTS}::test_what_is_left_of_a_lease_is_given_back_once_whoever_does_it",),
    ),
    Mutation(
        name="what is left of a lease is given back when nobody knows any more that it was",
        file=LUA,
        before="args[1] ~= '' and (now > tonumber(args[2])\n    or not",
        after="args[1] ~= '' and (not",
        noticed_by=(f"{COUNTS}::test_what_is_told_of_a_lease_too_late_is_not_given_back",),
    ),
    Mutation(
        name="what is left of a lease is given back to a Valkey that forgot it",
        file=RESERVES,
        before="        if unspent.memory != self._counter.memory:\n            return\n",
        after="",
        noticed_by=(f"{HELD}::test_what_is_left_of_a_lease_is_not_given_back_to_a_valkey_that_lost_its_memory",),
    ),
    Mutation(
        name="a request is free as long as it is refused",
        file=LUA,
        before="  if calls > 0 and not is_repeated then\n",
        after="  if not is_repeated then\n",
        noticed_by=(f"{COUNTS}::test_a_request_that_was_refused_is_counted_anew",),
    ),
    Mutation(
        name="what is held is spent when its window is over",
        file=MODEL,
        before="lot.is_open and now_ms < lot.ends_ms else 0",
        after="lot.is_open else 0",
        noticed_by=(f"{ACCOUNTS}::test_no_call_is_spent_when_its_first_window_is_over",),
    ),
    Mutation(
        name="a window ends as late as it took to hear of it",
        file=MODEL,
        before="ends_ms=sent_ms + length_ms - _ROUNDED_MS",
        after="ends_ms=heard_ms + length_ms - _ROUNDED_MS",
        noticed_by=(f"{ACCOUNTS}::test_a_window_ends_too_early_for_who_spends_and_too_late_for_who_asks",),
    ),
    Mutation(
        name="lots of two windows are spent as one",
        file=MODEL,
        before="or not is_of(before, lot.windows):",
        after="or not lot.windows:",
        noticed_by=(f"{ACCOUNTS}::test_a_lot_of_other_windows_takes_the_place_of_the_one_before_which_goes_back",),
    ),
    Mutation(
        name="two lots end with the later",
        file=MODEL,
        before="before.ends_ms = min(before.ends_ms, lot.ends_ms)",
        after="before.ends_ms = max(before.ends_ms, lot.ends_ms)",
        noticed_by=(f"{ACCOUNTS}::test_lots_of_the_same_windows_are_one_and_end_with_the_earlier",),
    ),
    Mutation(
        name="what two memories counted is given back to one",
        file=MODEL,
        before="            before.memory = None\n",
        after="            before.memory = lot.memory\n",
        noticed_by=(f"{ACCOUNTS}::test_what_was_counted_in_two_memories_is_given_back_to_neither",),
    ),
    Mutation(
        name="what was given up is spent all the same",
        file=MODEL,
        before="        lot.is_open = False\n        return lot if lot.calls else None\n",
        after="        return lot if lot.calls else None\n",
        noticed_by=(f"{ACCOUNTS}::test_who_spends_nothing_for_a_second_gives_up_what_they_hold",),
    ),
    Mutation(
        name="a lease outlives its window by what holds the worker up",
        file=RESERVES,
        before="        wall_ms = self._wall()\n        return _Moment(wall_ms=wall_ms, clock_ms=self._clock())\n",
        after="        clock_ms = self._clock()\n        return _Moment(wall_ms=self._wall(), clock_ms=clock_ms)\n",
        noticed_by=(f"{RESERVE_TESTS}::test_wherever_a_worker_is_held_up_its_calls_are_not_good_for_longer",),
    ),
    Mutation(
        name="what was counted by the rates before is spent by lower ones",
        file=RESERVES,
        before="tenant is None or tenant.policy is not policy:",
        after="tenant is None:",
        noticed_by=(f"{HELD}::test_nothing_that_was_counted_by_another_policy_is_spent",),
    ),
    Mutation(
        name="more is given back than was leased",
        file=RESERVES,
        before="        calls = min(calls, taken.calls - taken.alone)\n",
        after="",
        noticed_by=(f"{HELD}::test_no_more_is_given_back_than_was_taken",),
    ),
    Mutation(
        name="a call that two workers may have paid is given back",
        file=RESERVES,
        before="taken.calls - taken.alone",
        after="taken.calls",
        noticed_by=(f"{HELD}::test_a_call_that_was_asked_for_on_its_own_is_not_given_back",),
    ),
    Mutation(
        name="what a Valkey forgot is given back to it",
        file=RESERVES,
        before="if lot.memory is not None and lot.memory == self._counter.memory:",
        after="if lot.memory is not None:",
        noticed_by=(f"{HELD}::test_what_was_counted_by_a_valkey_that_lost_its_memory_is_not_given_back_to_the_next",),
    ),
    Mutation(
        name="a call costs one, whatever its rule says",
        file=SERVICER,
        before="policy, cost = decision.policy, decision.method.cost",
        after="policy, cost = decision.policy, 1",
        noticed_by=(f"{CHECKS}::test_a_call_costs_what_its_rule_says",),
    ),
    Mutation(
        name="the edge does not hear of rates in units",
        file=MESSAGES,
        before="for limit in message.rate_limits\n            ),",
        after="for limit in message.rate_limits[:0]\n            ),",
        noticed_by=("tests/unit/ext_authz/policies/test_messages.py",),
    ),
    Mutation(
        name="the control plane does not tell of rates in units",
        file="control_plane/policies/wire.py",
        before="            for limit in policy.rate_limits\n",
        after="            for limit in policy.rate_limits[:0]\n",
        noticed_by=("tests/integration/policies/test_feed.py::test_a_policy_is_told_whole",),
    ),
    Mutation(
        name="a day is everybody's",
        file=WINDOWS,
        before="    zone = time_zone(policy.time_zone)\n",
        after='    zone = time_zone("UTC")\n',
        noticed_by=(
            f"{WINDOW_TESTS}::test_a_day_begins_at_the_tenants_midnight_and_has_as_many_hours_as_it_has_there",
        ),
    ),
)
