"""What the text of the repository may not hold: machines, registries, loose ends, silent suppressions."""

import ast
import io
import os
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
TEXT: Final = {
    "", ".cfg", ".conf", ".css", ".html", ".ini", ".js", ".json", ".lock", ".lua", ".md", ".proto", ".py", ".pyi",
    ".sh", ".sql", ".toml", ".txt", ".yaml", ".yml",
}  # fmt: skip
# Where software is fetched from is the machine's business (its pip configuration), not the repository's.
REGISTRIES: Final = re.compile(
    r"pypi\.org|pythonhosted\.org|npmjs\.(?:org|com)|docker\.io|ghcr\.io|quay\.io|gcr\.io|crates\.io|goproxy\.|"
    r"proxy\.golang\.org|art[i]factory|(?:extra-)?index[-_]url|--find[-]links",
    re.IGNORECASE,
)
# A path under somebody's home, or one that only a certain machine has.
MACHINE_PATHS: Final = re.compile(r"(?<![\w.}\-/])/(?:work|root|home|Users|mnt|workspace)/\w")
LOOSE_ENDS: Final = re.compile(r"\b(?:[T]ODO|[F]IXME|[X]XX|[H]ACK)\b(?!\(#\d+\))")
SUPPRESSIONS: Final = re.compile(r"noqa|type:\s*ignore|pylint:|nosec|pragma:|mypy:|pyright:|ruff:")
SOUND_SUPPRESSIONS: Final = re.compile(
    r"#\s*(?:noqa: [A-Z]+\d+(?:, ?[A-Z]+\d+)*\s+\S.{5,}|type: ignore\[[a-z\-, ]+\]\s+# \S.{5,})"
)
BEHAVIOUR: Final = re.compile(r"[A-Z]+\d+(?:\.\d+)?|T-[A-Z]\d+")


def _ignored() -> set[str]:
    """Read the names that git leaves out: what a build, a test or a running stack writes."""
    lines = (ROOT / ".gitignore").read_text().splitlines()
    return {line.strip("/") for line in lines if line and not line.startswith("#")} | {".git", "gen"}


def _texts() -> list[tuple[str, str]]:
    left_out, texts = _ignored(), list[Path]()
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(set(folders) - left_out)
        paths = [Path(folder, name) for name in sorted(names)]
        texts += [path for path in paths if path.suffix in TEXT and not path.is_symlink()]
    return [(str(path.relative_to(ROOT)), path.read_text()) for path in texts]


def _lines_with(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()}"
        for name, text in _texts()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def _python() -> Iterator[tuple[str, str]]:
    return ((name, text) for name, text in _texts() if name.endswith(".py"))


def test_no_registry_is_named() -> None:
    assert _lines_with(REGISTRIES) == []


def test_no_path_of_a_certain_machine_is_named() -> None:
    assert _lines_with(MACHINE_PATHS) == []


def test_a_loose_end_names_its_issue() -> None:
    assert _lines_with(LOOSE_ENDS) == []


def test_the_lock_has_exact_versions_and_hashes_and_no_addresses() -> None:
    text = (ROOT / "requirements.lock").read_text()
    entries = re.findall(r"^(?![#\s])(?:.*\\\n)*.+$", text, re.MULTILINE)

    assert entries
    assert [entry for entry in entries if not re.match(r"[A-Za-z0-9._\[\]-]+==\S+ ", entry)] == []
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    assert "://" not in text


def test_a_suppression_carries_a_code_and_a_reason() -> None:
    comments = [
        f"{name}:{token.start[0]}: {token.string}"
        for name, text in _python()
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and SUPPRESSIONS.search(token.string)
    ]

    assert [comment for comment in comments if not SOUND_SUPPRESSIONS.search(comment)] == []


def test_a_mark_of_a_behaviour_has_the_form_of_its_ids() -> None:
    marks = [
        (f"{name}:{node.lineno}", [ast.unparse(arg) for arg in node.args])
        for name, text in _python()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.behaviour"
    ]

    assert marks
    assert [(place, ids) for place, ids in marks if not ids or not all(map(_is_behaviour, ids))] == []


def _is_behaviour(source: str) -> bool:
    value = ast.literal_eval(source) if source.startswith(("'", '"')) else ""
    return BEHAVIOUR.fullmatch(value) is not None


def test_no_test_is_left_out() -> None:
    """A service that a test needs and does not find fails the run, so that green means tested."""
    left_out = re.compile(r"pytest\.(?:mark\.)?(?:skip|skipif|xfail|importorskip)\b")

    assert [line for line in _lines_with(left_out) if line.startswith("tests/") and " reason=" not in line] == []


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "LICENSE", "Makefile", "requirements.lock", ".ci/run"])
def test_a_newcomer_finds_the_paper(name: str) -> None:
    assert (ROOT / name).read_text().strip()
