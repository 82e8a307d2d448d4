"""T-E9 and T-E10 over the wire: only what a tenant's own key signs, of that tenant and of this time, is a token."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bulkhead.v1 import audit_pb2, rules_pb2
from control_plane.tokens.signature import sign
from tests.fixtures.edge import EdgeTenant, EdgeWorld
from tests.fixtures.edge_wire import Answer, Door, http1, lines

HOUR: Final = timedelta(hours=1)


def packed(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unpacked(segment: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))


def signed_by(key: Ed25519PrivateKey, header: dict[str, Any], payload: dict[str, Any] | bytes) -> str:
    text = f"{packed(header)}.{packed(payload)}"
    return f"{text}.{packed(key.sign(text.encode()))}"


def forged(tenant: EdgeTenant, other: EdgeTenant) -> dict[str, str]:
    """Return tokens of the tenant that are none, each for one reason."""
    head, body, signature = tenant.token.split(".")
    header, payload = unpacked(head), unpacked(body)
    stranger = Ed25519PrivateKey.generate()
    public = tenant.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    hs256 = f"{packed({**header, 'alg': 'HS256'})}.{body}"
    jwk = {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": packed(stranger.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)),
    }
    now = int(datetime.now(UTC).timestamp())
    twice = json.dumps(payload)[:-1] + f', "tid": "{other.tenant_id}"}}'

    def own(header: dict[str, Any] = header, **other: Any) -> str:
        return signed_by(tenant.key, header, {**payload, **other})

    return {
        "no algorithm": f"{packed({**header, 'alg': 'none'})}.{body}.",
        "no algorithm, but a signature": f"{packed({**header, 'alg': 'none'})}.{body}.{signature}",
        "the public key as a secret": f"{hs256}.{packed(hmac.digest(public, hs256.encode(), hashlib.sha256))}",
        "no signature": f"{head}.{body}.",
        "a signature of zeros": f"{head}.{body}.{packed(bytes(64))}",
        "another's signature": signed_by(stranger, header, payload),
        "another tenant's signature": signed_by(other.key, header, payload),
        "another tenant's key, named": signed_by(tenant.key, {**header, "kid": str(other.kid)}, payload),
        "a key of nobody's": signed_by(stranger, {**header, "kid": str(uuid4())}, payload),
        "a key in the header": signed_by(stranger, {**header, "jwk": jwk}, payload),
        "the address of a key": signed_by(stranger, {**header, "jku": "https://example.org/keys"}, payload),
        "a critical extension": signed_by(tenant.key, {**header, "crit": ["exp"]}, payload),
        "a path for a key": signed_by(tenant.key, {**header, "kid": "../../secrets/context.key"}, payload),
        "SQL for a key": signed_by(tenant.key, {**header, "kid": "' OR 1=1 --"}, payload),
        "claims that were changed": f"{head}.{packed({**payload, 'role': 'tenant-admin'})}.{signature}",
        "a claim twice": signed_by(tenant.key, header, twice.encode()),
        "another audience": own(aud="bulkhead-admin"),
        "two audiences": own(aud=["csm", "bulkhead-admin"]),
        "another issuer": own(iss="https://idp.example.org"),
        "a platform's role": own(role="platform-admin"),
        "not yet": own(nbf=now + 90, iat=now + 90, exp=now + 3000),
        "a life too long": own(exp=now + 30 * 24 * 3600),
        "a huge number": own(exp=10**300),
        "a number that is none": signed_by(tenant.key, header, json.dumps({**payload, "exp": float("inf")}).encode()),
        "one segment more": f"{tenant.token}.{signature}",
        "padding": f"{head}.{body}.{signature}==",
        "a nested token": signed_by(tenant.key, {**header, "cty": "JWT"}, payload),
        "a compressed one": signed_by(tenant.key, {**header, "zip": "DEF"}, payload),
    }


Ask = Callable[[EdgeTenant, str], Answer]


@pytest.fixture
def ask(plain: Door, edge_world: EdgeWorld) -> Ask:
    """List a tenant's certificates with exactly this in `authorization`."""

    def send(tenant: EdgeTenant, shown: str) -> Answer:
        fields = [(b"host", edge_world.authority.encode()), (b"authorization", shown.encode())]
        return http1(plain, lines(b"GET %s HTTP/1.1" % tenant.certificates.encode(), fields))

    return send


