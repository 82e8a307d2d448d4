"""The list of mutations is sound: `make leaks` would say the same, later."""

import ast
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from tests.leaks.model import Mutation, file_of
from tests.leaks.mutations import MUTATIONS

ROOT: Final = Path(__file__).parents[2]
EACH: Final = pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: str(mutation.name))


def test_each_wall_has_a_name_of_its_own() -> None:
    assert [name for name, times in Counter(one.name for one in MUTATIONS).items() if times > 1] == []


@EACH
def test_a_wall_stands_where_its_mutation_says(mutation: Mutation) -> None:
    mutant = mutation.applied((ROOT / mutation.file).read_text())

    if mutation.file.endswith(".py"):
        ast.parse(mutant)


@EACH
def test_what_is_to_notice_it_is_there(mutation: Mutation) -> None:
    assert mutation.noticed_by
    assert [one for one in mutation.noticed_by if not _is_there(one)] == []


def _is_there(selection: str) -> bool:
    path = ROOT / file_of(selection)
    if "::" not in selection or not path.exists():
        return path.exists()
    names = selection.partition("::")[2].partition("[")[0].split("::")
    defined = {node.name for node in ast.walk(ast.parse(path.read_text())) if hasattr(node, "name")}
    return set(names) <= defined
