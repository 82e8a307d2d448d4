"""One vault in many threads and in many processes, also in those that were forked."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from control_plane.keys.model import IntegrityError, MissingKeyError, WrappedKey
from control_plane.keys.pkcs11.cryptoki import Cryptoki
from control_plane.settings import HsmSettings
from tests.fixtures.softhsm import open_vault
from tests.integration.keys.pkcs11 import worker

ROOT: Final = Path(__file__).parents[4]
# As the standard has it.
CKF_OS_LOCKING_OK: Final = 2
BATTERY: Final = bool(os.environ.get("BATTERY"))
SECONDS: Final = 600 if BATTERY else 3
PROCESSES: Final = 4


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "vault"


def start(what: str, directory: Path, *more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", worker.__name__, what, str(directory), *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said(process: "subprocess.Popen[str]") -> str:
    out, errors = process.communicate()
    assert process.returncode == 0, f"ended with {process.returncode}: {errors}"
    return out.splitlines()[-1]


async def test_the_library_is_told_to_use_mutexes_before_anything_else(
    softhsm: HsmSettings, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    called = Cryptoki._call

    def call(self: Cryptoki, function: str, *arguments: object) -> None:
        told.append((function, arguments))
        called(self, function, *arguments)

    monkeypatch.setattr(Cryptoki, "_call", call)
    await open_vault(directory, softhsm)
    begun = [arguments[0]._obj for function, arguments in told if function == "Initialize"]  # type: ignore[attr-defined]  # of byref

    assert told[0][0] == "Initialize"
    assert begun
    assert {(each.flags, each.create_mutex) for each in begun} == {(CKF_OS_LOCKING_OK, None)}


@pytest.mark.behaviour("S2.18")
@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.parametrize("kind", ["software", "pkcs11"])
def test_no_wrong_byte_comes_out_of_many_threads_of_several_processes(directory: Path, kind: str) -> None:
    processes = [start("stress", directory, str(SECONDS), kind) for _ in range(PROCESSES if BATTERY else 2)]
    figures = [[int(figure) for figure in said(process).split()] for process in processes]

    assert [wrong for _, wrong in figures] == [0] * len(processes)
    assert min(done for done, _ in figures) > 0


def test_threads_in_a_library_without_mutexes_would_be_noticed(directory: Path) -> None:
    process = start("stress-without-mutexes", directory, "20", "pkcs11")
    try:
        out, _ = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        out, _ = process.communicate()

    # It crashes or hangs, or says that the device failed, or returned what another thread had asked for.
    assert process.returncode != 0 or not out.endswith(" 0\n")


@pytest.mark.behaviour("S2.18")
def test_a_fork_at_any_moment_leaves_parent_and_child_a_vault_that_works(directory: Path) -> None:
    forks = 100 if BATTERY else 10

    assert said(start("fork", directory, str(forks))) == f"{[0] * forks} True"


@pytest.mark.parametrize("kind", ["software", "pkcs11"])
def test_a_forks_child_keeps_the_whole_contract(directory: Path, kind: str) -> None:
    assert said(start("keep-contract", directory, kind)) == "0"


def test_of_many_processes_that_make_a_vault_and_a_kek_at_once_all_have_the_same(directory: Path) -> None:
    wrapped = [said(process) for process in [start("create", directory, "1") for _ in range(PROCESSES)]]

    assert {said(start("unwrap", directory, "1", each)) for each in wrapped} == {b"of a process".hex()}
    assert len(list((directory / "tokens").iterdir())) == worker.SETTINGS.shards


async def test_what_another_process_makes_and_destroys_is_seen_by_the_next_call(
    softhsm: HsmSettings, directory: Path
) -> None:
    vault = await open_vault(directory, softhsm)
    kek = worker.kek(1)
    made = WrappedKey(bytes.fromhex(said(start("create", directory, "1"))))

    assert await vault.unwrap(kek, made, aad=b"") == b"of a process"
    assert await vault.keks() == [kek]
    said(start("destroy", directory, "1"))
    for work in (vault.unwrap(kek, made, aad=b""), vault.wrap(kek, b"key", aad=b"")):
        with pytest.raises(MissingKeyError):
            await work
    anew = WrappedKey(bytes.fromhex(said(start("create", directory, "1"))))
    assert await vault.unwrap(kek, anew, aad=b"") == b"of a process"
    with pytest.raises(IntegrityError):
        await vault.unwrap(kek, made, aad=b"")


async def test_a_maker_that_was_killed_leaves_a_vault_that_is_made_by_the_next(
    softhsm: HsmSettings, directory: Path
) -> None:
    for after in range(40):
        process = start("create", directory, "1")
        await asyncio.sleep(after / 400)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    vault = await open_vault(directory, softhsm)
    await vault.create_kek(worker.kek(1))

    assert await vault.keks() == [worker.kek(1)]
    assert len(list((directory / "tokens").iterdir())) == softhsm.shards
