"""What Envoy answers by itself, and the one answer for strangers.

A 404 that does not come from the service is the strangers' answer, whoever made it: Envoy where no scope or no route
fits, a suspended tenant's route, or the agent. Here it becomes a 403 with the same bytes for all of them, and nothing
else made by us is a 404. Other answers are problems (RFC 9457) with a code, and hold no word of what went wrong inside.
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

PROBLEM: Final = "application/problem+json"


@dataclass(frozen=True, slots=True)
class _Answer:
    """What is said where something else fails than the caller's right to ask."""

    status: int
    title: str
    code: str
    headers: Mapping[str, str] = field(default_factory=dict)


_SOON: Final = {"retry-after": "1"}
_STRANGER: Final = _Answer(403, "Forbidden", "ACCESS_DENIED", {"www-authenticate": "Bearer"})
_STRANGERS_MESSAGE: Final = "access denied"
_OTHERS: Final = (
    _Answer(400, "Bad Request", "REQUEST_MALFORMED"),
    _Answer(408, "Request Timeout", "REQUEST_TIMEOUT"),
    _Answer(413, "Content Too Large", "REQUEST_TOO_LARGE"),
    _Answer(426, "Upgrade Required", "HTTP_VERSION_NOT_SUPPORTED"),
    _Answer(429, "Too Many Requests", "SOURCE_RATE_LIMITED", _SOON),
    _Answer(431, "Request Header Fields Too Large", "HEADERS_TOO_LARGE"),
    _Answer(500, "Internal Server Error", "INTERNAL"),
    _Answer(502, "Bad Gateway", "UPSTREAM_FAILED"),
    _Answer(503, "Service Unavailable", "UNAVAILABLE", _SOON),
    _Answer(504, "Gateway Timeout", "DEADLINE_EXCEEDED"),
)


def local_replies() -> LocalReplyConfig:
    """Return the answers; the first that fits is taken."""
    return LocalReplyConfig(mappers=list(_mappers()), body_format=_text(_body("%RESPONSE_CODE%", "Refused", "REFUSED")))


def _mappers() -> Iterator[ResponseMapper]:
    yield from _strangers(404)
    # What the agent says to a tenant's own callers stays as it is.
    yield ResponseMapper(filter=_by_agent(), body_format_override=_text("%LOCAL_REPLY_BODY%"))
    # Envoy's own: a protocol that nobody upgrades to.
    yield from _strangers(403)
    for answer in _OTHERS:
        yield _grpc_mapper(answer.status, answer, answer.title.lower())
        yield _http_mapper(answer.status, answer)


def _strangers(status: int) -> Iterator[ResponseMapper]:
    yield _grpc_mapper(status, _STRANGER, _STRANGERS_MESSAGE)
    yield _http_mapper(status, _STRANGER)


def _grpc_mapper(status: int, answer: _Answer, message: str) -> ResponseMapper:
    """Return what gRPC's callers get: the body becomes the status's message, and the HTTP status its code."""
    return ResponseMapper(
        filter=AccessLogFilter(and_filter=AndFilter(filters=[_status(status), *_from_grpc()])),
        status_code=answer.status,
        body_format_override=_text(message),
        headers_to_add=_headers(answer),
    )


def _http_mapper(status: int, answer: _Answer) -> ResponseMapper:
    return ResponseMapper(
        filter=_status(status),
        status_code=answer.status,
        body_format_override=_text(_body(str(answer.status), answer.title, answer.code)),
        headers_to_add=_headers(answer),
    )


def _body(status: str, title: str, code: str) -> str:
    # The id is Envoy's own, never the caller's, so that nothing in it needs quoting.
    request = "%REQ(X-REQUEST-ID)%"
    return f'{{"type":"about:blank","title":"{title}","status":{status},"code":"{code}","instance":"{request}"}}'


def _text(text: str) -> SubstitutionFormatString:
    return SubstitutionFormatString(text_format_source=DataSource(inline_string=text), content_type=PROBLEM)


def _headers(answer: _Answer) -> list[HeaderValueOption]:
    overwrite = HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
    return [
        HeaderValueOption(header=HeaderValue(key=key, value=value), append_action=overwrite)
        for key, value in answer.headers.items()
    ]


def _status(status: int) -> AccessLogFilter:
    value = RuntimeUInt32(default_value=status, runtime_key="bulkhead.answers.status")
    return AccessLogFilter(
        status_code_filter=StatusCodeFilter(comparison=ComparisonFilter(op=ComparisonFilterOp.EQ, value=value))
    )


def _from_grpc() -> list[AccessLogFilter]:
    """Return what tells a gRPC request from a REST request, which looks like one after it was transcoded."""
    grpc = StringMatcher(safe_regex=RegexMatcher(regex=r"application/grpc(\+.*)?"))
    return [
        _header(HeaderMatcher(name="content-type", string_match=grpc)),
        _header(HeaderMatcher(name="x-envoy-original-path", present_match=False)),
    ]


def _header(matcher: HeaderMatcher) -> AccessLogFilter:
    return AccessLogFilter(header_filter=HeaderFilter(header=matcher))


def _by_agent() -> AccessLogFilter:
    expression = ExpressionFilter(expression='response.code_details == "ext_authz_denied"')
    return AccessLogFilter(
        extension_filter=ExtensionFilter(
            name="envoy.access_loggers.extension_filters.cel", typed_config=Any.pack(expression)
        )
    )
