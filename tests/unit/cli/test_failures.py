"""What a status means to whoever typed the command."""

from typing import Any

import grpc
import pytest

from control_plane.cli.calls.failures import CallFailedError as CallFailed
from control_plane.cli.calls.failures import Failure, Violation, from_status, partially, to_json

EXIT_CODES = {
    "INVALID_ARGUMENT": 2,
    "OUT_OF_RANGE": 2,
    "NOT_FOUND": 3,
    "PERMISSION_DENIED": 3,
    "UNAUTHENTICATED": 3,
    "ALREADY_EXISTS": 4,
    "FAILED_PRECONDITION": 4,
    "ABORTED": 4,
    "RESOURCE_EXHAUSTED": 5,
    "UNAVAILABLE": 6,
    "DEADLINE_EXCEEDED": 6,
    "CANCELLED": 1,
    "UNKNOWN": 1,
    "UNIMPLEMENTED": 1,
    "INTERNAL": 1,
    "DATA_LOSS": 1,
}


def status(code: grpc.StatusCode, *details: dict[str, Any]) -> dict[str, Any]:
    return {"code": code.value[0], "message": "it did not work", "details": list(details)}


def test_every_status_of_grpc_has_its_exit_code() -> None:
    found = {
        code.name: from_status(status(code)).exit_code for code in grpc.StatusCode if code is not grpc.StatusCode.OK
    }

    assert found == EXIT_CODES


def test_a_command_that_did_a_part_exits_7_whatever_ended_it() -> None:
    for code in EXIT_CODES:
        assert partially(CallFailed(Failure(code=code, message=""))).failure.exit_code == 7


@pytest.mark.parametrize("code", EXIT_CODES)
def test_every_failure_says_what_to_do_next(code: str) -> None:
    step = Failure(code=code, message="").next_step(bulkhead="bulkhead --dir x", directory="x")

    assert len(step) > 15
    assert "{" not in step


def test_a_reason_has_a_better_remedy_than_its_status() -> None:
    suspended = Failure(code="FAILED_PRECONDITION", reason="TENANT_SUSPENDED", message="")

    assert "bulkhead --dir x tenants reactivate" in suspended.next_step(bulkhead="bulkhead --dir x", directory="x")


def test_a_fault_of_ours_points_to_the_logs_of_the_stack() -> None:
    assert "/srv/b/logs" in Failure(code="INTERNAL", message="").next_step(bulkhead="bulkhead", directory="/srv/b")


def test_a_status_is_read_with_all_its_details() -> None:
    failure = from_status(
        status(
            grpc.StatusCode.INVALID_ARGUMENT,
            {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "R", "metadata": {"k": "v"}},
            {
                "@type": "type.googleapis.com/google.rpc.BadRequest",
                "field_violations": [
                    {"field": "a", "description": "bad", "reason": "LONG"},
                    {"field": "b", "description": "worse"},
                ],
            },
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retry_delay": "1.5s"},
            {"@type": "type.googleapis.com/google.rpc.RequestInfo", "request_id": "0192"},
        )
    )

    assert to_json(failure, next_step="mend it") == {
        "error": {
            "code": "INVALID_ARGUMENT",
            "reason": "R",
            "message": "it did not work",
            "metadata": {"k": "v"},
            "violations": [
                {"field": "a", "description": "bad", "reason": "LONG"},
                {"field": "b", "description": "worse", "reason": ""},
            ],
            "request_id": "0192",
            "retry_after": "1.5s",
            "next": "mend it",
            "exit_code": 2,
        }
    }


def test_nothing_is_said_twice() -> None:
    failure = from_status(
        status(
            grpc.StatusCode.FAILED_PRECONDITION,
            {
                "@type": "type.googleapis.com/google.rpc.PreconditionFailure",
                "violations": [{"subject": "tenants/a", "description": "it did not work"}],
            },
        )
    )
    wrong = Failure(code="INVALID_ARGUMENT", message="a: bad", violations=(Violation(field="a", description="bad"),))

    assert (failure.headline, failure.violations) == ("FAILED_PRECONDITION: it did not work", ())
    assert wrong.headline == "INVALID_ARGUMENT"


@pytest.mark.parametrize("status", [{}, {"code": 99}, {"code": -1}, {"code": 13, "details": [{}]}])
def test_a_status_that_makes_no_sense_is_still_a_failure(status: dict[str, Any]) -> None:
    assert from_status(status).exit_code == 1
