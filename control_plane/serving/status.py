"""What a caller reads of an error: the one place where domain errors become gRPC statuses (AIP-193)."""

from collections.abc import Mapping
from typing import Final

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from control_plane.errors import (
    AlreadyExistsError,
    ConflictError,
    DomainError,
    EtagMismatchError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    PolicyDeniedError,
    PreconditionError,
    QuotaExceededError,
    UnauthenticatedError,
    UnavailableError,
)

DOMAIN: Final = "bulkhead"

CODES: Final[Mapping[type[DomainError], grpc.StatusCode]] = {
    InvalidArgumentError: grpc.StatusCode.INVALID_ARGUMENT,
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    EtagMismatchError: grpc.StatusCode.ABORTED,
    ConflictError: grpc.StatusCode.ABORTED,
    PreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    QuotaExceededError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
}

# A stranger learns that it was refused, and nothing else: the same words whatever the cause.
_TO_STRANGERS: Final = {
    grpc.StatusCode.UNAUTHENTICATED: "the call carries no valid credential",
    grpc.StatusCode.PERMISSION_DENIED: "the caller may not do this",
}
# Trailers are HTTP/2 headers, and peers refuse large ones: metadata is cut, whole violations are left out.
_LONGEST_TEXT: Final = 500
_MOST_VIOLATIONS: Final = 20

_log: Final = structlog.get_logger("serving.status")


def to_status(error: BaseException, request_id: str) -> status_pb2.Status:
    """Turn what a call raised into what its caller reads.

    Anything but a domain error is INTERNAL with a fixed text; the log keeps it whole, under the same request id.
    """
    if isinstance(error, TimeoutError):
        return _status(grpc.StatusCode.DEADLINE_EXCEEDED, "the call took too long", request_id)
    code = next((code for kind, code in CODES.items() if isinstance(error, kind)), None)
    if code is None or not isinstance(error, DomainError):
        _log.error("call_failed", request_id=request_id, exc_info=error)
        return _status(grpc.StatusCode.INTERNAL, "internal error", request_id)
    if code in _TO_STRANGERS and not isinstance(error, PolicyDeniedError):
        info = error_details_pb2.ErrorInfo(reason=error.code, domain=DOMAIN)
        return _status(code, _TO_STRANGERS[code], request_id, info)
    metadata = {key: value[:_LONGEST_TEXT] for key, value in error.metadata.items()}
    info = error_details_pb2.ErrorInfo(reason=error.code, domain=DOMAIN, metadata=metadata)
    return _status(code, error.message[:_LONGEST_TEXT], request_id, info, *_details(error))


def _details(error: DomainError) -> list[Message]:
    match error:
        case InvalidArgumentError(violations=violations):
            fields = [
                error_details_pb2.BadRequest.FieldViolation(
                    field=violation.field[:_LONGEST_TEXT],
                    description=violation.description[:_LONGEST_TEXT],
                    reason=violation.reason,
                )
                for violation in violations[:_MOST_VIOLATIONS]
            ]
            return [error_details_pb2.BadRequest(field_violations=fields)]
        case NotFoundError(resource=resource) | AlreadyExistsError(resource=resource):
            kind = resource.split("/")[-2] if "/" in resource else ""
            return [error_details_pb2.ResourceInfo(resource_type=kind, resource_name=resource[:_LONGEST_TEXT])]
        case PreconditionError(resource=resource, code=code, message=message):
            violation = error_details_pb2.PreconditionFailure.Violation(
                type=code, subject=resource, description=message[:_LONGEST_TEXT]
            )
            return [error_details_pb2.PreconditionFailure(violations=[violation])]
        case QuotaExceededError(subject=subject, retry_after=retry_after):
            quota = error_details_pb2.QuotaFailure.Violation(subject=subject, description=error.message)
            details: list[Message] = [error_details_pb2.QuotaFailure(violations=[quota])]
            return details + ([_retry(retry_after.total_seconds())] if retry_after else [])
        case UnavailableError(retry_after=retry_after) | ConflictError(retry_after=retry_after):
            return [_retry(retry_after.total_seconds())]
        case _:
            return []


def _retry(seconds: float) -> error_details_pb2.RetryInfo:
    return error_details_pb2.RetryInfo(retry_delay=Duration(nanos=round(seconds % 1 * 1e9), seconds=int(seconds)))


def _status(code: grpc.StatusCode, message: str, request_id: str, *details: Message) -> status_pb2.Status:
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in (*details, error_details_pb2.RequestInfo(request_id=request_id)):
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status
