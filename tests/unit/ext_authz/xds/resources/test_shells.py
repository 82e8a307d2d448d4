"""Our parts of Envoy's route messages have Envoy's numbers and types."""

import importlib

import betterproto2
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from bulkhead.envoy.v3 import routes_pb2

MODULES = {
    "ExtAuthzPerRoute": "extensions.filters.http.ext_authz.v3",
    "CheckSettings": "extensions.filters.http.ext_authz.v3",
    "StringMatcher": "type.matcher.v3",
    "RegexMatcher": "type.matcher.v3",
}
TYPES = {
    FieldDescriptor.TYPE_STRING: betterproto2.TYPE_STRING,
    FieldDescriptor.TYPE_BOOL: betterproto2.TYPE_BOOL,
    FieldDescriptor.TYPE_MESSAGE: betterproto2.TYPE_MESSAGE,
}


def _messages(found: list[Descriptor]) -> list[Descriptor]:
    return [one for message in found for one in (message, *_messages(list(message.nested_types)))]


ALL = [
    message
    for message in _messages(list(routes_pb2.DESCRIPTOR.message_types_by_name.values()))
    if not message.GetOptions().map_entry
]


@pytest.mark.parametrize("message", ALL, ids=lambda message: message.full_name)
def test_every_field_is_envoys(message: Descriptor) -> None:
    name = message.full_name.removeprefix("bulkhead.envoy.v3.")
    module = importlib.import_module(f"envoy_data_plane.envoy.{MODULES.get(name.partition('.')[0], 'config.route.v3')}")
    theirs = getattr(module, name.replace(".", "")).__dataclass_fields__

    for field in message.fields:
        meta = betterproto2.FieldMetadata.get(theirs[field.name])
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        assert meta.number == field.number
        assert meta.proto_type == (betterproto2.TYPE_MAP if is_map else TYPES[field.type])
        assert meta.repeated == (field.is_repeated and not is_map)
