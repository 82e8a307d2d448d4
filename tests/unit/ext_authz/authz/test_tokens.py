"""Only what a tenant's own key signed is a token of the tenant, and only for as long as all that is still so."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from control_plane.tokens.signature import verified_payload
from ext_authz.authz import tokens
from ext_authz.authz.decide import Stranger
from ext_authz.authz.tokens import Proven, TokenReader, Unproven
from ext_authz.policies.model import Index, TenantToken
from tests.fixtures.edge_policies import change
from tests.unit.ext_authz.authz.checks import INDEX, NOW, A, Ask, B, Tenant, decided, index_of
from tests.unit.ext_authz.authz.forgeries import CLAIMS, FORGERS, signed


def read(token: str, index: Index = INDEX) -> Proven | Unproven:
    return TokenReader().read(token, index, now=NOW)


@pytest.mark.behaviour("T-E9")
@pytest.mark.parametrize("forger", FORGERS)
def test_no_forged_token_is_anybody_s(forger: Callable[[], Iterator[str]]) -> None:
    accepted = [token for token in forger() if isinstance(read(token), Proven)]

    assert accepted == []


@pytest.mark.behaviour("T-E9")
def test_whoever_forges_gets_the_strangers_answer() -> None:
    forged = {token for forger in FORGERS for token in forger()}
    decisions = {type(decided(Ask(token=token))) for token in forged if token.isascii()}

    assert decisions == {Stranger}
    assert len(forged) >= 400


@pytest.mark.behaviour("T-E9")
def test_what_the_forgers_start_from_is_a_token() -> None:
    # Signed again with the real key, and with a claim that is new to this reader.
    tokens = [A.token(), signed(key=A.key), signed(claims={**CLAIMS, "new": 1}, key=A.key)]

    assert [type(read(token)) for token in tokens] == [Proven, Proven, Proven]


@pytest.mark.behaviour("T-E9")
@pytest.mark.parametrize(("ahead_s", "accepted"), [(0, True), (20, True), (30, True), (31, False), (61, False)])
@pytest.mark.parametrize("said", [("issue_time",), ("not_before",), ("issue_time", "not_before")])
def test_the_issuer_s_clock_may_be_ahead_by_half_a_minute(ahead_s: int, said: Sequence[str], *, accepted: bool) -> None:
    token = A.token(**dict.fromkeys(said, NOW.replace(microsecond=0)))
    earlier = NOW.replace(microsecond=0) - timedelta(seconds=ahead_s)
    reader = TokenReader()
    fresh = reader.read(token, INDEX, now=earlier)
    reader.read(token, INDEX, now=NOW)
    remembered = reader.read(token, INDEX, now=earlier)

    assert isinstance(fresh, Proven) is accepted
    assert isinstance(remembered, Proven) is accepted


@pytest.mark.parametrize("is_remembered", [False, True])
def test_a_token_expires_to_the_microsecond(*, is_remembered: bool) -> None:
    reader, ends = TokenReader(), A.claims().expire_time
    if is_remembered:
        reader.read(A.token(), INDEX, now=NOW)
    last = reader.read(A.token(), INDEX, now=ends - timedelta(microseconds=1))
    over = reader.read(A.token(), INDEX, now=ends)

    assert isinstance(last, Proven)
    assert isinstance(over, Proven)
    assert (last.fault, over.fault) == ("", "TOKEN_EXPIRED")
    assert not reader._remembered


def test_an_expired_token_of_another_form_is_a_stranger_s() -> None:
    later = NOW + timedelta(days=2)
    never_valid = A.token(not_before=NOW + timedelta(hours=5), expire_time=NOW.replace(microsecond=0))

    assert isinstance(TokenReader().read(never_valid, INDEX, now=later), Unproven)
    assert isinstance(TokenReader().read(signed(), INDEX, now=later), Unproven)


def test_what_is_remembered_of_a_token_is_nothing_that_can_change() -> None:
    reader, token = TokenReader(), A.token()
    other_key = replace(A.policy, token_keys={A.kid: B.key.public_key()})
    renamed = replace(A.policy, tenant_id="org_9")
    without_key = replace(A.policy, token_keys={})
    found = [
        reader.read(token, index, now=NOW)
        for index in (
            INDEX,
            index_of(A, revoked=[A.claims().token_id]),
            index_of(replace(A, policy=other_key)),
            index_of(replace(A, policy=renamed)),
            index_of(replace(A, policy=without_key)),
            index_of(B),
            INDEX,
        )
    ]
    told = [each.fault if isinstance(each, Proven) else each.cause for each in found]

    assert told == [
        "",
        "TOKEN_REVOKED",
        "TOKEN_SIGNATURE",
        "TOKEN_OF_ANOTHER_TENANT",
        "TOKEN_KEY_UNKNOWN",
        "TOKEN_KEY_UNKNOWN",
        "",
    ]


@pytest.mark.behaviour("T-E9")
@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_token_is_remembered_whole(part: int) -> None:
    reader, parts = TokenReader(), A.token().split(".")
    reader.read(A.token(), INDEX, now=NOW)
    parts[part] = B.token().split(".")[part]
    found = reader.read(".".join(parts), INDEX, now=NOW)

    assert isinstance(found, Unproven)
    assert found.cause == "TOKEN_SIGNATURE"


@pytest.mark.parametrize(("revoker", "fault"), [(B, ""), (A, "TOKEN_REVOKED")])
@pytest.mark.parametrize("is_remembered", [False, True])
def test_a_token_is_revoked_by_its_own_tenant_alone(revoker: Tenant, fault: str, *, is_remembered: bool) -> None:
    revoked = {TenantToken(revoker.policy.uid, A.claims().token_id): NOW + timedelta(days=1)}
    after = INDEX.after(change(feed=INDEX.feed, revision=INDEX.revision + 1, revocations=revoked))
    reader = TokenReader()
    if is_remembered:
        reader.read(A.token(), INDEX, now=NOW)
    found = reader.read(A.token(), after, now=NOW)

    assert isinstance(found, Proven)
    assert found.fault == fault


def test_a_signature_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[str] = []

    def verify(token: str, key: Ed25519PublicKey) -> bytes:
        verified.append(token)
        return verified_payload(token, key)

    monkeypatch.setattr(tokens, "verified_payload", verify)
    reader = TokenReader()
    forged = signed()
    for _ in range(3):
        # The same key in an index of its own is the same key.
        reader.read(A.token(), index_of(replace(A, policy=replace(A.policy, revision=7))), now=NOW)
        reader.read(forged, INDEX, now=NOW)

    assert verified == [A.token(), forged, forged, forged]


def test_no_more_is_remembered_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_MOST_REMEMBERED", 3)
    reader = TokenReader()
    for number in (0, 1, 2, 0, 3, 4):
        reader.read(A.token(token_id=UUID(int=number)), INDEX, now=NOW)

    assert [credential.claims.token_id.int for credential in reader._remembered.values()] == [0, 3, 4]


def test_a_mix_up_names_only_tenants_that_there_are() -> None:
    found = [read(A.token(tenant_id=named)) for named in ("org_2", "org_404", "../x")]

    assert [each.tenants for each in found if isinstance(each, Unproven)] == [
        ("org_1", "org_2"),
        ("org_1",),
        ("org_1",),
    ]
