"""Tenants as they are shown, and requests as they are understood."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from bulkhead.v1 import certificate_policies_pb2, key_settings_pb2, tenants_pb2
from control_plane.errors import InvalidArgumentError
from control_plane.ids import TenantId
from control_plane.keys.algorithms import CertificatePolicy, KeyAlgorithm, PostQuantum
from control_plane.tenants.model import Settings, State, Tenant
from control_plane.tenants.rates import RateLimit
from control_plane.tenants.servicer import _creation, _merged, to_proto

Policy = certificate_policies_pb2.CertificatePolicy
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def settings_of(tenant: tenants_pb2.Tenant) -> Settings:
    request = tenants_pb2.CreateTenantRequest(tenant_id="org_1", tenant=tenant)
    return _creation(request, actor="somebody", call_request_id="").settings


def test_what_the_edge_enforces_is_shown_as_it_is_asked_for() -> None:
    settings = Settings(
        display_name="One",
        requests_per_minute=7,
        domains=("a.example", "b.example"),
        max_policy_age=timedelta(hours=1),
        rate_limits=(RateLimit(window="SECOND", units=2**53), RateLimit(window="MONTH", units=1)),
        billing_day=31,
        time_zone="Asia/Kathmandu",
        certificate_policy=CertificatePolicy(
            authority=KeyAlgorithm.RSA_4096,
            keys=frozenset({KeyAlgorithm.EC_P384, KeyAlgorithm.ML_DSA_87}),
            post_quantum=PostQuantum.HYBRID,
        ),
    )
    tenant = Tenant(
        id=TenantId("org_1"),
        uid=UUID(int=1),
        state=State.ACTIVE,
        settings=settings,
        schema="tenant_org_1",
        dns_label="org-1",
        revision=1,
        create_time=NOW,
        update_time=NOW,
        edge_revision=42,
    )
    shown = to_proto(tenant, hsm_backed=False)

    assert (shown.edge_revision, shown.max_policy_age) == (42, Duration(seconds=3600))
    shown.name = ""
    assert settings_of(shown) == settings


@pytest.mark.parametrize("tenant", [tenants_pb2.Tenant(), tenants_pb2.Tenant(max_policy_age=Duration())])
def test_what_is_not_said_is_taken_from_the_tier_and_the_default(tenant: tenants_pb2.Tenant) -> None:
    settings = settings_of(tenant)

    assert (settings.requests_per_minute, settings.domains) == (0, ())
    assert settings.max_policy_age == timedelta(minutes=15)
    assert (settings.rate_limits, settings.billing_day, settings.time_zone) == ((), 1, "UTC")


@pytest.mark.parametrize("seconds", [-1, -(2**63), 2**63 - 1, 86_401])
def test_a_span_that_python_cannot_hold_is_as_wrong_as_any_other(seconds: int) -> None:
    with pytest.raises(InvalidArgumentError, match=r"tenant\.max_policy_age: must be 1 second to 24 hours"):
        settings_of(tenants_pb2.Tenant(max_policy_age=Duration(seconds=seconds)))


@pytest.mark.behaviour("I19")
@pytest.mark.parametrize(("post_quantum", "authority"), [("OFF", "EC_P256"), ("REQUIRED", "ML_DSA_65")])
def test_an_authority_is_as_the_tenants_certificates_are_to_be(post_quantum: str, authority: str) -> None:
    wanted = Policy(post_quantum=Policy.PostQuantum.Value(post_quantum))

    assert settings_of(tenants_pb2.Tenant(certificate_policy=wanted)).certificate_policy.authority == authority


@pytest.mark.behaviour("S2.8", "I19")
@pytest.mark.parametrize(
    ("policy", "fields"),
    [
        (Policy(authority_algorithm=Policy.RSA_2048), {"authority_algorithm"}),
        (Policy(authority_algorithm=Policy.EC_P384, post_quantum=Policy.REQUIRED), {"post_quantum"}),
        (Policy(key_algorithms=[Policy.ED25519, Policy.ML_DSA_44]), {"key_algorithms"}),
        (
            Policy(authority_algorithm=99, key_algorithms=[Policy.EC_P256, 0, 98], post_quantum=97),  # type: ignore[arg-type, list-item]  # open enums
            {"authority_algorithm", "key_algorithms[1]", "key_algorithms[2]", "post_quantum"},
        ),
    ],
)
def test_a_certificate_policy_that_cannot_be_meant_makes_no_tenant(policy: Policy, fields: set[str]) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        settings_of(tenants_pb2.Tenant(certificate_policy=policy))

    assert {one.field for one in refused.value.violations} == {f"tenant.certificate_policy.{one}" for one in fields}


def test_of_a_certificate_policy_an_update_changes_what_its_mask_names() -> None:
    before = Settings(
        display_name="One",
        certificate_policy=CertificatePolicy(keys=frozenset({KeyAlgorithm.EC_P256}), post_quantum=PostQuantum.OFF),
    )
    message = tenants_pb2.Tenant(certificate_policy=Policy(post_quantum=Policy.HYBRID))
    one = _merged(before, message, FieldMask(paths=["certificate_policy.post_quantum"]))
    other = _merged(before, message, FieldMask(paths=["certificate_policy.key_algorithms"]))

    assert one.certificate_policy == replace(before.certificate_policy, post_quantum=PostQuantum.HYBRID)
    assert other.certificate_policy == replace(before.certificate_policy, keys=frozenset())


@pytest.mark.behaviour("I19")
def test_an_authority_stays_what_it_is() -> None:
    before = Settings(display_name="One")
    mask = FieldMask(paths=["certificate_policy.post_quantum"])
    wanted = Policy(authority_algorithm=Policy.ML_DSA_65, post_quantum=Policy.REQUIRED)
    with pytest.raises(InvalidArgumentError) as refused:
        _merged(before, tenants_pb2.Tenant(certificate_policy=wanted), mask)

    assert [(one.field, one.reason) for one in refused.value.violations] == [
        ("tenant.certificate_policy.post_quantum", "CERTIFICATE_POLICY"),
        ("tenant.certificate_policy.authority_algorithm", "IMMUTABLE"),
    ]


@pytest.mark.behaviour("I8")
def test_a_tenant_shares_a_token_unless_it_is_to_have_one_to_itself() -> None:
    tiers = [key_settings_pb2.HSM_TIER_UNSPECIFIED, key_settings_pb2.SHARED, key_settings_pb2.DEDICATED]

    assert [settings_of(tenants_pb2.Tenant(hsm_tier=tier)).hsm_tier for tier in tiers] == [
        "SHARED", "SHARED", "DEDICATED",
    ]  # fmt: skip
    with pytest.raises(InvalidArgumentError, match=r"tenant\.hsm_tier: must be one of SHARED, DEDICATED"):
        settings_of(tenants_pb2.Tenant(hsm_tier=9))  # type: ignore[arg-type]  # an open enum


@pytest.mark.behaviour("S2.9", "I19")
def test_tokens_are_signed_with_ed25519_unless_it_is_said_otherwise() -> None:
    algorithms = [0, key_settings_pb2.EDDSA, key_settings_pb2.ES256, key_settings_pb2.ML_DSA_65]
    read = [settings_of(tenants_pb2.Tenant(token_algorithm=one)).token_algorithm for one in algorithms]  # type: ignore[arg-type]  # 0 is one

    assert read == ["EDDSA", "EDDSA", "ES256", "ML_DSA_65"]
    with pytest.raises(InvalidArgumentError, match=r"tenant\.token_algorithm: must be one of EDDSA, ES256, ML_DSA_65"):
        settings_of(tenants_pb2.Tenant(token_algorithm=9))  # type: ignore[arg-type]  # an open enum
