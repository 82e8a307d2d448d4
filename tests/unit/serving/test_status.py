"""What a caller reads of an error."""

from datetime import timedelta
from typing import TypeVar

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from control_plane.errors import (
    DomainError,
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    QuotaExceededError,
    UnauthenticatedError,
    UnavailableError,
)
from control_plane.serving.status import CODES, to_status

M = TypeVar("M", bound=Message)
_ID = "0123456789abcdef"


def _detail(status: status_pb2.Status, kind: type[M]) -> M:
    found = kind()
    matching = [detail for detail in status.details if detail.Unpack(found)]
    assert len(matching) == 1
    return found


def test_every_domain_error_has_a_status() -> None:
    assert set(DomainError.__subclasses__()) == set(CODES)


def test_all_violations_are_listed() -> None:
    error = InvalidArgumentError(
        FieldViolation(field="a", description="must be red"), FieldViolation(field="b", description="must be blue")
    )

    fields = _detail(to_status(error, _ID), error_details_pb2.BadRequest).field_violations
    assert [(field.field, field.description) for field in fields] == [("a", "must be red"), ("b", "must be blue")]


@pytest.mark.behaviour("T-A9")
def test_a_bug_is_an_internal_error_without_its_text() -> None:
    status = to_status(KeyError("SELECT secret FROM /srv/data"), _ID)

    assert status.code == grpc.StatusCode.INTERNAL.value[0]
    assert status.message == "internal error"
    assert b"secret" not in status.SerializeToString()


@pytest.mark.behaviour("T-E16")
@pytest.mark.parametrize("kind", [UnauthenticatedError, PermissionDeniedError])
def test_a_stranger_reads_a_reason_and_a_request_id_and_nothing_else(kind: type[DomainError]) -> None:
    status = to_status(kind("tenants/org_2 has no such key", tenant="org_2"), _ID)

    assert b"org_2" not in status.SerializeToString()
    assert _detail(status, error_details_pb2.ErrorInfo).reason == kind.reason
    assert _detail(status, error_details_pb2.RequestInfo).request_id == _ID
    assert len(status.details) == 2


def test_a_precondition_names_the_resource_and_the_reason() -> None:
    status = to_status(PreconditionError("tenants/org_1", "is suspended", reason="TENANT_SUSPENDED"), _ID)

    violation = _detail(status, error_details_pb2.PreconditionFailure).violations[0]
    assert (violation.subject, violation.type) == ("tenants/org_1", "TENANT_SUSPENDED")


def test_an_unavailable_part_says_when_to_try_again() -> None:
    status = to_status(UnavailableError("away", retry_after=timedelta(milliseconds=1500)), _ID)

    delay = _detail(status, error_details_pb2.RetryInfo).retry_delay
    assert (delay.seconds, delay.nanos) == (1, 500_000_000)


def test_a_quota_names_its_subject() -> None:
    status = to_status(QuotaExceededError("tenants/org_1", "full", retry_after=timedelta(seconds=3)), _ID)

    assert _detail(status, error_details_pb2.QuotaFailure).violations[0].subject == "tenants/org_1"
    assert _detail(status, error_details_pb2.RetryInfo).retry_delay.seconds == 3


def test_a_missing_resource_is_named_as_the_caller_named_it() -> None:
    status = to_status(NotFoundError("tenants/org_1/certificates/c"), _ID)

    info = _detail(status, error_details_pb2.ResourceInfo)
    assert (info.resource_type, info.resource_name) == ("certificates", "tenants/org_1/certificates/c")


def test_the_answer_to_a_huge_request_is_small() -> None:
    violations = [FieldViolation(field="f" * 10_000, description="d" * 10_000) for _ in range(1000)]
    status = to_status(InvalidArgumentError(*violations), _ID)

    assert status.ByteSize() < 32_000
