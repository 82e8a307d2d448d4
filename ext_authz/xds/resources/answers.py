"""What Envoy answers by itself, and the one answer for strangers.

A 404 that does not come from the service is the strangers' answer, whoever made it: Envoy where no scope or no route
fits, which a suspended tenant has none of, or the agent. Here it becomes a 403 with the same bytes for all of them, and
nothing else made by us is a 404. Other answers are problems (RFC 9457) with a code, and hold no word of what went wrong
inside.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLogFilter,
    AndFilter,
    ComparisonFilter,
    ComparisonFilterOp,
    ExtensionFilter,
    HeaderFilter,
    StatusCodeFilter,
)
from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    RuntimeUInt32,
    SubstitutionFormatString,
)
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher
from envoy_data_plane.envoy.extensions.access_loggers.filters.cel.v3 import ExpressionFilter
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    LocalReplyConfig,
    ResponseMapper,
)
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher
from envoy_data_plane.google.protobuf import Any

from ext_authz.leases.grants import HELD
from ext_authz.leases.lines import LEASED, SERVED
from ext_authz.xds.resources.filters import CONTEXT, GRPC, HELD_FOR, LEASE

PROBLEM: Final = "application/problem+json"


@dataclass(frozen=True, slots=True)
class _Answer:
    """What is said where something else fails than the caller's right to ask."""

    status: int
    title: str
    code: str
    headers: Mapping[str, str] = field(default_factory=dict)
    grpc_status: str = ""
    """Where Envoy has another idea of it."""


_SOON: Final = {"retry-after": "1"}
_STRANGER: Final = _Answer(403, "Forbidden", "ACCESS_DENIED", {"www-authenticate": "Bearer"})
_STRANGERS_MESSAGE: Final = "access denied"
_RATE: Final = _Answer(
    429,
    "Too Many Requests",
    "RATE_LIMITED",
    {"retry-after": f"%REQ({HELD_FOR})%", "x-bulkhead-reason": "RATE_LIMITED"},
    grpc_status="8",
)
_MALFORMED: Final = _Answer(400, "Bad Request", "REQUEST_MALFORMED")
_UNAVAILABLE: Final = _Answer(503, "Service Unavailable", "UNAVAILABLE", _SOON)
_OTHERS: Final = (
    _Answer(408, "Request Timeout", "REQUEST_TIMEOUT"),
    _Answer(413, "Content Too Large", "REQUEST_TOO_LARGE"),
    _Answer(426, "Upgrade Required", "HTTP_VERSION_NOT_SUPPORTED"),
    _Answer(429, "Too Many Requests", "SOURCE_RATE_LIMITED", _SOON),
    _Answer(431, "Request Header Fields Too Large", "HEADERS_TOO_LARGE"),
    _Answer(500, "Internal Server Error", "INTERNAL"),
    _Answer(502, "Bad Gateway", "UPSTREAM_FAILED"),
    _Answer(504, "Gateway Timeout", "DEADLINE_EXCEEDED"),
)
_LEADS_ON: Final = f'xds.route_name in ["{SERVED}", "{LEASED}"]'
_NOT_ADMITTED: Final = f'response.code_details.startsWith("rbac_access_denied") && {_LEADS_ON}'
_LIMITED: Final = f'xds.route_name == "{HELD}" && response.code_details == "direct_response"'
_REASONED: Final = 'response.code_details == "ext_authz_denied" && "x-bulkhead-reason" in response.headers'
_OUT_OF_ORDER: Final = 'response.code_details == "ext_authz_denied" || response.code_details == "ext_authz_invalid"'
# A route has limits that come sooner.
_HELD: Final = 'response.code_details == "stream_idle_timeout"'
# `filters.py` says what is not admitted.
_MISREAD: Final = f'{_NOT_ADMITTED} && "{CONTEXT}" in request.headers && !("{LEASE}" in request.headers)'


