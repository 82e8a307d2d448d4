"""Only a request that is one tenant's in every respect goes on; who is none of the tenant's own learns nothing."""

from dataclasses import replace
from datetime import timedelta
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.authz.certificate import CertificateClaim
from ext_authz.authz.decide import Decision, Proceed, Refused, Stranger
from ext_authz.policies.model import Index, State
from tests.unit.ext_authz.authz.checks import (
    ABSENT,
    CERTIFICATE_ID,
    DOMAIN,
    INDEX,
    ISSUE,
    NOW,
    SUSPENDED,
    A,
    Ask,
    B,
    Tenant,
    decided,
    grpc_ask,
    index_of,
    tenant,
)

CLAIMANTS: list[Tenant | None] = [A, B, SUSPENDED, ABSENT, None]


def claim_of(claimant: Tenant | None) -> CertificateClaim | None:
    if claimant is None:
        return None
    return CertificateClaim(tenant_id=claimant.policy.tenant_id, expire_time=NOW + timedelta(days=1))


def host_of(claimant: Tenant | None, *, custom: bool = False) -> bytes:
    if claimant is None:
        return b"api.csm.example.com"
    return claimant.policy.hosts(DOMAIN)[1 if custom else 0].encode()


def told(decision: Decision) -> tuple[int, str]:
    assert isinstance(decision, Refused)
    return decision.status, decision.code


def reason(decision: Decision) -> str:
    assert isinstance(decision, Stranger)
    return decision.reason


@pytest.mark.behaviour("T-E1")
@given(
    claims=st.fixed_dictionaries(
        {place: st.sampled_from(CLAIMANTS) for place in ("path", "header", "host", "token", "sni", "certificate")}
    ),
    custom=st.booleans(),
    is_grpc=st.booleans(),
)
def test_only_what_every_claim_says_of_one_active_tenant_goes_on(
    claims: dict[str, Tenant | None], *, custom: bool, is_grpc: bool
) -> None:
    if is_grpc:
        claims["path"] = None
    path = claims["path"].policy.tenant_id if claims["path"] is not None else None
    header, token = claims["header"], claims["token"]
    ask = Ask(
        token=token.token() if token is not None else None,
        tenant=header.policy.tenant_id if header is not None else None,
        path=f"/api/v1/tenants/{path}/certificates" if path else "/bulkhead.v1.CertificateService/ListCertificates",
        http_method="GET" if path else "POST",
        content_type=None if path else "application/grpc",
        host=host_of(claims["host"], custom=custom),
        sni=host_of(claims["sni"]),
        certificate=b"shown" if claims["certificate"] is not None else b"",
    )
    decision = decided(ask, certificate=claim_of(claims["certificate"]))
    present = {claimant.policy.tenant_id for claimant in claims.values() if claimant is not None}
    is_named = any(claims[place] is not None for place in ("path", "header", "host"))

    if isinstance(decision, Proceed):
        assert present == {decision.policy.tenant_id}
        assert decision.policy.state is State.ACTIVE
        assert is_named
    elif isinstance(decision, Refused):
        # Only who has shown the tenant's own token, and no other claim, is told anything.
        assert (decision.code, present) == ("TENANT_SUSPENDED", {"org_3"})
    else:
        assert token is None or token is ABSENT or len(present) > 1 or not is_named


@pytest.mark.behaviour("T-E1")
@pytest.mark.parametrize("own", [A, B])
@pytest.mark.parametrize("custom", [False, True])
def test_every_way_to_name_the_right_tenant_is_enough(own: Tenant, *, custom: bool) -> None:
    shared, certificates = b"api.csm.example.com", f"/api/v1/tenants/{own.policy.tenant_id}/certificates"
    asks = [
        Ask(token=own.token(), path=certificates, host=shared),
        Ask(token=own.token(), path=certificates, host=host_of(own, custom=custom), tenant=own.policy.tenant_id),
        grpc_ask(token=own.token(), host=host_of(own, custom=custom), tenant=None),
        grpc_ask(token=own.token(), tenant=own.policy.tenant_id, sni=host_of(own)),
    ]
    decisions = [decided(ask) for ask in asks]

    assert all(isinstance(decision, Proceed) and decision.policy is own.policy for decision in decisions)


