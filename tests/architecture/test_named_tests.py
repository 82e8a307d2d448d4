"""Every RPC is called by name in a test of its own, beside those which are derived from all the rules at once."""

import ast
from pathlib import Path
from typing import Final

import pytest

from bulkhead.v1 import audit_pb2, certificates_pb2, edges_pb2, isolation_pb2, keys_pb2, tenants_pb2, tokens_pb2

TESTS: Final = Path(__file__).parents[1]
FILES: Final = (audit_pb2, certificates_pb2, edges_pb2, isolation_pb2, keys_pb2, tenants_pb2, tokens_pb2)
RPCS: Final = [
    method.name for file in FILES for service in file.DESCRIPTOR.services_by_name.values() for method in service.methods
]


def _called_in_tests() -> set[str]:
    """Collect what test modules call as a method, such as the `GetTenant` of `stub.GetTenant(…)`."""
    nodes = (
        node
        for path in TESTS.rglob("test_*.py")
        if TESTS / "architecture" not in path.parents
        for node in ast.walk(ast.parse(path.read_text()))
    )
    return {node.func.attr for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)}


CALLED: Final = _called_in_tests()


@pytest.mark.parametrize("rpc", RPCS)
def test_an_rpc_is_called_by_name_in_a_test(rpc: str) -> None:
    assert rpc in CALLED
