"""What Envoy is told to do: each decision as the answer to its Check.

The strangers' answer is 404 and nothing else. Envoy makes of every 404 of its own, its routes' and ours the same bytes,
in one place, so that nothing tells them apart.
"""

import json
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from google.rpc import code_pb2, status_pb2

from bulkhead.envoy.v3 import check_pb2
from control_plane.serving import context
from ext_authz.authz.decide import Refused
from ext_authz.authz.methods import Wire
from ext_authz.authz.request import Asked
from ext_authz.budgets.model import Taken
from ext_authz.leases.grants import GRANT

_CODES: Final = {
    401: code_pb2.UNAUTHENTICATED,
    403: code_pb2.PERMISSION_DENIED,
    429: code_pb2.RESOURCE_EXHAUSTED,
    503: code_pb2.UNAVAILABLE,
}
_POLICY, _RATE = "ratelimit-policy", "ratelimit"
# What was meant for us, and what upstream could take for more than it is.
_REMOVED: Final = ("authorization", "x-tenant-id", "x-bulkhead-tenant")
_OVERWRITE: Final = check_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD

STRANGER: Final = check_pb2.CheckResponse(
    status=status_pb2.Status(code=code_pb2.PERMISSION_DENIED),
    denied_response=check_pb2.DeniedHttpResponse(status=check_pb2.HttpStatus(code=404)),
).SerializeToString()
"""The one answer for strangers."""


def admitted(signed_context: str, *, taken: Taken, lease: str = "") -> bytes:
    """Let the request through with its signed context, and with a lease for more like it."""
    response = check_pb2.CheckResponse.FromString(_ADMITTED)
    response.ok_response.headers[0].header.value = signed_context
    fields = _rate_fields(taken)
    for field in response.ok_response.response_headers_to_add:
        field.header.value = fields[field.header.key]
    if lease:
        response.ok_response.response_headers_to_add.extend(_headers({GRANT: lease}))
    return response.SerializeToString()


def stranger(repeated: str) -> bytes:
    """Give strangers their one answer, and have that repeated."""
    response = check_pb2.CheckResponse.FromString(STRANGER)
    response.denied_response.headers.extend(_headers({GRANT: repeated}))
    return response.SerializeToString()


def limited(asked: Asked, *, taken: Taken, held: str = "") -> bytes:
    """Refuse the request for its tenant's rate, and say when another one would be admitted; have that repeated."""
    retry_after_s, window = _whole_seconds(taken), taken.window
    detail = f"the tenant's {window.limit} {window.unit} of this {window.period} are used up; more in {retry_after_s} s"
    refused = Refused(status=429, code="RATE_LIMITED", detail=detail, retry_after_s=retry_after_s)
    more = _rate_fields(taken)
    return refusal(asked, refused, more={**more, GRANT: held} if held else more)


def refusal(asked: Asked, refused: Refused, *, more: Mapping[str, str] | None = None) -> bytes:
    """Refuse the request, and say why: as a problem (RFC 9457), or as the message of a gRPC status."""
    headers = {"x-bulkhead-reason": refused.code, **(more or {})}
    if refused.retry_after_s is not None:
        headers["retry-after"] = str(refused.retry_after_s)
    if refused.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = 'Bearer error="invalid_token"'
    if asked.wire is Wire.HTTP:
        headers["content-type"] = "application/problem+json"
    else:
        # Envoy has its own idea of which status a 429 is.
        headers["grpc-status"] = str(_CODES[refused.status])
    response = check_pb2.CheckResponse(
        status=status_pb2.Status(code=_CODES[refused.status]),
        denied_response=check_pb2.DeniedHttpResponse(
            status=check_pb2.HttpStatus(code=refused.status),
            headers=_headers(headers),
            body=_problem(asked, refused) if asked.wire is Wire.HTTP else refused.detail,
        ),
    )
    return response.SerializeToString()


def _problem(asked: Asked, refused: Refused) -> str:
    return json.dumps(
        {
            "type": "about:blank",
            "title": HTTPStatus(refused.status).phrase,
            "status": refused.status,
            "code": refused.code,
            "detail": refused.detail,
            "instance": asked.request_id,
        }
    )


def _rate_fields(taken: Taken) -> dict[str, str]:
    """Write the fields of draft-ietf-httpapi-ratelimit-headers-11 for the tightest window."""
    window = taken.window
    return {
        _POLICY: f'"{window.name}";q={window.limit};w={window.length_s}',
        _RATE: f'"{window.name}";r={taken.remaining};t={_whole_seconds(taken)}',
    }


def _whole_seconds(taken: Taken) -> int:
    """Round up: a retry that comes a moment too early is refused again."""
    return max(1, math.ceil(taken.reset_s))


def _headers(values: Mapping[str, str]) -> list[check_pb2.HeaderValueOption]:
    return [
        check_pb2.HeaderValueOption(header=check_pb2.HeaderValue(key=key, value=value), append_action=_OVERWRITE)
        for key, value in values.items()
    ]


# What all admissions have in common, made once; the values are set in it.
_ADMITTED: Final = check_pb2.CheckResponse(
    status=status_pb2.Status(code=code_pb2.OK),
    ok_response=check_pb2.OkHttpResponse(
        headers=_headers({context.HEADER: ""}),
        headers_to_remove=_REMOVED,
        response_headers_to_add=_headers({_POLICY: "", _RATE: ""}),
    ),
).SerializeToString()