@pytest.mark.behaviour("T-E1")
def test_a_single_disagreement_is_the_strangers_answer_and_told_to_the_token_s_own_tenant() -> None:
    asks = [
        Ask(tenant="org_2"),
        Ask(host=b"org-2.csm.example.com"),
        Ask(host=b"pki.org2.example"),
        Ask(sni=b"org-2.csm.example.com"),
        Ask(path=f"/api/v1/tenants/org_2/certificates/{CERTIFICATE_ID}"),
        Ask(more=(("x-bulkhead-tenant", b"id:org_2"),)),
        Ask(more=(("x-bulkhead-tenant", b"host:pki.org2.example"),)),
        Ask(host=b"nobody.example"),
        Ask(sni=b"nobody.example"),
        Ask(tenant="org_4"),
        grpc_ask(tenant="org_2"),
        grpc_ask(host=b"org-2.csm.example.com"),
    ]
    decisions = [decided(ask) for ask in asks]

    assert {reason(decision) for decision in decisions} == {"TENANT_MISMATCH"}
    assert {getattr(decision, "tenants", None) for decision in decisions} == {("org_1",)}
    assert {getattr(decision, "actor", None) for decision in decisions} == {"tenant-member:alice"}


def test_a_token_alone_names_no_tenant() -> None:
    assert reason(decided(grpc_ask(tenant=None))) == "TENANT_NOT_NAMED"
    assert reason(decided(grpc_ask(tenant=None, sni=b"org-1.csm.example.com"))) == "TENANT_NOT_NAMED"


@pytest.mark.behaviour("T-E12")
def test_a_certificate_that_is_shown_names_the_same_tenant_and_is_in_force() -> None:
    shown = Ask(certificate=b"shown")
    expired = CertificateClaim(tenant_id="org_1", expire_time=NOW)

    assert isinstance(decided(shown, certificate=claim_of(A)), Proceed)
    assert reason(decided(shown, certificate=claim_of(B))) == "TENANT_MISMATCH"
    assert reason(decided(shown, certificate=None)) == "CERTIFICATE_REFUSED"
    assert reason(decided(shown, certificate=expired)) == "CERTIFICATE_EXPIRED"


def test_a_certificate_is_no_token() -> None:
    assert reason(decided(Ask(token=None, certificate=b"shown"), certificate=claim_of(A))) == "TOKEN_MISSING"


def test_the_tenant_is_not_named_again_in_the_query() -> None:
    path = Ask().path

    assert reason(decided(Ask(path=f"{path}?name=tenants/org_2/certificates/1"))) == "TENANT_IN_QUERY"
    assert reason(decided(Ask(path=f"{path}?%6eame=x"))) == "TENANT_IN_QUERY"
    assert isinstance(decided(Ask(path="/api/v1/tenants/org_1/certificates?pageSize=3&name=x")), Proceed)
    assert reason(decided(Ask(path="/api/v1/tenants/org_1/certificates?pageSize=3&parent=x"))) == "TENANT_IN_QUERY"


@pytest.mark.behaviour("T-E16")
def test_strangers_cannot_tell_tenants_apart() -> None:
    """Whatever they show and ask: who is not the tenant's own caller gets the one answer."""
    forged = tenant(1).token().rpartition(".")[0] + ".AAAA"
    tokens = [None, B.token(), ABSENT.token(), forged, SUSPENDED.token(), "not-a-token"]
    paths = ["certificates", f"certificates/{CERTIFICATE_ID}", "certificateAuthority", "nothing", "certificates:issue"]
    asks = [
        Ask(token=token, path=f"/api/v1/tenants/{named}/{path}", tenant=named)
        for token, named, path in product(tokens, ["org_1", "org_3", "org_4", "ORG_1"], paths)
        if not (token == SUSPENDED.token() and named == "org_3")
    ]
    for index in (INDEX, index_of(A, B, SUSPENDED, as_of=NOW - timedelta(hours=1))):
        assert {type(decided(ask, index)) for ask in asks} == {Stranger}


def test_a_role_that_the_rule_does_not_name_is_refused() -> None:
    asked = Ask(token=A.token(role="auditor", scopes=("certificates.read",)))

    assert told(decided(asked)) == (403, "ROLE_NOT_ALLOWED")


def test_a_member_needs_the_rule_s_scope_and_an_administrator_does_not() -> None:
    issue = Ask(path="/api/v1/tenants/org_1/certificates:issue", http_method="POST")

    assert told(decided(issue)) == (403, "SCOPE_MISSING")
    assert told(decided(grpc_ask(ISSUE))) == (403, "SCOPE_MISSING")
    assert isinstance(decided(replace(issue, token=A.token(scopes=("certificates.write",)))), Proceed)
    assert isinstance(decided(replace(issue, token=A.token(role="tenant-admin", scopes=()))), Proceed)