def local_replies() -> LocalReplyConfig:
    """Return the answers; the first that fits is taken."""
    return LocalReplyConfig(mappers=list(_mappers()), body_format=_text(_body("%RESPONSE_CODE%", "Refused", "REFUSED")))


def _mappers() -> Iterator[ResponseMapper]:
    yield from _both(_status(404), _STRANGER, _STRANGERS_MESSAGE)
    # What the agent says to a tenant's own callers stays as it is.
    yield ResponseMapper(filter=_cel(_REASONED), body_format_override=_text("%LOCAL_REPLY_BODY%"))
    yield from _both(_cel(_LIMITED), _RATE)
    # What denies without a reason, or would set headers that are none, is no agent of ours.
    yield from _both(_cel(_OUT_OF_ORDER), _UNAVAILABLE)
    # A tenant's first request, when the agent does not send its routes.
    yield from _both(_cel(_HELD), _UNAVAILABLE)
    yield from _both(_cel(_MISREAD), _MALFORMED)
    # The agent admits, and vouches for nobody: it is out of order.
    yield from _both(_cel(_NOT_ADMITTED), _UNAVAILABLE)
    # Envoy's own: a protocol that nobody upgrades to.
    yield from _both(_status(403), _STRANGER, _STRANGERS_MESSAGE)
    for answer in (_MALFORMED, _UNAVAILABLE, *_OTHERS):
        yield from _both(_status(answer.status), answer)


def _both(condition: AccessLogFilter, answer: _Answer, message: str = "") -> Iterator[ResponseMapper]:
    """Yield what gRPC's callers get, the body as their message and the status as their code; then what others get."""
    from_grpc = AccessLogFilter(and_filter=AndFilter(filters=[condition, *_from_grpc()]))
    problem = _body(str(answer.status), answer.title, answer.code)
    status = {"grpc-status": answer.grpc_status} if answer.grpc_status else {}
    for each, text, more in ((from_grpc, message or answer.title.lower(), status), (condition, problem, {})):
        yield ResponseMapper(
            filter=each,
            status_code=answer.status,
            body_format_override=_text(text),
            headers_to_add=_headers({**answer.headers, **more}),
        )


def _body(status: str, title: str, code: str) -> str:
    # The id is Envoy's own, never the caller's, so that nothing in it needs quoting.
    request = "%REQ(X-REQUEST-ID)%"
    return f'{{"type":"about:blank","title":"{title}","status":{status},"code":"{code}","instance":"{request}"}}'


def _text(text: str) -> SubstitutionFormatString:
    return SubstitutionFormatString(text_format_source=DataSource(inline_string=text), content_type=PROBLEM)


def _headers(values: Mapping[str, str]) -> list[HeaderValueOption]:
    overwrite = HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
    return [
        HeaderValueOption(header=HeaderValue(key=key, value=value), append_action=overwrite)
        for key, value in values.items()
    ]


def _status(status: int) -> AccessLogFilter:
    value = RuntimeUInt32(default_value=status, runtime_key="bulkhead.answers.status")
    return AccessLogFilter(
        status_code_filter=StatusCodeFilter(comparison=ComparisonFilter(op=ComparisonFilterOp.EQ, value=value))
    )


def _from_grpc() -> list[AccessLogFilter]:
    """Return what tells a gRPC request from a REST request, which looks like one after it was transcoded."""
    grpc = StringMatcher(safe_regex=RegexMatcher(regex=GRPC))
    return [
        _header(HeaderMatcher(name="content-type", string_match=grpc)),
        _header(HeaderMatcher(name="x-envoy-original-path", present_match=False)),
    ]


def _header(matcher: HeaderMatcher) -> AccessLogFilter:
    return AccessLogFilter(header_filter=HeaderFilter(header=matcher))


def _cel(expression: str) -> AccessLogFilter:
    return AccessLogFilter(
        extension_filter=ExtensionFilter(
            name="envoy.access_loggers.extension_filters.cel",
            typed_config=Any.pack(ExpressionFilter(expression=expression)),
        )
    )
