"""Tenants, without a database."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from control_plane.errors import EtagMismatchError, PreconditionError, Violations
from control_plane.ids import TenantId, dns_label, schema_name, tenant_id_violation
from control_plane.tenants.model import Action, Settings, State, Tenant, check_new

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
    )

    assert found == [
        "tenant_id",
        "tenant.display_name",
        "tenant.tier",
        "tenant.cell",
        "tenant.isolation_level",
        "tenant.admin_email",
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
            assert before.state not in {action.before, action.after}
            return
        assert self.tenant.state is action.after
        if before.state is not action.after:
            assert before.state is action.before
            self.changes += 1
        else:
            assert self.tenant == before

    @invariant()
    def the_revision_counts_changes(self) -> None:
        assert self.tenant.revision == 1 + self.changes


TestLifecycle = Lifecycle.TestCase
