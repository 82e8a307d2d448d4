"""Google's services, whose rules are a table of ours, and what each listener does not serve at all."""

import itertools
from collections.abc import Iterator
from typing import Any, Final
from uuid import uuid4

import grpc
import pytest
from google.longrunning import operations_pb2
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from bulkhead.v1 import rules_pb2
from control_plane.serving.rules import GOOGLE_RULES
from tests.isolation.rpc_callers import Caller, World
from tests.isolation.rpc_requests import METHODS, path, request

OPERATION: Final = f"operations/{uuid4()}"
REFLECTION: Final = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
REQUESTS: Final[dict[str, tuple[Message, str]]] = {
    "/google.longrunning.Operations/GetOperation": (operations_pb2.GetOperationRequest(name=OPERATION), "NOT_FOUND"),
    "/google.longrunning.Operations/WaitOperation": (operations_pb2.WaitOperationRequest(name=OPERATION), "NOT_FOUND"),
    "/google.longrunning.Operations/ListOperations": (operations_pb2.ListOperationsRequest(), "OK"),
    "/grpc.health.v1.Health/Check": (health_pb2.HealthCheckRequest(), "OK"),
}
STREAMS: Final = {REFLECTION, "/grpc.health.v1.Health/Watch"}
# By whether the listener is for internal services and whether it is the certificate service's.
LISTENERS: Final = list(itertools.product((False, True), repeat=2))


def test_every_rule_of_googles_services_is_tested_here() -> None:
    assert REQUESTS.keys() | STREAMS == GOOGLE_RULES.keys()


def _may(rule: rules_pb2.Rule, caller: Caller) -> bool:
    return rule.unauthenticated or caller.role in rule.roles


def _no(caller: Caller) -> str:
    return "UNAUTHENTICATED" if caller.role is None else "PERMISSION_DENIED"


@pytest.mark.parametrize("method", REQUESTS)
@pytest.mark.behaviour("T-A3", "H1")
def test_googles_services_serve_exactly_the_callers_that_the_table_names(method: str, world: World) -> None:
    asked, served = REQUESTS[method]
    expected = {name: served if _may(GOOGLE_RULES[method], who) else _no(who) for name, who in world.callers.items()}

    assert {name: world.ask(name, method, asked).code for name in world.callers} == expected


def _first_word(world: World, caller: str, *, listener: tuple[bool, bool]) -> str:
    """Ask for the list of services; return the code, or OK as soon as something comes back."""
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    send: Any = world.channels[listener].stream_stream(
        REFLECTION,
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    stream: Iterator[reflection_pb2.ServerReflectionResponse]
    stream = send(iter([asked]), metadata=world.callers[caller].shown(), timeout=30)
    try:
        next(stream)
    except grpc.RpcError as error:
        call: Any = error
        return str(call.code().name)
    return "OK"


@pytest.mark.behaviour("T-E19", "H21")
def test_the_names_of_the_methods_are_told_to_the_platforms_people_alone(world: World) -> None:
    outsiders = [name for name, caller in world.callers.items() if not caller.is_internal]
    operators = {rules_pb2.ROLE_PLATFORM_ADMIN, rules_pb2.ROLE_PROVIDER_OPERATOR}
    told = {name for name in outsiders if _first_word(world, name, listener=(False, False)) == "OK"}

    assert told == {name for name in outsiders if world.callers[name].role in operators}


@pytest.mark.parametrize("listener", [listener for listener in LISTENERS if any(listener)])
@pytest.mark.behaviour("T-E19", "H21")
def test_no_other_listener_has_reflection(listener: tuple[bool, bool], world: World) -> None:
    assert _first_word(world, "platform-admin", listener=listener) == "UNIMPLEMENTED"


@pytest.mark.parametrize("listener", LISTENERS)
def test_a_process_serves_its_own_services_and_no_others(listener: tuple[bool, bool], world: World) -> None:
    _, of_certificates = listener
    codes: dict[str, str] = {}
    for method in METHODS:
        if ("CertificateService" in method.full_name) != of_certificates:
            send: Any = world.channels[listener].unary_unary(path(method))
            with pytest.raises(grpc.RpcError) as raised:
                send(request(method, world.own).SerializeToString(), metadata=world.callers["platform-admin"].metadata)
            refused: Any = raised.value
            codes[path(method)] = refused.code().name

    assert set(codes.values()) == {"UNIMPLEMENTED"}