def test_a_token_by_the_tenants_own_key_is_one(edge_world: EdgeWorld, ask: Ask) -> None:
    """The positive twin of all that follows: made here in the same way."""
    own = edge_world.tenant_a
    head, body, _ = own.token.split(".")

    assert ask(own, f"Bearer {signed_by(own.key, unpacked(head), unpacked(body))}").status == 200
    assert ask(own, f"Bearer {own.signed()}").status == 200


@pytest.mark.behaviour("T-E9")
@pytest.mark.behaviour("E2.1")
def test_none_that_is_forged_is_accepted_and_all_are_told_the_same(edge_world: EdgeWorld, ask: Ask) -> None:
    own = edge_world.tenant_a
    before = edge_world.upstream_requests()
    stranger = ask(own, "Bearer").told
    told = {why: ask(own, f"Bearer {token}").told for why, token in forged(own, edge_world.tenant_b).items()}

    assert {why: what for why, what in told.items() if what != stranger} == {}
    assert edge_world.upstream_requests() == before


@pytest.mark.parametrize(
    "shown", ["{t}", "Basic {t}", "Bearer  {t}", "Bearer {t} x", "Bearer {t},Bearer {t}", "Bearer:{t}"]
)
def test_a_token_that_is_shown_in_another_way_is_none(edge_world: EdgeWorld, ask: Ask, *, shown: str) -> None:
    own = edge_world.tenant_a

    assert ask(own, shown.format(t=own.token)).status == 403


@pytest.mark.parametrize("late_s", [1, 29, 61])
def test_a_token_ends_when_it_says_so(edge_world: EdgeWorld, ask: Ask, *, late_s: int) -> None:
    own = edge_world.tenant_a
    end = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=late_s)
    answer = ask(own, f"Bearer {own.signed(issue_time=end - HOUR, not_before=end - HOUR, expire_time=end)}")

    assert (answer.status, json.loads(answer.body)["code"]) == (401, "TOKEN_EXPIRED")
    assert answer.header("www-authenticate").startswith("Bearer")


def test_only_the_tenants_own_callers_learn_that_a_token_ended_or_was_revoked(edge_world: EdgeWorld, ask: Ask) -> None:
    own, other = edge_world.tenant_a, edge_world.tenant_b
    stranger = ask(own, "Bearer").told
    ended = [own.revoked, own.expired()]

    assert [ask(own, f"Bearer {token}").status for token in ended] == [401, 401]
    assert [ask(other, f"Bearer {token}").told for token in ended] == [stranger, stranger]


@pytest.mark.parametrize("clock_ahead_s", [25, 70])
def test_an_issuers_clock_may_be_ahead_but_less_than_a_minute(
    edge_world: EdgeWorld, ask: Ask, *, clock_ahead_s: int
) -> None:
    own = edge_world.tenant_a
    begin = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=clock_ahead_s)
    token = own.signed(issue_time=begin, not_before=begin, expire_time=begin + HOUR)

    assert ask(own, f"Bearer {token}").status == (200 if clock_ahead_s < 60 else 403)


@pytest.mark.behaviour("T-E10")
@pytest.mark.behaviour("E2.1")
@pytest.mark.behaviour("E2.3")
def test_a_tenants_key_speaks_for_no_other_tenant_and_both_are_told(edge_world: EdgeWorld, ask: Ask) -> None:
    a, b = (edge_world.founder.found(kind) for kind in ("first", "second"))
    edge_world.founder.applied()
    sent = edge_world.upstream_requests()
    tokens = [a.signed(tenant_id=b.tenant_id), sign(a.claims(tenant_id=b.tenant_id), b.kid, private_key=a.key)]
    told = [ask(tenant, f"Bearer {token}").told for tenant in (a, b) for token in tokens]
    # The one that says whose key it is; under B's name A's signature is nothing.
    expected = {"TOKEN_OF_ANOTHER_TENANT": 2}

    assert set(told) == {ask(a, "Bearer").told}
    assert edge_world.upstream_requests() == sent
    for tenant in (a, b):
        assert edge_world.denials_by_then(tenant, expected) == expected


