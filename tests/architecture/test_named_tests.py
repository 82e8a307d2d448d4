"""Every RPC is called by name in a test of its own, beside those which are derived from all the rules at once."""

import ast
from pathlib import Path
from typing import Final

import pytest

from control_plane.serving.rules import PLATFORM_FILES

TESTS: Final = Path(__file__).parents[1]
# What processes say to each other is tried by what they do.
BETWEEN_PROCESSES: Final = "bulkhead.edge.v1"
RPCS: Final = [
    method.name
    for file in PLATFORM_FILES
    if file.package != BETWEEN_PROCESSES
    for service in file.services_by_name.values()
    for method in service.methods
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
