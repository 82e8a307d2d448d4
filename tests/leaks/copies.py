"""Copies of the tree that tests are run in, each with an environment of its own.

The sources of a copy are found before any others, by every Python that is started in its environment, whatever it is
told to forget of its surroundings: the supervisor starts the platform's processes without PYTHONPATH. So a copy has a
`.venv`, like the tree itself: the same interpreter, and a `.pth` file that names the copy first and then the libraries
of the tree's environment; the project that is installed there, which is the tree itself, is not among them.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.leaks.model import Mutation

WITNESS: Final = "leaks_witness"
NURSERY: Final = "leaks_nursery"
_HERE: Final = Path(__file__).parent
_OURS: Final = {WITNESS: _HERE / "witness.py", NURSERY: _HERE / "nursery.py"}
_GENERATED: Final = Path("proto", "gen")
_PROTO: Final = Path("proto")
# What PYTHONVERBOSE says of a package that is loaded: its file, and its name in it.
_LOADED: Final = re.compile(
    r"^# code object from '?(\S*/(?!__pycache__)([^/\s]+)/(?:__pycache__/)?__init__\.[^'\s]+)'?$", re.MULTILINE
)
# Written by tests, and of no use to the next ones.
_LEFT_BEHIND: Final = shutil.ignore_patterns(".venv", ".hypothesis", "build")


class UnfaithfulCopyError(Exception):
    """A copy is not what the tree is, or a program of its environment runs other sources than the copy's."""


class NoProgramError(Exception):
    """What a mutation leaves of its file is nothing that code can be generated from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A tree that may be changed. Its directory is the caller's to remove."""

    root: Path

    @classmethod
    def of_tree(cls, tree: Path, root: Path) -> "Copy":
        """Copy what git knows of the working tree, as it is now: with uncommitted changes, without what is ignored."""
        for name in _files(tree):
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(tree / name, target)
        return cls(root=root)._with_environment(_OURS)

    def again(self, root: Path) -> "Copy":
        """Make another one, of the same files: as long as nobody writes into a file in its place, nobody notices."""
        shutil.copytree(self.root, root, ignore=_LEFT_BEHIND, copy_function=os.link)
        # Of this copy alone, whatever becomes of the tree meanwhile.
        return Copy(root=root)._with_environment({name: self._site_packages / f"{name}.py" for name in _OURS})

    @property
    def python(self) -> Path:
        """The interpreter that finds this copy's sources."""
        return self.root / ".venv" / "bin" / "python"

    def mutate(self, mutation: Mutation) -> None:
        """Take the wall away, here alone.

        Raises:
            StaleError: it is not there any more.
            NoProgramError: the rest of it cannot be used.
        """
        path = self.root / mutation.file
        text = mutation.applied(path.read_text())
        path.unlink()
        path.write_text(text)
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()
        if path.suffix == ".proto":
            self._generate()

    def module_of(self, file: str) -> str:
        """Name the module that a file is the source of; empty for other files."""
        path = Path(file)
        if path.suffix == ".proto":
            path = path.relative_to(_PROTO)
            return ".".join((*path.parent.parts, f"{path.stem}_pb2"))
        return ".".join(path.with_suffix("").parts) if path.suffix == ".py" else ""

    def check(self) -> None:
        """See that programs of this environment run the copy's sources, wherever they are run and however started.

        Raises:
            UnfaithfulCopyError: one of them does not.
        """
        # Outside of the copy, and without what leads Python elsewhere: see `stack/processes/children.py`.
        surroundings = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        for command in self._programs():
            run = subprocess.run(
                command,
                cwd="/",
                env={**surroundings, "PYTHONVERBOSE": "1"},
                capture_output=True,
                text=True,
                check=False,
            )
            if run.returncode != 0:
                raise UnfaithfulCopyError(f"{command} ended with {run.returncode}:\n{run.stderr[-2000:]}")
            loaded = [match[1] for match in _LOADED.finditer(run.stderr) if match[2] in self._packages()]
            if not loaded or not all(Path(file).is_relative_to(self.root) for file in loaded):
                raise UnfaithfulCopyError(f"{command} runs {loaded or 'nothing of ours'}")

    def _packages(self) -> set[str]:
        return {path.parent.name for path in self.root.glob("*/__init__.py")}

    def _programs(self) -> Iterator[list[str]]:
        for package in sorted(path.parent.name for path in self.root.glob("*/__main__.py")):
            yield [str(self.python), "-P", "-m", package, "--help"]
        for script in self._scripts():
            yield [str(self.python.with_name(script)), "--help"]

    def _with_environment(self, ours: Mapping[str, Path]) -> "Copy":
        """Make an environment with these modules beside the libraries."""
        environment = Path(sys.prefix)
        if not (environment / "pyvenv.cfg").exists():
            raise UnfaithfulCopyError("there is no environment to take the libraries from: run `make leaks`")
        programs = self.python.parent
        programs.mkdir(parents=True)
        shutil.copy2(environment / "pyvenv.cfg", programs.parent)
        self.python.symlink_to(Path(sys.executable).resolve())
        scripts = self._scripts()
        for name, function in scripts.items():
            module, _, attribute = function.partition(":")
            script = programs / name
            script.write_text(
                f"#!{self.python}\nimport sys\nfrom {module} import {attribute}\nsys.exit({attribute}())\n"
            )
            script.chmod(0o755)
        # Programs of the libraries, which know nothing of us.
        for program in (environment / "bin").iterdir():
            if program.name not in scripts and not program.name.startswith(("python", "activate")):
                (programs / program.name).symlink_to(program)
        if (environment / "softhsm").exists():
            (programs.parent / "softhsm").symlink_to(environment / "softhsm")
        self._site_packages.mkdir(parents=True)
        for name, file in ours.items():
            shutil.copy2(file, self._site_packages / f"{name}.py")
        (self._site_packages / "leaks.pth").write_text("".join(f"{place}\n" for place in self._places()))
        return self

    @property
    def _site_packages(self) -> Path:
        return self.python.parents[1] / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)

    def _places(self) -> list[str]:
        return [str(self.root), str(self.root / _GENERATED), sysconfig.get_path("purelib")]

    def _scripts(self) -> dict[str, str]:
        project = tomllib.loads((self.root / "pyproject.toml").read_text()).get("project", {})
        return dict(project.get("scripts", {}))

    def _generate(self) -> None:
        """Have the code that is generated from the protos say what they say."""
        command = [str(self.python), "-P", str(self.root / _PROTO / "generate.py")]
        run = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            raise NoProgramError(run.stderr.strip())


def _files(tree: Path) -> list[str]:
    """List what git keeps, and what it has not been told of yet; not what was removed since."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    run = subprocess.run(command, cwd=tree, capture_output=True, check=False, text=True)
    if run.returncode != 0:
        raise UnfaithfulCopyError(f"git does not say what belongs to {tree}: {run.stderr.strip()}")
    return [name for name in run.stdout.split("\0") if name and (tree / name).is_file()]