@pytest.mark.behaviour("E2.3")
def test_the_event_says_who_from_where_and_why_and_holds_no_secret(edge_world: EdgeWorld, ask: Ask) -> None:
    a, b = edge_world.founder.found("first"), edge_world.tenant_b
    edge_world.founder.applied()
    token = a.signed(subject="prober")
    answer = ask(b, f"Bearer {token}")
    expected = {"TENANT_MISMATCH": 1}
    assert edge_world.denials_by_then(a, expected) == expected
    entry = next(one for one in edge_world.founder.audit(a.tenant_id) if one.actor == "tenant-member:prober")

    assert (entry.outcome, entry.reason, entry.count) == (audit_pb2.AuditEntry.DENIED, "TENANT_MISMATCH", 1)
    assert entry.method == "/bulkhead.v1.CertificateService/ListCertificates"
    assert entry.resource == f"tenants/{b.tenant_id}"
    assert entry.details["peer"] in {"127.0.0.1", "ipv4:127.0.0.1"}
    assert entry.request_id == answer.header("x-request-id")
    assert token.split(".")[2] not in str(entry)


@pytest.mark.parametrize("kind", ["expired", "unscoped"])
def test_a_problem_names_the_request_as_its_headers_do(edge_world: EdgeWorld, ask: Ask, *, kind: str) -> None:
    own = edge_world.tenant_a
    token = own.expired() if kind == "expired" else own.signed(scopes=())
    answer = ask(own, f"Bearer {token}")

    assert json.loads(answer.body)["instance"] == answer.header("x-request-id")


@pytest.mark.parametrize("claimed", ["11111111-1111-4111-8111-111111111111", '"}<script>', "x" * 5000])
def test_the_requests_id_is_never_the_callers(edge_world: EdgeWorld, plain: Door, *, claimed: str) -> None:
    own = edge_world.tenant_a
    fields = [(b"host", edge_world.authority.encode()), (b"x-request-id", claimed.encode())]
    answer = http1(plain, lines(b"GET %s HTTP/1.1" % own.certificates.encode(), fields))

    assert answer.status == 403
    assert claimed not in answer.body.decode() + answer.header("x-request-id")


def test_a_token_that_is_revoked_is_refused_once_that_is_applied(edge_world: EdgeWorld, ask: Ask) -> None:
    own, founder = edge_world.tenant_a, edge_world.founder
    issued = founder.issue(own.tenant_id, "carol")
    founder.applied()
    before = ask(own, f"Bearer {issued.token}")
    founder.revoke(issued.metadata.name)
    founder.applied()
    after = ask(own, f"Bearer {issued.token}")

    assert (before.status, after.status) == (200, 401)
    assert json.loads(after.body)["code"] == "TOKEN_REVOKED"
    assert ask(own, f"Bearer {own.token}").status == 200


@pytest.mark.parametrize(
    ("role", "status"),
    [
        (rules_pb2.ROLE_TENANT_ADMIN, 200),
        (rules_pb2.ROLE_TENANT_MEMBER, 403),
        (rules_pb2.ROLE_AUDITOR, 403),
    ],
)
def test_a_role_without_scopes_may_what_its_rule_says(
    edge_world: EdgeWorld, ask: Ask, *, role: rules_pb2.Role.ValueType, status: int
) -> None:
    own = edge_world.tenant_a
    issued = edge_world.founder.issue(own.tenant_id, "dora", role=role, scopes=())
    answer = ask(own, f"Bearer {issued.token}")

    assert answer.status == status
    if status == 403:
        assert json.loads(answer.body)["code"] in {"SCOPE_MISSING", "ROLE_NOT_ALLOWED"}


def test_the_services_own_doors_know_no_token_that_the_edge_refuses(edge_world: EdgeWorld) -> None:
    """What the edge forwards is its own word alone: no client's token is taken for it."""
    own = edge_world.tenant_a
    answer = httpx.get(
        f"http://{edge_world.http}{own.certificates}", headers={"x-bulkhead-context": own.token, "host": own.host}
    )

    assert answer.status_code == 403
