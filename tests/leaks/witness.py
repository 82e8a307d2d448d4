"""A plugin of pytest that sees what becomes of a mutant, and writes it down. Imports nothing of ours.

It is put into each copy's environment as `leaks_witness`, beside the libraries, so that it is the same one whatever
tree is tested.
"""

import importlib
import json
import sys
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any, Final

import pytest

_LONGEST: Final = 300


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("leaks")
    group.addoption("--leaks-report", type=Path, required=True, help="the file to write")
    group.addoption("--leaks-module", default="", help="the mutated module, which has to be importable")
    group.addoption("--leaks-only", action="append", default=[], help="a selection of tests; all others are left out")
    group.addoption("--leaks-copy", type=Path, required=True, help="the tree that is tested")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Witness(config), "leaks")


class _Witness:
    def __init__(self, config: pytest.Config) -> None:
        self._path: Path = config.getoption("leaks_report")
        self._module: str = config.getoption("leaks_module")
        self._only: list[str] = config.getoption("leaks_only")
        self._copy: Path = config.getoption("leaks_copy")
        self._collected: list[str] = []
        self._passed: list[str] = []
        self._failures: list[dict[str, Any]] = []
        self._unimportable = ""

    def pytest_sessionstart(self) -> None:
        if not self._module:
            return
        try:
            importlib.import_module(self._module)
        except Exception as error:  # noqa: BLE001 whatever keeps it from being imported
            self._unimportable = f"{self._module} cannot be imported: {type(error).__name__}: {error}"
            self._write()
            pytest.exit(self._unimportable)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if any(_is_of(item.nodeid, selection) for selection in self._only)]
        self._collected = [item.nodeid for item in items]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            lines = report.longreprtext.splitlines()
            said = [line.removeprefix("E").strip() for line in lines if line.startswith("E")]
            self._note(report.nodeid, "collect", "CollectError", (said or lines or [""])[-1])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed and call.excinfo is not None:
            error = call.excinfo.value
            self._note(item.nodeid, call.when, type(error).__name__, str(error), is_late=_ran_out_of_time(error))
        elif report.passed and call.when == "call":
            self._passed.append(item.nodeid)
        return report

    def pytest_sessionfinish(self) -> None:
        self._write()

    def _write(self) -> None:
        written = {
            "collected": self._collected,
            "passed": self._passed,
            "failures": self._failures,
            "unimportable": self._unimportable,
            "strays": sorted(self._strays()),
            "libraries": list(self._libraries()),
        }
        self._path.write_text(json.dumps(written))

    def _note(self, test: str, phase: str, kind: str, message: str, *, is_late: bool = False) -> None:
        first = (message.splitlines() or [""])[0][:_LONGEST]
        self._failures.append(
            {"test": test, "phase": phase, "kind": kind, "message": first, "ran_out_of_time": is_late}
        )

    def _strays(self) -> Iterator[str]:
        """Find modules that the copy has, and that were loaded from elsewhere."""
        for name, module in tuple(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if file is None or Path(file).is_relative_to(self._copy):
                continue
            path = Path(*name.split("."))
            places: Sequence[Path] = [self._copy / path, self._copy / "proto" / "gen" / path]
            if any(place.with_suffix(".py").exists() or (place / "__init__.py").exists() for place in places):
                yield file

    def _libraries(self) -> Iterator[str]:
        """Name what was loaded that is not the copy's, in its order."""
        for name, module in sys.modules.items():
            file = getattr(module, "__file__", None)
            if file is not None and not Path(file).is_relative_to(self._copy):
                yield name


def _ran_out_of_time(error: BaseException) -> bool:
    """Tell whether it is waiting that was given up: pytest's own limit, a test's, or a call's."""
    said = str(error)
    return (
        isinstance(error, TimeoutError | TimeoutExpired)
        or (type(error).__name__ == "Failed" and said.startswith("Timeout"))
        or (type(error).__name__ == "AioRpcError" and "DEADLINE_EXCEEDED" in said)
    )


def _is_of(test: str, selection: str) -> bool:
    return test == selection or test.startswith((f"{selection}[", f"{selection}::", f"{selection}/"))
