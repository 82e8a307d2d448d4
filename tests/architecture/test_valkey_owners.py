"""Who may speak to Valkey: nobody outside three packages, and to the tenants' cache nobody but through its handle.

`.importlinter` says the same, and `make lint` asks it; here it is read off the sources, so that a contract that is lost
is noticed.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PRODUCT: Final = ("control_plane", "ext_authz")
OWNERS: Final = ("control_plane.cache.", "control_plane.stack.", "ext_authz.budgets.")
RAW: Final = ("control_plane.cache.connection", "control_plane.cache.pool")


def imports() -> Iterator[tuple[str, str]]:
    """Go through what each module imports."""
    for folder in PRODUCT:
        for path in (ROOT / folder).rglob("*.py"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    yield from ((module, alias.name) for alias in node.names)
                elif isinstance(node, ast.ImportFrom):
                    yield module, node.module or ""
                    yield from ((module, f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.behaviour("S1.10")
def test_three_packages_import_a_client() -> None:
    importers = {module for module, name in imports() if name.split(".")[0] in {"redis", "valkey"}}

    assert importers
    assert [module for module in importers if not module.startswith(OWNERS)] == []


@pytest.mark.behaviour("S1.10")
def test_nobody_outside_the_cache_has_a_connection_of_it() -> None:
    importers = {module for module, name in imports() if name.startswith(RAW)}

    assert importers
    assert [module for module in importers if not module.startswith("control_plane.cache.")] == []


def test_the_edge_knows_nothing_of_the_tenants_cache() -> None:
    assert [
        module for module, name in imports() if module.startswith("ext_authz") and "control_plane.cache" in name
    ] == []


def test_the_linter_is_told_the_same() -> None:
    contracts = (ROOT / ".importlinter").read_text()

    assert "protected_modules = redis\n" in contracts
    assert all(f"    {module}\n" in contracts for module in RAW)