def test_a_method_that_is_not_served_is_named_to_the_tenant_s_own_callers_alone() -> None:
    ask = Ask(path="/api/v1/tenants/org_1/keys")

    assert told(decided(ask)) == (403, "METHOD_UNKNOWN")
    assert isinstance(decided(replace(ask, token=B.token())), Stranger)


def test_an_expired_and_a_revoked_token_are_told_to_their_owner() -> None:
    later = NOW + timedelta(hours=2)
    revoked = index_of(A, revoked=[A.claims().token_id])

    assert told(decided(Ask(), index_of(A, as_of=later), now=later)) == (401, "TOKEN_EXPIRED")
    assert told(decided(Ask(), revoked)) == (401, "TOKEN_REVOKED")
    assert isinstance(decided(Ask(tenant="org_2"), revoked), Stranger)


def test_a_suspended_tenant_is_named_to_its_own_callers_alone() -> None:
    path = "/api/v1/tenants/org_3/certificates"

    assert told(decided(Ask(path=path, token=SUSPENDED.token()))) == (403, "TENANT_SUSPENDED")
    assert isinstance(decided(Ask(path=path)), Stranger)


@pytest.mark.parametrize(("epoch", "goes_on"), [("0", True), ("4", True), ("5", True), ("6", False), ("9", False)])
def test_routes_that_are_newer_than_the_policy_are_not_served_by_it(epoch: str, *, goes_on: bool) -> None:
    decision = decided(Ask(epoch=epoch))

    assert isinstance(decision, Proceed) if goes_on else told(decision) == (503, "EPOCH_BEHIND")


def test_a_policy_that_may_be_an_old_one_suspends_nobody() -> None:
    path = "/api/v1/tenants/org_3/certificates"

    assert told(decided(Ask(path=path, token=SUSPENDED.token(), epoch="6"))) == (503, "EPOCH_BEHIND")


def test_a_key_that_is_newer_than_the_index_is_no_stranger_s() -> None:
    routed = Ask(path="/api/v1/tenants/org_4/certificates", token=ABSENT.token(), epoch="10")

    assert told(decided(routed)) == (503, "EPOCH_BEHIND")
    assert isinstance(decided(replace(routed, epoch="9")), Stranger)
    assert isinstance(decided(replace(routed, token=None)), Stranger)
    assert isinstance(decided(replace(routed, token=B.token())), Stranger)
    assert isinstance(decided(replace(routed, more=(("x-bulkhead-context", b"forged"),))), Stranger)


@pytest.mark.parametrize(
    ("age", "goes_on"),
    [
        (timedelta(minutes=15), True),
        (timedelta(minutes=15, microseconds=1), False),
        (timedelta(seconds=-60), True),
        (timedelta(seconds=-61), False),
    ],
)
def test_a_policy_is_good_for_as_long_as_the_tenant_says(age: timedelta, *, goes_on: bool) -> None:
    decision = decided(Ask(), index_of(A, as_of=NOW - age))

    assert isinstance(decision, Proceed) if goes_on else told(decision) == (503, "POLICY_STALE")


def test_without_any_policy_everybody_is_told_to_come_again() -> None:
    for ask in (Ask(), Ask(token=None), Ask(tenant="org_2")):
        assert told(decided(ask, Index(domain=DOMAIN))) == (503, "POLICY_MISSING")


@pytest.mark.behaviour("T-E10")
def test_a_tenant_s_key_under_another_tenant_s_name_is_told_to_both() -> None:
    token = A.token(tenant_id="org_2", role="tenant-admin")
    decisions = [
        decided(Ask(token=token, path=f"/api/v1/tenants/{named}/certificates")) for named in ("org_1", "org_2")
    ]

    assert {reason(decision) for decision in decisions} == {"TOKEN_OF_ANOTHER_TENANT"}
    assert {getattr(decision, "tenants", None) for decision in decisions} == {("org_1", "org_2")}


def test_a_fault_outweighs_a_token() -> None:
    decision = decided(Ask(tenant="org_1", more=(("x-tenant-id", b"org_1"),)))

    assert decision == Stranger(reason="DUPLICATE_HEADER", tenants=("org_1",), actor="tenant-member:alice")
