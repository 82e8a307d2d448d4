"""The context of an admitted request: what it says, and how long the same one is handed out."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from control_plane.serving.context import Quota, TenantContext, decode
from control_plane.serving.principal import Role
from ext_authz.authz import context as contexts
from ext_authz.authz.context import Contexts
from ext_authz.authz.decide import Proceed
from tests.unit.ext_authz.authz.checks import METHODS, NOW, A, Ask, Tenant, decided, index_of, tenant

KEY = bytes(range(32))


def admitted(owner: Tenant = A, **claims: object) -> Proceed:
    path = f"/api/v1/tenants/{owner.policy.tenant_id}/certificates"
    decision = decided(Ask(token=owner.token(**claims), path=path), index_of(owner))
    assert isinstance(decision, Proceed)
    return decision


def made() -> Contexts:
    return Contexts(KEY, every_scope=METHODS.scopes)


def said(value: str, now: datetime = NOW) -> TenantContext:
    return decode(value, KEY, now=now)


def test_a_context_says_who_asks_for_which_tenant_and_what_is_left() -> None:
    value = made().signed(admitted(), remaining=7, now=NOW)

    assert said(value) == TenantContext(
        tenant=A.policy.tenant_id,  # type: ignore[arg-type]  # a valid one
        tier="standard",
        isolation_level="POOLED",
        subject="alice",
        role=Role.TENANT_MEMBER,
        scopes=frozenset({"certificates.read"}),
        session=str(A.claims().token_id),
        expire_time=NOW + timedelta(seconds=60),
        quota=Quota(remaining=7, as_of=NOW),
    )


def test_an_administrator_has_every_scope_that_is_asked_for_behind_the_edge() -> None:
    value = made().signed(admitted(role="tenant-admin", scopes=()), remaining=7, now=NOW)

    assert said(value).role is Role.TENANT_ADMIN
    assert said(value).scopes == {"certificates.read", "certificates.write"}


def test_a_context_ends_with_its_token() -> None:
    ends = NOW.replace(microsecond=0) + timedelta(seconds=20)
    value = made().signed(admitted(expire_time=ends), remaining=7, now=NOW)

    assert said(value).expire_time == ends


def test_a_context_is_made_anew_when_its_quota_is_a_second_old() -> None:
    source, one = made(), admitted()
    first = source.signed(one, remaining=7, now=NOW)
    soon = source.signed(one, remaining=6, now=NOW + timedelta(microseconds=999_999))
    later = source.signed(one, remaining=5, now=NOW + timedelta(seconds=1))
    earlier = source.signed(one, remaining=4, now=NOW)

    assert soon is first
    assert said(later).quota == Quota(remaining=5, as_of=NOW + timedelta(seconds=1))
    # The clock was put back.
    assert said(earlier).quota == Quota(remaining=4, as_of=NOW)


def test_a_context_is_made_anew_for_another_policy_and_another_token() -> None:
    source = made()
    policy = replace(A.policy, revision=6, tier="enterprise")
    values = [
        source.signed(each, remaining=7, now=NOW)
        for each in (admitted(), admitted(replace(A, policy=policy)), admitted(subject="bob"), admitted(tenant(2)))
    ]

    assert [said(value).tier for value in values] == ["standard", "enterprise", "standard", "standard"]
    assert [said(value).subject for value in values] == ["alice", "alice", "bob", "alice"]
    assert [said(value).tenant for value in values] == ["org_1", "org_1", "org_1", "org_2"]


def test_no_more_contexts_are_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "_MOST_REMEMBERED", 2)
    source = made()
    for subject in ("a", "b", "c"):
        source.signed(admitted(subject=subject), remaining=7, now=NOW)

    assert len(source._made) == 2
