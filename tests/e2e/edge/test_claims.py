"""T-E1: whatever a request says of tenants, it is one tenant's in everything or nobody's."""

import json
import random
import re
from collections import Counter
from dataclasses import replace
from pprint import pformat
from uuid import uuid4

import pytest

from bulkhead.v1 import certificates_pb2
from tests.e2e.edge.conftest import IS_BATTERY, PATIENCE_S, Callers
from tests.e2e.edge.grammar import (
    NAMED,
    Case,
    Host,
    Method,
    Outcome,
    Query,
    Renderer,
    Token,
    Who,
    Wire,
    cases,
    expected,
)
from tests.fixtures.edge import EdgeWorld
from tests.fixtures.edge_mirror import PROBE, Mirror
from tests.fixtures.edge_wire import Answer, http2, rest

COUNT = 10_000 if IS_BATTERY else 2_000
GRPC_STATUS = {"INVALID_ARGUMENT": "3", "PERMISSION_DENIED": "7", "TOKEN_EXPIRED": "16", "TOKEN_REVOKED": "16"}
HTTP_STATUS = {"TOKEN_EXPIRED": 401, "TOKEN_REVOKED": 401, "REQUEST_MALFORMED": 400}


def found_canaries(world: EdgeWorld, answer: Answer) -> set[str]:
    """Return whose canary, or whose id, is in any part of the answer."""
    text = answer.body + repr(answer.headers).encode()
    return {
        tenant.tenant_id
        for tenant in world.tenants
        if tenant.canary.encode() in text or tenant.tenant_id.encode() in text or tenant.uid.encode() in text
    }


def complaint(case: Case, outcome: Outcome, answer: Answer, *, stranger: Answer) -> str:
    """Say how the answer differs from what has to come of the case; empty where it does not."""
    if outcome.kind == "STRANGER":
        return "" if answer.told == stranger.told else "this is not the strangers' answer"
    if case.wire is Wire.GRPC:
        wanted = GRPC_STATUS.get(outcome.kind, "0" if outcome.kind == "SERVED" else "7")
        return "" if answer.header("grpc-status") == wanted else f"the gRPC status is not {wanted}"
    wanted_status = HTTP_STATUS.get(outcome.kind, 200 if outcome.kind == "SERVED" else 403)
    if answer.status != wanted_status:
        return f"the status is not {wanted_status}"
    if outcome.kind != "SERVED" and json.loads(answer.body)["code"] != outcome.kind:
        return f"the code is not {outcome.kind}"
    return ""


def allowed_canaries(case: Case, outcome: Outcome, renderer: Renderer) -> set[str]:
    """Return whose things may be read by the answer of the case."""
    return set() if outcome.kind == "STRANGER" else {renderer.tenant_id(case.token)}


@pytest.fixture
def strangers(callers: Callers) -> dict[Wire, Answer]:
    """The one answer for strangers: what somebody without anything is told of what there is not."""
    nothing = Case(
        wire=Wire.HTTP1, tls=False, method=Method.LIST, path=Who.ABSENT, header=Who.ABSENT, host_kind=Host.SHARED,
        host=Who.ABSENT, token_kind=Token.NONE, token=Who.A, certificate=Who.NONE, sni=Who.NONE, query=Query.NONE,
        query_who=Who.A, message=Who.ABSENT,
    )  # fmt: skip
    by_wire = {
        wire: replace(nothing, wire=wire, path=nothing.path if wire is not Wire.GRPC else Who.NONE) for wire in Wire
    }
    return {wire: callers.send(case) for wire, case in by_wire.items()}


@pytest.mark.behaviour("T-E1")
@pytest.mark.behaviour("E2.1")
@pytest.mark.behaviour("E2.2")
@pytest.mark.timeout(PATIENCE_S)
def test_only_who_agrees_in_everything_gets_through_and_only_to_its_own(
    own_world: EdgeWorld,
    callers: Callers,
    *,
    renderer: Renderer,
    strangers: dict[Wire, Answer],
    chance: random.Random,
) -> None:
    assert json.loads(strangers[Wire.HTTP1].body)["code"] == "ACCESS_DENIED"
    sent_before = own_world.upstream_requests()
    wrong, kinds, upstream, begun = [], Counter[str](), 0, 0
    denied: dict[Who, Counter[str]] = {who: Counter() for who in NAMED}
    for number, case in enumerate(cases(chance, COUNT)):
        outcome, answer = expected(case), callers.send(case)
        kinds[f"{case.wire} {outcome.kind}"] += 1
        upstream += outcome.upstream
        begun += outcome.begins
        for who, reason in outcome.denied:
            denied[who][reason] += 1
        said = complaint(case, outcome, answer, stranger=strangers[case.wire])
        if said or not found_canaries(own_world, answer) <= allowed_canaries(case, outcome, renderer):
            wrong.append((number, said or "a foreign canary", outcome, case, answer))

    assert not wrong, f"{len(wrong)} of {COUNT} are wrong, first of all {pformat(wrong[:3])}"
    assert upstream <= own_world.upstream_requests() - sent_before <= upstream + begun
    for who in NAMED:
        reached = dict(denied[who])
        assert own_world.denials_by_then(renderer.tenant(who), reached) == reached
    # The sensor is alive: each outcome was met.
    assert min(kinds[f"{wire} {kind}"] for wire in Wire for kind in ("SERVED", "STRANGER", "TOKEN_EXPIRED")) > 0, kinds


def test_what_is_served_is_the_tenants_own_certificate(
    own_world: EdgeWorld, callers: Callers, *, renderer: Renderer, chance: random.Random
) -> None:
    """The positive twin: the canaries are found by those whose they are."""
    served = [case for case in cases(chance, 600) if expected(case).kind == "SERVED" and case.method is Method.LIST]
    for case in served:
        answer = callers.send(case)
        own = renderer.tenant(case.token)
        listed = answer.body
        if case.wire is Wire.GRPC:
            listed = certificates_pb2.ListCertificatesResponse.FromString(answer.body[5:]).SerializeToString()
        assert set(re.findall(rb"cnry-[0-9a-f]{32}", listed)) == {own.canary.encode()}

    assert {(case.wire, case.token) for case in served} == {(wire, who) for wire in Wire for who in (Who.A, Who.B)}


@pytest.mark.behaviour("E2.1")
def test_a_body_that_names_another_tenant_than_its_path_never_becomes_a_message(mirror: Mirror) -> None:
    own, other = mirror.world.tenant_a, mirror.world.tenant_b
    probes = {who.tenant_id: uuid4().hex for who in (own, other)}
    answers = {}
    for named, probe in probes.items():
        fields = [
            *rest(f"{own.certificates}:issue".encode(), mirror.world.authority.encode(), method=b"POST"),
            (b"content-type", b"application/json"),
            (b"authorization", b"Bearer " + own.token.encode()),
            (PROBE.encode(), probe.encode()),
        ]
        body = json.dumps({"parent": f"tenants/{named}", "csr_pem": "x"}).encode()
        answers[named] = http2(mirror.door, fields, body=body).status

    assert answers == {own.tenant_id: 200, other.tenant_id: 400}
    assert [seen.tenant for seen in mirror.seen(probes[own.tenant_id])] == [own.tenant_id]
    assert mirror.seen(probes[other.tenant_id]) == []
