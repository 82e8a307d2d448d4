"""What we say about Envoy's messages is what Envoy says about them: the same numbers, and the same bytes."""

import dataclasses
from typing import Any, Final

import pytest
from betterproto2 import Message
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.service.auth import v3 as auth
from envoy_data_plane.envoy.type.v3 import HttpStatus
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from bulkhead.envoy.v3 import check_pb2
from ext_authz.authz import answers
from ext_authz.authz.request import read_request
from tests.fixtures.edge_budgets import taken
from tests.unit.ext_authz.authz.checks import SHARED, A, Ask

PAIRS: Final[list[tuple[type[Any], type[Any]]]] = [
    (check_pb2.CheckRequest, auth.CheckRequest),
    (check_pb2.AttributeContext, auth.AttributeContext),
    (check_pb2.AttributeContext.Peer, auth.AttributeContextPeer),
    (check_pb2.AttributeContext.Request, auth.AttributeContextRequest),
    (check_pb2.AttributeContext.HttpRequest, auth.AttributeContextHttpRequest),
    (check_pb2.AttributeContext.TLSSession, auth.AttributeContextTlsSession),
    (check_pb2.Address, core.Address),
    (check_pb2.SocketAddress, core.SocketAddress),
    (check_pb2.HeaderMap, core.HeaderMap),
    (check_pb2.HeaderValue, core.HeaderValue),
    (check_pb2.HeaderValueOption, core.HeaderValueOption),
    (check_pb2.CheckResponse, auth.CheckResponse),
    (check_pb2.DeniedHttpResponse, auth.DeniedHttpResponse),
    (check_pb2.OkHttpResponse, auth.OkHttpResponse),
    (check_pb2.HttpStatus, HttpStatus),
]
# Written alike: bytes are a string that need not be UTF-8, an enum is a number.
ALIKE: Final = {("bytes", "string"), ("int32", "enum")}
KINDS: Final = {
    number: name.removeprefix("TYPE_").lower()
    for name, number in vars(FieldDescriptor).items()
    if name.startswith("TYPE_") and isinstance(number, int)
}


def test_every_message_of_ours_is_held_to_one_of_envoy_s() -> None:
    messages = list(check_pb2.DESCRIPTOR.message_types_by_name.values())
    nested = [inner for message in messages for inner in message.nested_types if not inner.GetOptions().map_entry]

    assert {ours.DESCRIPTOR.full_name for ours, _ in PAIRS} == {each.full_name for each in (*messages, *nested)}


@pytest.mark.parametrize(("ours", "envoys"), PAIRS, ids=lambda each: each.__name__)
def test_a_field_has_the_number_and_the_type_that_envoy_gives_it(ours: type[Any], envoys: type[Any]) -> None:
    theirs = {field.name: field.metadata["betterproto"] for field in dataclasses.fields(envoys)}
    descriptor: Descriptor = ours.DESCRIPTOR
    faults = []
    for field in descriptor.fields:
        their = theirs[field.name]
        kind = (
            "map" if field.message_type is not None and field.message_type.GetOptions().map_entry else KINDS[field.type]
        )
        is_list = field.is_repeated and kind != "map"
        same = kind == their.proto_type or (kind, their.proto_type) in ALIKE
        if (field.number, is_list) != (their.number, their.repeated) or not same:
            faults.append((field.name, field.number, kind, their))

    assert faults == []


def test_a_map_is_of_text_to_text() -> None:
    entry = check_pb2.AttributeContext.DESCRIPTOR.nested_types_by_name["ContextExtensionsEntry"]
    field = next(f for f in dataclasses.fields(auth.AttributeContext) if f.name == "context_extensions")

    assert [KINDS[each.type] for each in entry.fields] == ["string", "string"]
    assert [each.proto_type for each in field.metadata["betterproto"].map_meta] == ["string", "string"]


def test_overwriting_is_the_number_that_envoy_gives_it() -> None:
    theirs = core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD

    assert theirs.value == check_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


def test_a_check_of_envoy_s_is_read() -> None:
    asked = Ask(token=A.token(), tenant="org_1", sni=b"org-1.csm.example.com", certificate=b"PEM")
    envoys = auth.CheckRequest(
        attributes=auth.AttributeContext(
            source=auth.AttributeContextPeer(
                address=core.Address(socket_address=core.SocketAddress(address="192.0.2.7", port_value=1234)),
                certificate="PEM",
                service="more",
            ),
            destination=auth.AttributeContextPeer(principal="more"),
            request=auth.AttributeContextRequest(
                http=auth.AttributeContextHttpRequest(
                    id="8590",
                    method="GET",
                    path=asked.path,
                    host=asked.host.decode(),
                    scheme="https",
                    protocol="HTTP/2",
                    size=-1,
                    header_map=core.HeaderMap(
                        headers=[core.HeaderValue(key=key, raw_value=value) for key, value in asked.headers()]
                    ),
                )
            ),
            context_extensions={"epoch": "5"},
            tls_session=auth.AttributeContextTlsSession(sni="org-1.csm.example.com"),
        )
    )
    received = check_pb2.CheckRequest.FromString(bytes(envoys))

    assert read_request(received, SHARED) == read_request(asked.check(), SHARED)
    assert read_request(received, SHARED).fault == ""


def test_a_request_that_is_no_text_can_be_read_and_is_refused() -> None:
    check = Ask().check()
    check.attributes.request.http.path = b"/\xff\xfe"
    received = check_pb2.CheckRequest.FromString(check.SerializeToString())

    assert read_request(received, SHARED).fault == "MALFORMED_PATH"


@pytest.mark.parametrize(
    "answer",
    [
        answers.STRANGER,
        answers.admitted("1.e30.x", taken=taken(1, limit=10, remaining=9, reset_s=3.2)),
        answers.limited(read_request(Ask().check(), SHARED), taken=taken(0, limit=10, remaining=0, reset_s=3.2)),
    ],
)
def test_envoy_reads_all_of_an_answer_and_nothing_else(answer: bytes) -> None:
    theirs = auth.CheckResponse.parse(answer)

    assert bytes(theirs) == answer
    assert _unknown(theirs) == []


def _unknown(message: Any) -> list[bytes]:
    found = [message._unknown_fields] if getattr(message, "_unknown_fields", b"") else []
    for field in dataclasses.fields(message):
        value = getattr(message, field.name)
        for each in value if isinstance(value, list) else [value]:
            found += _unknown(each) if isinstance(each, Message) else []
    return found
