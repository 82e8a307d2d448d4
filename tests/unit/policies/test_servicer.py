"""Whoever got past authorisation without being an edge speaks for none."""

from contextvars import copy_context
from typing import Any, cast

import pytest

from bulkhead.v1 import rules_pb2
from control_plane.policies import servicer
from control_plane.serving.call import Call, begin_call
from control_plane.serving.principal import Principal, Role


def call_of(principal: Principal | None) -> Call:
    nothing = cast("Any", None)
    return Call(method="/x", rule=rules_pb2.Rule(), database=nothing, recorder=nothing, principal=principal)


def caller(principal: Principal | None) -> str:
    begin_call(call_of(principal))
    return servicer._caller()


def test_an_edge_speaks_for_itself() -> None:
    assert copy_context().run(caller, Principal(subject="edge-1", role=Role.EDGE)) == "edge-1"


@pytest.mark.parametrize("principal", [None, Principal(subject="edge-1", role=Role.PLATFORM_ADMIN)])
def test_nobody_else_speaks_for_an_edge(principal: Principal | None) -> None:
    with pytest.raises(RuntimeError, match="only an edge"):
        copy_context().run(caller, principal)
