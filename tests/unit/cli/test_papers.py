"""`docs/errors.md` is complete: scripts are written after it."""

import ast
import re
from pathlib import Path
from typing import Final

import grpc

from control_plane import errors
from control_plane.cli.calls.failures import Failure

ROOT: Final = Path(__file__).parents[3]
PAGE: Final = (ROOT / "docs" / "errors.md").read_text()
# Of classes whose every use has a reason of its own.
NEVER_SHOWN: Final = {"FAILED_PRECONDITION"}


def reasons_in_code() -> set[str]:
    """Collect the reasons of errors: the classes' own, and those that are given where one is raised."""
    found = {kind.reason for kind in (*errors.DomainError.__subclasses__(), *errors.PreconditionError.__subclasses__())}
    for path in (ROOT / "control_plane").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("Error", "failed", "Failure")):
                found |= {
                    keyword.value.value
                    for keyword in node.keywords
                    if keyword.arg == "reason"
                    and isinstance(keyword.value, ast.Constant)
                    and isinstance(keyword.value.value, str)
                }
            if isinstance(node, ast.ClassDef) and path.name == "failures.py":
                found |= set(re.findall(r"reason(?:: ClassVar\[str\])? = '([A-Z_]+)'", ast.unparse(node)))
    return found - NEVER_SHOWN


def test_every_reason_is_on_the_page_and_nothing_else_is() -> None:
    tables = PAGE.partition("## Reasons")[2].partition("## Calling twice")[0]
    first_cells = re.findall(r"^\| (`[^|]+`) \|", tables, re.MULTILINE)
    listed = {reason for cell in first_cells for reason in re.findall(r"`([A-Z_]+)`", cell)}

    assert listed == reasons_in_code()


def test_every_status_is_on_the_page_with_its_exit_code() -> None:
    rows = re.findall(r"^\| (\d) \| [^|]+ \| ([A-Z_, ]+) \|$", PAGE, re.MULTILINE)
    listed = {status: int(code) for code, statuses in rows for status in statuses.split(", ")}

    assert listed == {
        code.name: Failure(code=code.name, message="").exit_code if code is not grpc.StatusCode.OK else 0
        for code in grpc.StatusCode
    }
