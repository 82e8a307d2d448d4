"""What `make setup` reads before anything is installed."""

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def make_venv() -> ModuleType:
    spec = spec_from_file_location("make_venv", ROOT / "deploy" / "make_venv.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_locked_package_is_seen_with_all_its_hashes(make_venv: ModuleType) -> None:
    lock = (ROOT / "requirements.lock").read_text()
    entries = make_venv.locked_entries()

    assert len(entries) == len(re.findall(r"^\S+==", lock, re.MULTILINE))
    assert sum(entry.count("--hash=") for entry in entries) == lock.count("--hash=")


def test_the_tools_that_build_are_locked(make_venv: ModuleType) -> None:
    assert [
        tool for tool in make_venv.BUILDERS if not any(e.startswith(tool) for e in make_venv.locked_entries())
    ] == []


def test_a_python_that_is_too_old_is_told_what_is_needed(
    make_venv: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_venv, "OLDEST", (99, 0))
    with pytest.raises(SystemExit, match="is needed: make setup PYTHON="):
        make_venv.main()
