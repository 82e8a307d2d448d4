"""Our messages of delta discovery are Envoy's, with fewer fields."""

from dataclasses import fields
from typing import Any

import pytest
from envoy_data_plane.envoy.config.core.v3 import BuildVersion, Node
from envoy_data_plane.envoy.service.discovery.v3 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource
from envoy_data_plane.envoy.type.v3 import SemanticVersion
from google.protobuf.descriptor import FieldDescriptor

from bulkhead.envoy.v3 import discovery_pb2

ENVOYS = {
    kind.__name__: kind
    for kind in (DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource, Node, BuildVersion, SemanticVersion)
}
TYPES = {
    FieldDescriptor.TYPE_MESSAGE: "message",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_UINT32: "uint32",
}


def envoys_field(message: str, field: str) -> tuple[Any, ...]:
    (meta,) = (one.metadata["betterproto"] for one in fields(ENVOYS[message]) if one.name == field)
    return meta.number, meta.proto_type, meta.repeated


def our_field(field: FieldDescriptor) -> tuple[Any, ...]:
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        assert [TYPES[part.type] for part in entry.fields] == ["string", "string"]
        return field.number, "map", False
    return field.number, TYPES[field.type], field.is_repeated


@pytest.mark.parametrize("message", discovery_pb2.DESCRIPTOR.message_types_by_name)
def test_each_field_has_envoys_number_and_type(message: str) -> None:
    ours = discovery_pb2.DESCRIPTOR.message_types_by_name[message].fields

    assert {field.name: our_field(field) for field in ours} == {
        field.name: envoys_field(message, field.name) for field in ours
    }


def test_what_envoy_writes_is_read() -> None:
    version = BuildVersion(version=SemanticVersion(major_number=1, minor_number=40))
    node = Node(id="edge-1", cluster="edge", user_agent_name="envoy", user_agent_build_version=version)
    written = DeltaDiscoveryRequest(
        node=node, type_url="type", resource_names_subscribe=["a"], initial_resource_versions={"a": "1"}
    )
    read = discovery_pb2.DeltaDiscoveryRequest.FromString(bytes(written))

    assert (read.node.id, read.node.user_agent_build_version.version.minor_number) == ("edge-1", 40)
    assert (read.type_url, list(read.resource_names_subscribe), dict(read.initial_resource_versions)) == (
        "type",
        ["a"],
        {"a": "1"},
    )
