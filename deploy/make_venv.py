"""Make the virtual environment: the machine's python3, the locked packages, and this project on top.

Run by `make setup` before anything is installed, so it needs nothing but python3. Debian ships that without pip; then
pip comes out of Debian's own package, which is unpacked and not installed.
"""  # noqa: INP001 deploy/ holds no package

import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
OLDEST = (3, 11)
DEBIAN_WHEELS = Path("/usr/share/python-wheels")
BUILDERS = ("setuptools==",)


def main() -> None:
    """Make the environment of the first argument, or bring it up to date."""
    if sys.version_info < OLDEST:
        found = ".".join(map(str, sys.version_info[:3]))
        stop(f"{sys.executable} is Python {found}; 3.11 or later is needed: make setup PYTHON=/path/to/python3.11")
    target = Path(sys.argv[1]).absolute()
    python = target / "bin" / "python"
    if not works(python):
        with step(f"make {target.name} with Python {sys.version.split()[0]}"):
            venv.EnvBuilder(clear=target.exists(), symlinks=True, with_pip=False).create(target)
    if not works(python, "-m", "pip", "--version"):
        with step("bring pip into it"):
            install_pip(python)
    count = len(locked_entries())
    with step(f"install {count} locked packages"):
        install_locked(python, count)
    with step("install this project, as it stands in its sources"):
        pip(python, "install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))


def install_pip(python: Path) -> None:
    """Take pip from the interpreter, else from Debian's wheel, which is fetched if need be."""
    if works(python, "-m", "ensurepip", "--default-pip"):
        return
    if wheel := pip_wheel(DEBIAN_WHEELS):
        install_wheel(python, wheel)
    elif shutil.which("apt-get") is None:
        stop(f"{sys.executable} has no pip and no ensurepip: install them, or name another: make setup PYTHON=…")
    else:
        with tempfile.TemporaryDirectory(prefix="bulkhead-pip-") as folder:
            install_wheel(python, unpacked_wheel(Path(folder)))


def unpacked_wheel(folder: Path) -> Path | None:
    """Fetch Debian's package of pip and unpack it into `folder`: nothing is installed, so that nobody need be root."""
    apt = ["apt-get", "-q"]
    if not works(*apt, "download", "python3-pip-whl", cwd=folder):
        # No list of packages here, or an old one: fetch one of our own.
        for name in ("state/lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        apt += ["-o", f"Dir::State={folder}/state", "-o", f"Dir::Cache={folder}/cache"]
        apt += ["-o", "Dir::State::status=/var/lib/dpkg/status", "-o", "APT::Sandbox::User=root"]
        run(*apt, "update", cwd=folder)
        run(*apt, "download", "python3-pip-whl", cwd=folder)
    for package in folder.glob("*.deb"):
        run("dpkg-deb", "-x", str(package), str(folder / "unpacked"))
    return pip_wheel(folder / "unpacked" / DEBIAN_WHEELS.relative_to("/"))


def pip_wheel(folder: Path) -> Path | None:
    """Find the wheel of pip."""
    return next(iter(sorted(folder.glob("pip-*.whl"), reverse=True)), None)


def install_wheel(python: Path, wheel: Path | None) -> None:
    """Let pip install itself out of its wheel."""
    if wheel is None:
        stop("Debian's package python3-pip-whl has brought no pip; install pip for this python3 by hand")
    run(python, f"{wheel}/pip", "install", "--quiet", "--no-index", "--no-deps", str(wheel))


def install_locked(python: Path, count: int) -> None:
    """Install exactly what the lock says, and tell how far it is."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as builders:
        # What has no wheel is built with locked tools too: they come first, and no build fetches others.
        builders.writelines(entry for entry in locked_entries() if entry.startswith(BUILDERS))
        builders.flush()
        pip(python, "install", "--quiet", "--require-hashes", "-r", builders.name)
    options = ("--require-hashes", "--no-build-isolation", "--use-pep517", "--progress-bar=off")
    command = pip_command(python, "install", *options, "-r", str(LOCK))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 pip of our own environment
        seen = 0
        for line in process.stdout or ():
            if line.startswith(("Collecting ", "Requirement already satisfied: ")):
                seen += 1
                if seen % 10 == 0 or seen == count:
                    say(f"    {seen} of {count}")
            elif line.startswith("Installing collected"):
                say("    unpacking them all")
    if process.returncode != 0:
        stop(f"pip could not install {LOCK.name}; its error is above")


def locked_entries() -> list[str]:
    """Read the lock: each package with its version and hashes."""
    return re.findall(r"^\S+==.*\n(?:    --hash.*\n)*", LOCK.read_text(), re.MULTILINE)


def pip(python: Path, *arguments: str) -> None:
    """Run the environment's pip."""
    run(*pip_command(python, *arguments))


def pip_command(python: Path, *arguments: str) -> list[str]:
    """Return how pip is run: it has nothing to say about its own version or about root."""
    return [str(python), "-m", "pip", "--disable-pip-version-check", *arguments, "--root-user-action=ignore"]


def works(*command: str | Path, cwd: Path | None = None) -> bool:
    """Whether a command can be run and ends well; what it says is of no interest."""
    words = [str(word) for word in command]
    if len(words) == 1:
        words.append("--version")
    try:
        return subprocess.run(words, capture_output=True, cwd=cwd, check=False).returncode == 0  # noqa: S603 words of our own
    except OSError:
        return False


def run(*command: str | Path, cwd: Path | None = None) -> None:
    """Run a command that has to end well."""
    words = [str(word) for word in command]
    if subprocess.run(words, cwd=cwd, check=False).returncode != 0:  # noqa: S603 words of our own
        stop(f"`{' '.join(words)}` failed; its error is above")


@contextmanager
def step(text: str) -> Iterator[None]:
    """Tell what is being done, and how long it took."""
    begun = time.monotonic()
    say(f"· {text}")
    yield
    say(f"  {time.monotonic() - begun:.1f} s")


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def stop(text: str) -> NoReturn:
    """End with an error that says what to do."""
    sys.exit(f"setup: {text}")


if __name__ == "__main__":
    main()
