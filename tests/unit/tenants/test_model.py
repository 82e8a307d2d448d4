"""Tenants, without a database."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from control_plane.errors import EtagMismatchError, PreconditionError, TenantSealedError, Violations
from control_plane.ids import TenantId, dns_label, schema_name, tenant_id_violation
from control_plane.tenants.model import (
    TIERS,
    Action,
    Settings,
    State,
    Tenant,
    check_deletion,
    check_new,
    domain_violation,
    requests_per_minute,
)
from control_plane.tenants.rates import RateLimit, Window

_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_TENANT = Tenant(
    id=TenantId("org_1"),
    uid=UUID(int=1),
    state=State.ACTIVE,
    settings=Settings(display_name="One"),
    schema="tenant_org_1",
    dns_label="org-1",
    revision=1,
    create_time=_NOW,
    update_time=_NOW,
)
_IDS = st.from_regex(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", fullmatch=True).filter(lambda text: 3 <= len(text) <= 41)


def _violations(tenant_id: str = "org_1", **settings: Any) -> list[str]:
    violations = Violations()
    check_new(tenant_id, replace(Settings(display_name="One"), **settings), violations)
    return [violation.field for violation in violations.found]


@pytest.mark.parametrize("tenant_id", ["org_12345", "abc", "a" * 41, "a1_b2_c3"])
def test_a_plain_id_is_accepted(tenant_id: str) -> None:
    assert tenant_id_violation(tenant_id) is None


@pytest.mark.behaviour("S4.15")
@pytest.mark.behaviour("T-D5")
@pytest.mark.behaviour("T-V3")
@pytest.mark.parametrize(
    "tenant_id",
    [
        "", "ab", "a" * 42, "1abc", "_abc", "abc_", "a__b", "Abc", "a-b", "a b", "a.b", "a/b", "a:b", "a*", "a?",
        "a[b]", "a{b}", "a\\b", "a'b", 'a"b', "a;b", "a\nb", "abc\n", "a\x00b", "ábc", "\u0430bc", "public",
        "pg_catalog", "pg_x", "csm_system", "csm_x", "admin", "www", "postgres", "information_schema", "tenants",
        "abc ", " abc", "..", "a\u202eb",
    ],
)  # fmt: skip
def test_an_id_that_means_something_elsewhere_is_refused(tenant_id: str) -> None:
    assert _violations(tenant_id) == ["tenant_id"]


@pytest.mark.behaviour("T-D5")
@given(_IDS, _IDS)
def test_two_ids_never_share_a_schema_or_a_host(one: str, other: str) -> None:
    first, second = TenantId(one), TenantId(other)

    assert (schema_name(first) == schema_name(second)) == (one == other)
    assert (dns_label(first) == dns_label(second)) == (one == other)
    assert len(schema_name(first).encode()) < 63
    assert len(dns_label(first)) <= 63


@pytest.mark.behaviour("S4.17")
def test_everything_wrong_with_a_request_is_found_at_once() -> None:
    found = _violations(
        "Bad Id",
        display_name="x" * 201,
        tier="platinum",
        cell="mars",
        isolation="",
        admin_email="nobody",
        labels={"UPPER": "x"},
        requests_per_minute=-1,
        domains=("localhost", "a.example", "a.example"),
        max_policy_age=timedelta(0),
        rate_limits=(
            RateLimit(window="HOUR", units=0),
            RateLimit(window="FORTNIGHT", units=1),
            RateLimit(window="HOUR", units=2**53 + 1),
        ),
        billing_day=32,
        time_zone="Mars/Base",
    )

    assert found == [
        "tenant_id",
        "tenant.display_name",
        "tenant.tier",
        "tenant.cell",
        "tenant.isolation_level",
        "tenant.admin_email",
        "tenant.requests_per_minute",
        "tenant.domains[0]",
        "tenant.domains[2]",
        "tenant.rate_limits[0].units",
        "tenant.rate_limits[1].window",
        "tenant.rate_limits[2].window",
        "tenant.rate_limits[2].units",
        "tenant.billing_day",
        "tenant.time_zone",
        "tenant.max_policy_age",
        "tenant.labels",
    ]


@pytest.mark.behaviour("S4.17")
@pytest.mark.parametrize("name", ["a\u202eb", "a\nb", "a\x1b[31m", "a\u200bb", "x" * 1_000_000, "\ud800", "\u2028"])
def test_a_name_that_would_deceive_a_reader_is_refused(name: str) -> None:
    assert _violations(display_name=name) == ["tenant.display_name"]


@pytest.mark.parametrize("name", ["Acme Corporation", "Ελλάδα", "株式会社", "Zoë's & Søn"])
def test_names_of_all_languages_are_accepted(name: str) -> None:
    assert _violations(display_name=name) == []


@pytest.mark.parametrize(
    "email", ["a", "a@b", "a@b.c\n", "a b@c.de", "@c.de", "a@@c.de", "a@c.de,x@y.z", "a" * 65 + "@c.de"]
)
def test_what_is_no_address_is_refused(email: str) -> None:
    assert _violations(admin_email=email) == ["tenant.admin_email"]


@pytest.mark.parametrize(
    "domain", ["acme.example", "a.b", "api.acme.example", "xn--bcher-kva.example", "1.example", "a" * 63 + ".example"]
)
def test_a_tenant_can_have_a_plain_host_name(domain: str) -> None:
    assert domain_violation(domain) is None


@pytest.mark.parametrize(
    "domain",
    [
        "", ".", "acme", "localhost", "acme.",
        "acme.example.", ".acme.example", "acme..example", "Acme.example", "*.acme.example",
        "-a.example", "a-.example", "a_b.example", "a.example:443", "a.example/", "bücher.example", "a.example\n",
        "192.0.2.1", "1.2", "127.0.0.0x1", "[::1]", "::1", "a.123", "a" * 64 + ".example", "a." * 126 + "ab",
    ],
)  # fmt: skip
def test_what_is_no_host_name_or_could_be_an_address_is_refused(domain: str) -> None:
    assert domain_violation(domain) is not None


@pytest.mark.parametrize("domain", ["csm.example.com", "api.csm.example.com", "a.b.csm.example.com", "acme.localhost"])
def test_the_platforms_own_host_names_are_no_tenants(domain: str) -> None:
    assert domain_violation(domain) == "is the platform's own"


@pytest.mark.parametrize(
    "domain", ["example.com", "notcsm.example.com", "csm.example.com.example", "alocalhost.example"]
)
def test_a_host_name_beside_the_platforms_own_is_a_tenants_to_have(domain: str) -> None:
    assert domain_violation(domain) is None


def test_a_tenant_has_sixteen_host_names_at_most() -> None:
    names = tuple(f"a{number}.example" for number in range(17))

    assert _violations(domains=names[:16]) == []
    assert _violations(domains=names) == ["tenant.domains"]


@pytest.mark.parametrize(
    ("rate", "is_good"), [(-1, False), (0, True), (1, True), (1_000_000, True), (1_000_001, False)]
)
def test_a_rate_is_between_one_and_a_million_or_the_tiers(rate: int, *, is_good: bool) -> None:
    assert _violations(requests_per_minute=rate) == ([] if is_good else ["tenant.requests_per_minute"])


@pytest.mark.parametrize(
    ("age", "is_good"),
    [
        (timedelta(microseconds=999_999), False),
        (timedelta(seconds=1), True),
        (timedelta(hours=24), True),
        (timedelta(hours=24, microseconds=1), False),
    ],
)
def test_policies_are_enforced_without_news_for_a_second_to_a_day(age: timedelta, *, is_good: bool) -> None:
    assert _violations(max_policy_age=age) == ([] if is_good else ["tenant.max_policy_age"])


def test_a_rate_of_its_own_stands_before_the_tiers() -> None:
    assert [requests_per_minute(tier, 0) for tier in TIERS] == [600, 3_000, 12_000]
    assert requests_per_minute("standard", 7) == 7


def test_an_etag_of_an_earlier_revision_is_refused() -> None:
    later = _TENANT.updated(Settings(display_name="Two"), _NOW + timedelta(seconds=1))

    later.check_etag("")
    later.check_etag(later.etag)
    with pytest.raises(EtagMismatchError):
        later.check_etag(_TENANT.etag)


def test_two_tenants_of_one_id_have_different_etags() -> None:
    assert replace(_TENANT, uid=UUID(int=2)).etag != _TENANT.etag


@pytest.mark.behaviour("S4.6")
def test_an_action_out_of_place_names_the_state_and_what_can_be_done() -> None:
    with pytest.raises(PreconditionError) as refused:
        replace(_TENANT, state=State.PROVISIONING).after(Action.SUSPEND, _NOW)

    assert refused.value.metadata == {"state": "PROVISIONING", "allowed": "activate"}


@pytest.mark.behaviour("S4.10")
@pytest.mark.parametrize(
    ("confirmation", "waiting", "wrong"),
    [
        ("org_1", timedelta(hours=1), set()),
        ("org_1", timedelta(days=90), set()),
        ("", timedelta(days=30), {"confirmation"}),
        ("org_10", timedelta(minutes=59), {"confirmation", "waiting_period"}),
        ("tenants/org_1", timedelta(days=90, seconds=1), {"confirmation", "waiting_period"}),
    ],
)
def test_a_deletion_is_confirmed_by_the_id_and_can_be_taken_back_for_an_hour_at_least(
    confirmation: str, waiting: timedelta, wrong: set[str]
) -> None:
    violations = Violations()
    check_deletion("org_1", violations, confirmation=confirmation, waiting=waiting)

    assert {violation.field for violation in violations.found} == wrong


@pytest.mark.behaviour("S4.10")
def test_a_deleted_tenant_is_said_to_be_undeleted_and_nothing_else() -> None:
    deleted = _TENANT.deleted(_NOW, reason="over", waiting=timedelta(days=1))
    with pytest.raises(PreconditionError) as refused:
        deleted.after(Action.UNSEAL, _NOW)
    with pytest.raises(TenantSealedError):
        deleted.updated(replace(deleted.settings, display_name="other"), _NOW)

    assert refused.value.metadata == {"state": "PENDING_DELETION", "allowed": "undelete"}
    assert (deleted.delete_time, deleted.purge_time) == (_NOW, _NOW + timedelta(days=1))
    back = deleted.after(Action.UNDELETE, _NOW)
    assert (back.state, back.delete_time, back.purge_time) == (State.SEALED, None, None)


@pytest.mark.behaviour("S4.12")
@pytest.mark.parametrize("state", [State.PURGING, State.PURGED])
def test_nobody_takes_a_purge_back(state: State) -> None:
    for action in set(Action) - {Action.PURGE, Action.END_PURGE}:
        with pytest.raises(PreconditionError) as refused:
            replace(_TENANT, state=state).after(action, _NOW)
        assert refused.value.metadata == {"state": state, "allowed": ""}


class Lifecycle(RuleBasedStateMachine):
    """Any sequence of actions keeps to the table, and the revision counts the changes."""

    def __init__(self) -> None:
        super().__init__()
        self.tenant = replace(_TENANT, state=State.PROVISIONING)
        self.changes = 0

    @rule(action=st.sampled_from(Action))
    def act(self, action: Action) -> None:
        before = self.tenant
        try:
            self.tenant = before.after(action, _NOW)
        except PreconditionError:
            assert before.state not in {*action.before, action.after}
            return
        assert self.tenant.state is action.after
        if before.state is not action.after:
            assert before.state in action.before
            self.changes += 1
        else:
            assert self.tenant == before

    @invariant()
    def the_revision_counts_changes(self) -> None:
        assert self.tenant.revision == 1 + self.changes


TestLifecycle = Lifecycle.TestCase


@pytest.mark.behaviour("S3.17")
@pytest.mark.parametrize("units", [-1, 0, 2**53 + 1])
def test_a_window_without_units_or_with_more_than_can_be_counted_is_refused(units: int) -> None:
    assert _violations(rate_limits=(RateLimit(window="DAY", units=units),)) == ["tenant.rate_limits[0].units"]


def test_a_shorter_window_may_have_more_units_than_a_longer_one() -> None:
    every = tuple(RateLimit(window=window, units=1 << (50 - number)) for number, window in enumerate(Window))

    assert _violations(rate_limits=every, billing_day=31, time_zone="America/Argentina/Ushuaia") == []


@pytest.mark.behaviour("S3.17")
@pytest.mark.parametrize("zone", ["", "utc", "Europe", "../zones", "Europe/Berlin\n", "/etc/passwd", "localtime"])
def test_what_is_no_time_zone_is_refused(zone: str) -> None:
    assert _violations(time_zone=zone) == ["tenant.time_zone"]


@pytest.mark.parametrize(("day", "is_good"), [(-1, False), (0, False), (1, True), (31, True), (32, False)])
def test_months_begin_with_a_day_of_a_month(day: int, *, is_good: bool) -> None:
    assert _violations(billing_day=day) == ([] if is_good else ["tenant.billing_day"])
