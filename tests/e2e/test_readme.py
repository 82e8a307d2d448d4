"""The README does what it says: its commands, in its order, against a real stack, print what it shows.

A block marked `console` is run: `$ ` begins a command, `> ` goes on with it, and the rest is what it prints. In there a
line `…` stands for any lines, and a `…` within a line for anything. Ids, times and the like differ from run to run.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.fixtures.stack import Stack, running_stack

ROOT: Final = Path(__file__).parents[2]
README: Final = ROOT / "README.md"
PAPERS: Final = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
# What differs from run to run, and the word that stands for it.
VARYING: Final = (
    (r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z", "TIME"),
    (r"\b[0-9a-f]{12,}\b", "HEX"),
    (r"[A-Za-z0-9+/]{43}=", "HASH"),
    (r"\b\d+ ms", "N ms"),
    (r"127\.0\.0\.1:\d+", "ADDRESS"),
    (r"SYNCED +\d+ +\d+", "SYNCED N N"),
    (r"(?<=revision )(is )?\d+", r"\1N"),
    (r"[ ]+", " "),
)
# A denial is written within a second, so not always before the effects that follow it.
UNORDERED: Final = "audit tail"
# Where `make up` has the edge listen, unless somebody else listens there.
EDGE: Final = "127.0.0.1:7448"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A command, and what the README says that it prints."""

    command: str
    output: str

    def matches(self, printed: str) -> bool:
        if UNORDERED in self.command:
            return sorted(steady(printed).splitlines()) == sorted(steady(self.output).splitlines())
        pattern = re.escape(steady(self.output)).replace("…\\\n", "(?:.*\n)*").replace("…", ".*")
        return re.fullmatch(pattern, steady(printed)) is not None


def steady(text: str) -> str:
    for pattern, word in VARYING:
        text = re.sub(pattern, word, text)
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def commands(text: str) -> Iterator[Shown]:
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for entry in re.findall(r"^\$ .*\n(?:(?!\$ ).*\n)*", block, re.MULTILINE):
            typed = re.match(r"\$ .*\n(?:> .*\n)*", entry)
            assert typed is not None
            command = re.sub(r"^[$>] ", "", typed[0], flags=re.MULTILINE)
            yield Shown(command=command, output=entry[typed.end() :])


@pytest.fixture
def newcomers() -> Iterator[Stack]:
    """A stack that nobody else has tenants or edges at."""
    with running_stack() as running:
        yield running


def test_the_readmes_five_minutes_print_what_it_shows(newcomers: Stack, curl_folder: Path, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], str(curl_folder)]),
        "BULKHEAD_DIR": str(newcomers.dir),
    }
    code, run = 0, 0
    for shown in commands(README.read_text()):
        done = subprocess.run(
            # As in one shell: `$?` is that of the command before.
            ["sh", "-c", f"(exit {code})\n{shown.command.replace(EDGE, newcomers.endpoints['edge_http'])}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            cwd=tmp_path,
            env=environment,
        )
        code, run = done.returncode, run + 1

        assert shown.matches(done.stdout), f"$ {shown.command}{done.stdout}\nbut the README shows\n{shown.output}"
        assert (code != 0) == shown.output.startswith("error:"), shown.command
    assert run > 15


def test_the_shown_output_is_compared_and_not_only_run() -> None:
    (shown,) = commands("```console\n$ a \\\n> b\nx 01a20aa4-e39e-7256-9624-d9e5939bc9d0\n…\nto …/token at 1 ms\n```\n")

    assert shown.command == "a \\\nb\n"
    assert shown.matches("x 01a20aa5-e39e-7256-9624-d9e5939bc9d1\nsome\nlines\nto /tmp/token  at 23 ms\n")
    assert shown.matches("x 01a20aa5-e39e-7256-9624-d9e5939bc9d1\nto /token at 0 ms\n")
    assert not shown.matches("y 01a20aa5-e39e-7256-9624-d9e5939bc9d1\nto /tmp/token at 23 ms\n")
    assert not shown.matches("x 01a20aa5-e39e-7256-9624-d9e5939bc9d1\nto /tmp/token at 23 ms\nmore\n")


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: str(paper.relative_to(ROOT)))
def test_every_link_leads_somewhere(paper: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)", paper.read_text())

    assert [link for link in links if not (paper.parent / link).exists()] == []


def test_every_target_of_make_that_a_paper_names_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for paper in PAPERS for name in re.findall(r"\bmake ([a-z]+)(?=`| {2,}#)", paper.read_text())}

    assert named >= {"up", "test"}
    assert named <= targets
