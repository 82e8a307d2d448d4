"""What a request may not set: fields that are the server's to say, fields that nobody knows, fields beside the mask."""

import secrets
from collections.abc import Mapping
from typing import Any, Final

import pytest
from google.api import field_behavior_pb2
from google.longrunning import operations_pb2
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from bulkhead.v1 import tenant_requests_pb2, tenants_pb2
from tests.isolation.rpc_callers import World
from tests.isolation.rpc_requests import METHODS, path, request

BEHAVIOUR: Final[Any] = field_behavior_pb2.field_behavior  # typed as a plain descriptor, no key of an extension map
SERVERS_OWN: Final = {field_behavior_pb2.OUTPUT_ONLY, field_behavior_pb2.IMMUTABLE, field_behavior_pb2.IDENTIFIER}
# A field with the number 5000 of each wire type: a number, eight bytes, a text, four bytes.
UNKNOWN: Final = (
    b"\xc0\xb8\x02\x07" + b"\xc1\xb8\x02" + b"\x07" * 8 + b"\xc2\xb8\x02\x03abc" + b"\xc5\xb8\x02" + b"\x07" * 4
)
CHANGED_BY_AN_UPDATE: Final = {"display_name", "update_time", "etag"}
CREATE: Final = "/bulkhead.v1.TenantService/CreateTenant"
WAIT: Final = "/google.longrunning.Operations/WaitOperation"
GET: Final = "/bulkhead.v1.TenantService/GetTenant"
UPDATE: Final = "/bulkhead.v1.TenantService/UpdateTenant"

_CLAIMS: Final[Mapping[int, Any]] = {FieldDescriptor.TYPE_BOOL: True, FieldDescriptor.TYPE_INT64: 2**62}


def _servers_own(*behaviours: int) -> list[FieldDescriptor]:
    fields = tenants_pb2.Tenant.DESCRIPTOR.fields
    return [field for field in fields if set(behaviours) & set(field.GetOptions().Extensions[BEHAVIOUR])]


def _tenant(world: World, tenant: str) -> tenants_pb2.Tenant:
    asked = tenant_requests_pb2.GetTenantRequest(name=f"tenants/{tenant}")
    return tenants_pb2.Tenant.FromString(world.ask("platform-admin", GET, asked).body)


def _forged(*behaviours: int) -> tenants_pb2.Tenant:
    """Claim what is the server's to say, each with a value of the right type."""
    forged = tenants_pb2.Tenant()
    for field in _servers_own(*behaviours):
        _claim(forged, field)
    return forged


def _claim(message: Any, field: FieldDescriptor) -> None:
    if field.message_type is not None:
        getattr(message, field.name).FromJsonString("2001-01-01T00:00:00Z")
    elif field.enum_type is not None:
        setattr(message, field.name, max(field.enum_type.values_by_number))
    else:
        setattr(message, field.name, _CLAIMS.get(field.type, "claimed"))


@pytest.mark.parametrize("field", [field.name for field in _servers_own(*SERVERS_OWN)] + ["etag", "nothing"])
@pytest.mark.behaviour("T-A2")
def test_a_mask_that_names_a_field_of_the_servers_own_is_refused(field: str, world: World) -> None:
    before = _tenant(world, world.own.tenant)
    asked = tenants_pb2.UpdateTenantRequest(tenant=_forged(*SERVERS_OWN))
    asked.tenant.name = before.name
    asked.update_mask.paths.extend(["display_name", field])

    answer = world.ask("platform-admin", UPDATE, asked)

    assert answer.code == "INVALID_ARGUMENT"
    assert field in answer.text
    assert _tenant(world, world.own.tenant) == before


@pytest.mark.behaviour("T-A2")
def test_an_update_takes_the_masks_fields_and_ignores_what_else_is_claimed(world: World) -> None:
    before = _tenant(world, world.own.tenant)
    asked = tenants_pb2.UpdateTenantRequest(tenant=_forged(*SERVERS_OWN))
    asked.tenant.MergeFrom(tenants_pb2.Tenant(name=before.name, tier="enterprise", display_name="renamed"))
    asked.update_mask.paths.append("display_name")

    answer = world.ask("platform-admin", UPDATE, asked)

    after = _tenant(world, world.own.tenant)
    names = [field.name for field in tenants_pb2.Tenant.DESCRIPTOR.fields]
    assert answer.code == "OK"
    assert {name for name in names if getattr(after, name) != getattr(before, name)} == CHANGED_BY_AN_UPDATE


@pytest.mark.behaviour("T-A2")
def test_a_creation_takes_nothing_that_is_the_servers_to_say(world: World) -> None:
    tenant = f"fields_{secrets.token_hex(4)}"
    forged = _forged(field_behavior_pb2.OUTPUT_ONLY)

    answer = world.ask("platform-admin", CREATE, tenants_pb2.CreateTenantRequest(tenant_id=tenant, tenant=forged))

    operation = operations_pb2.Operation.FromString(answer.body)
    world.ask("platform-admin", WAIT, operations_pb2.WaitOperationRequest(name=operation.name))
    made = _tenant(world, tenant)
    taken = [it.name for it in _servers_own(field_behavior_pb2.OUTPUT_ONLY) if _value(made, it) == _value(forged, it)]
    assert made.state == tenants_pb2.Tenant.ACTIVE
    assert taken == []


def _value(message: Message, field: FieldDescriptor) -> object:
    return getattr(message, field.name)


@pytest.mark.parametrize("method", METHODS, ids=path)
@pytest.mark.behaviour("T-A2")
def test_fields_that_nobody_knows_change_no_answer(method: MethodDescriptor, world: World) -> None:
    caller = world.permitted(method)
    message: Message = request(method, world.own)

    answers = [world.ask(caller, path(method), message, appended=more) for more in (b"", UNKNOWN)]

    assert answers[0].code == answers[1].code
    assert answers[0].reason == answers[1].reason
