"""The shape of the tree: small files, short functions, few modules a package, and names that say what is inside."""

import ast
import statistics
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
OURS: Final = ("control_plane", "ext_authz", "tests", "proto", "envoy", "deploy")
MOST_LINES_OF_A_FILE: Final = 400
MEDIAN_LINES_OF_A_FILE: Final = 120
MOST_LINES_OF_A_FUNCTION: Final = 50
MOST_MODULES_OF_A_PACKAGE: Final = 12
MOST_PARAMETERS: Final = 7
MOST_POSITIONAL_PARAMETERS: Final = 3
# What a function belongs to, rather than what it is told.
RECEIVERS: Final = {"self", "cls", "tx"}
# Names under which anything can be put, so that nothing is found there again.
SAY_NOTHING: Final = {"base", "common", "core", "helper", "helpers", "manager", "misc", "shared", "util", "utils"}
# A package of one of these names would shadow an installed one, or make sources out of data.
NO_PACKAGES: Final = ("envoy", "proto", "deploy")
PRODUCT: Final = ("control_plane/", "ext_authz/")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _files(suffix: str = ".py") -> list[Path]:
    generated = ROOT / "proto" / "gen"
    found = (path for folder in OURS for path in (ROOT / folder).rglob(f"*{suffix}"))
    return sorted(path for path in found if generated not in path.parents)


def _functions() -> Iterator[tuple[str, Function]]:
    for path in _files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, Function):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


@pytest.mark.parametrize("suffix", [".py", ".proto", ".sql", ".lua", ".yaml"])
def test_no_file_is_longer_than_the_cap(suffix: str) -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in _files(suffix)}

    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES_OF_A_FILE} == {}


def test_half_of_the_products_files_are_short() -> None:
    paths = [path for path in _files() if str(path.relative_to(ROOT)).startswith(PRODUCT)]

    assert statistics.median(len(path.read_text().splitlines()) for path in paths) <= MEDIAN_LINES_OF_A_FILE


def test_no_function_is_longer_than_the_cap() -> None:
    lengths = {name: (node.end_lineno or 0) - node.lineno + 1 for name, node in _functions()}

    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES_OF_A_FUNCTION} == {}


def test_no_public_function_takes_more_than_three_values_by_position() -> None:
    """Calls stay readable, and two arguments of one type cannot change places unseen."""
    crowded = [name for name, node in _functions() if name.startswith(PRODUCT) and _is_crowded(node)]

    assert crowded == []


def _is_crowded(node: Function) -> bool:
    if node.name.startswith("_") and node.name != "__init__":
        return False
    named = [arg for arg in [*node.args.posonlyargs, *node.args.args] if arg.arg not in RECEIVERS]
    overrides = any(ast.unparse(decorator) == "override" for decorator in node.decorator_list)
    too_many = len(named) + len(node.args.kwonlyargs) > MOST_PARAMETERS
    return not overrides and (too_many or len(named) > MOST_POSITIONAL_PARAMETERS)


def test_no_package_has_more_modules_than_the_cap() -> None:
    packages = Counter(path.parent.relative_to(ROOT) for path in _files() if path.name != "__init__.py")
    product = {str(name): n for name, n in packages.items() if f"{name}/".startswith(PRODUCT)}

    assert {name: n for name, n in product.items() if n > MOST_MODULES_OF_A_PACKAGE} == {}


def test_no_file_or_folder_has_a_name_that_says_nothing() -> None:
    paths = [path.relative_to(ROOT) for path in _files()]

    assert [str(path) for path in paths if SAY_NOTHING & {path.stem, *path.parent.parts}] == []


@pytest.mark.parametrize("folder", NO_PACKAGES)
def test_a_folder_that_is_no_python_package_has_no_init(folder: str) -> None:
    inits = [path for path in (ROOT / folder).rglob("__init__.py") if ROOT / "proto" / "gen" not in path.parents]

    assert inits == []


def test_a_package_says_what_it_owns() -> None:
    inits = [path for path in _files() if path.name == "__init__.py"]

    assert [str(path.relative_to(ROOT)) for path in inits if not ast.get_docstring(ast.parse(path.read_text()))] == []
