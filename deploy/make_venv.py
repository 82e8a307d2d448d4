"""Make the virtual environment: the machine's python3, the locked packages, SoftHSM, and this project on top.

Run by `make setup` before anything is installed, so it needs nothing but python3. Debian ships that without pip; then
pip comes out of Debian's own package, which is unpacked and not installed. So does SoftHSM, which has no wheel.
"""  # noqa: INP001 deploy/ holds no package

import os
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
# What the vault's tests run on. `control_plane/keys/pkcs11/softhsm.py` looks for it in the same places.
SOFTHSM = "SOFTHSM2_MODULE"
SOFTHSM_PLACES = ("usr/lib/softhsm/libsofthsm2.so", "usr/lib/*/softhsm/libsofthsm2.so", "usr/lib64/libsofthsm2.so")


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
    install_softhsm(target, python)
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
            unpacked = unpack("python3-pip-whl", Path(folder))
            install_wheel(python, pip_wheel(unpacked / DEBIAN_WHEELS.relative_to("/")))


def install_softhsm(target: Path, python: Path) -> None:
    """Bring SoftHSM's library into the environment, unless the system has it, or one is named."""
    module = softhsm(target)
    if module is None and shutil.which("apt-get") is None:
        stop(f"SoftHSM is missing: install it (its package is softhsm2, or softhsm), or name its library in {SOFTHSM}")
    if module is None:
        with step("unpack SoftHSM into it"), tempfile.TemporaryDirectory(prefix="bulkhead-softhsm-") as folder:
            unpacked = unpack("libsofthsm2", Path(folder))
            shutil.copytree(unpacked / "usr/lib", target / "softhsm/usr/lib", dirs_exist_ok=True)
        module = softhsm(target)
    if module is None or not works(python, "-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1])", module):
        stop(f"{module or 'SoftHSM'} cannot be loaded: `apt-get install softhsm2`, or name its library in {SOFTHSM}")


def softhsm(target: Path) -> Path | None:
    """Find SoftHSM's library."""
    if named := os.environ.get(SOFTHSM):
        return Path(named)
    roots = (target / "softhsm", Path("/"))
    return next((found for root in roots for place in SOFTHSM_PLACES for found in sorted(root.glob(place))), None)


def unpack(package: str, folder: Path) -> Path:
    """Fetch a package of Debian's and unpack it below `folder`: nothing is installed, so that nobody need be root."""
    apt = ["apt-get", "-q"]
    if not works(*apt, "download", package, cwd=folder):
        # No list of packages here, or an old one: fetch one of our own.
        for name in ("state/lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        apt += ["-o", f"Dir::State={folder}/state", "-o", f"Dir::Cache={folder}/cache"]
        apt += ["-o", "Dir::State::status=/var/lib/dpkg/status", "-o", "APT::Sandbox::User=root"]
        run(*apt, "update", cwd=folder)
        run(*apt, "download", package, cwd=folder)
    for file in folder.glob("*.deb"):
        run("dpkg-deb", "-x", str(file), str(folder / "unpacked"))
    return folder / "unpacked"


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
