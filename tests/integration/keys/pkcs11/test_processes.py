"""One vault in many threads and in many processes, also in those that were forked."""

import os
import signal
import subprocess
import sys
import threading
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import pytest

from control_plane.keys.pkcs11.codes import OS_LOCKING_OK
from control_plane.keys.pkcs11.cryptoki import Cryptoki
from control_plane.settings import HsmSettings
from tests.fixtures.softhsm import library_of, library_of_its_own, open_vault, softhsm_module
from tests.integration.keys.pkcs11 import worker

ROOT: Final = Path(__file__).parents[4]
BATTERY: Final = bool(os.environ.get("BATTERY"))
SECONDS: Final = 600 if BATTERY else 4
PROCESSES: Final = 4


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "vault"


def _start(what: str, directory: Path, *more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", worker.__name__, what, str(directory), *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _said(process: "subprocess.Popen[str]") -> str:
    out, errors = process.communicate()
    assert process.returncode == 0, f"ended with {process.returncode}: {errors}"
    return out.splitlines()[-1]
