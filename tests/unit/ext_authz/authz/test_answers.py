"""Who is told what, and how: strangers one thing, a tenant's own callers the reason, and whoever waits for how long."""

import json

import pytest

from bulkhead.envoy.v3 import check_pb2
from ext_authz.authz import answers
from ext_authz.authz.decide import Refused
from ext_authz.authz.request import Asked, read_request
from ext_authz.policies.model import Period
from tests.fixtures.edge_budgets import taken
from tests.unit.ext_authz.authz.checks import SHARED, Ask, grpc_ask

REST: Asked = read_request(Ask().check(), SHARED)
GRPC: Asked = read_request(grpc_ask().check(), SHARED)


def parsed(answer: bytes) -> check_pb2.CheckResponse:
    return check_pb2.CheckResponse.FromString(answer)


def headers_of(answer: bytes) -> dict[str, str]:
    sent = parsed(answer).denied_response.headers
    assert all(each.append_action == each.OVERWRITE_IF_EXISTS_OR_ADD for each in sent)
    return {each.header.key: each.header.value for each in sent}


@pytest.mark.behaviour("T-E16")
def test_strangers_are_told_nothing() -> None:
    answer = parsed(answers.STRANGER)

    assert (answer.status.code, answer.status.message) == (7, "")
    assert answer.denied_response.status.code == 404
    assert (list(answer.denied_response.headers), answer.denied_response.body) == ([], "")
    assert not answer.HasField("ok_response")


def test_an_admitted_request_goes_on_with_its_context_alone() -> None:
    answer = parsed(answers.admitted("1.e30.x", taken=taken(1, limit=10, remaining=9, reset_s=3.2)))
    sent, returned = answer.ok_response.headers, answer.ok_response.response_headers_to_add

    assert answer.status.code == 0
    assert not answer.HasField("denied_response")
    assert [(each.header.key, each.header.value) for each in sent] == [("x-bulkhead-context", "1.e30.x")]
    assert list(answer.ok_response.headers_to_remove) == ["authorization", "x-tenant-id", "x-bulkhead-tenant"]
    assert {each.header.key: each.header.value for each in returned} == {
        "ratelimit-policy": '"minute";q=10;w=60',
        "ratelimit": '"minute";r=9;t=4',
    }
    assert all(each.append_action == each.OVERWRITE_IF_EXISTS_OR_ADD for each in (*sent, *returned))


@pytest.mark.behaviour("S3.8")
@pytest.mark.parametrize(("reset_s", "told_s"), [(0.0, 1), (0.001, 1), (1.0, 1), (1.001, 2), (59.2, 60), (60.0, 60)])
def test_whoever_is_limited_is_told_when_a_retry_works(reset_s: float, told_s: int) -> None:
    answer = answers.limited(REST, taken=taken(0, limit=10, remaining=0, reset_s=reset_s))

    assert parsed(answer).denied_response.status.code == 429
    assert headers_of(answer) == {
        "x-bulkhead-reason": "RATE_LIMITED",
        "content-type": "application/problem+json",
        "retry-after": str(told_s),
        "ratelimit-policy": '"minute";q=10;w=60',
        "ratelimit": f'"minute";r=0;t={told_s}',
    }


@pytest.mark.parametrize(
    ("status", "code", "title"), [(403, 7, "Forbidden"), (401, 16, "Unauthorized"), (503, 14, "Service Unavailable")]
)
def test_a_refusal_is_a_problem_with_a_code(status: int, code: int, title: str) -> None:
    answer = answers.refusal(REST, Refused(status=status, code="WHY", detail='it is "so"'))
    response = parsed(answer)

    assert (response.status.code, response.denied_response.status.code) == (code, status)
    assert headers_of(answer)["x-bulkhead-reason"] == "WHY"
    assert ("www-authenticate" in headers_of(answer)) is (status == 401)
    assert json.loads(response.denied_response.body) == {
        "type": "about:blank",
        "title": title,
        "status": status,
        "code": "WHY",
        "detail": 'it is "so"',
        "instance": "request-1",
    }


def test_grpc_s_callers_read_the_reason_as_the_status_s_message() -> None:
    refused = answers.refusal(GRPC, Refused(status=503, code="POLICY_STALE", detail="too old", retry_after_s=1))
    limited = answers.limited(GRPC, taken=taken(0, limit=1, remaining=0, reset_s=1))

    assert parsed(refused).denied_response.body == "too old"
    assert headers_of(refused) == {"x-bulkhead-reason": "POLICY_STALE", "retry-after": "1", "grpc-status": "14"}
    assert headers_of(limited)["grpc-status"] == "8"


@pytest.mark.behaviour("S3.8")
def test_the_tightest_window_is_named_with_what_it_counts() -> None:
    used_up = taken(0, limit=5000, remaining=3, reset_s=7200, period=Period.DAY, unit="units")
    answer = answers.limited(GRPC, taken=used_up)

    assert parsed(answer).denied_response.body == "the tenant's 5000 units of this day are used up; more in 7200 s"
    assert headers_of(answer)["ratelimit-policy"] == '"units-day";q=5000;w=86400'
    assert headers_of(answer)["ratelimit"] == '"units-day";r=3;t=7200'
