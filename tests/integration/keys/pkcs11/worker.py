"""What another process does with a vault in SoftHSM. Run as a program, it prints one line at the end.

`stress` compares every byte that comes back, since that is how a library without mutexes shows: it returns another
thread's, and no error. Threads make and destroy keys meanwhile, which moves what the library shares.
"""

import asyncio
import os
import secrets
import sys
import time
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest

from control_plane.errors import UnavailableError
from control_plane.keys.model import KekRef, WrappedKey
from control_plane.keys.pkcs11 import cryptoki
from control_plane.keys.vault import KeyVault
from control_plane.keys.vault_pkcs11 import Pkcs11Vault
from control_plane.keys.vault_software import SoftwareVault
from control_plane.settings import HsmSettings

SETTINGS: Final = HsmSettings(shards=2)
KEKS: Final = 16
AT_ONCE: Final = 32
CONTRACT: Final = "tests/contracts/test_key_vault.py"


def kek(number: int) -> KekRef:
    return KekRef(tenant_uid=UUID(int=number), version=1)


async def stress(directory: Path, seconds: float, kind: str) -> str:
    """Use one vault from all its threads for some time; count what was done and what was wrong."""
    vault = await _open(directory, kind)
    await asyncio.gather(*(vault.create_kek(kek(number)) for number in range(1, KEKS)))
    until, done, wrong = time.monotonic() + seconds, 0, 0

    async def use(number: int) -> None:
        nonlocal done, wrong
        while time.monotonic() < until:
            key, aad = secrets.token_bytes(32), secrets.token_bytes(24)
            wrapped = await vault.wrap(kek(number), key, aad=aad)
            wrong += await vault.unwrap(kek(number), wrapped, aad=aad) != key
            done += 1

    async def churn(number: int) -> None:
        nonlocal done
        # Of this process alone: nobody else makes or destroys them.
        own = KekRef(tenant_uid=UUID(int=os.getpid() * 1000 + number), version=1)
        while time.monotonic() < until:
            await vault.create_kek(own)
            await vault.destroy_kek(own)
            done += 1

    await asyncio.gather(*(use(1 + n % (KEKS - 1)) for n in range(AT_ONCE)), *(churn(n) for n in range(2)))
    return f"{done} {wrong}"


async def _open(directory: Path, kind: str) -> KeyVault:
    if kind == "software":
        return await SoftwareVault.open(directory)
    return await Pkcs11Vault.open(directory, SETTINGS)


async def keep_contract(directory: Path, kind: str) -> str:
    """Fork while the vault is in use; the child runs the contract's whole suite, on vaults of its own."""
    vault = await _open(directory, kind)
    await vault.create_kek(kek(1))
    busy = [asyncio.create_task(_use_for_ever(vault)) for _ in range(AT_ONCE)]
    await asyncio.sleep(0.05)
    child = os.fork()
    if not child:
        # The loop that runs here is the parent's.
        asyncio.set_event_loop(None)
        os._exit(pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-k", kind, CONTRACT]))
    code = os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, child, 0))[1])
    for task in busy:
        task.cancel()
    await asyncio.gather(*busy, return_exceptions=True)
    return f"{code}"


async def fork(directory: Path, forks: int) -> str:
    """Fork again and again while all threads are at work; each child opens the vault anew and reads what it wrapped."""
    vault = await Pkcs11Vault.open(directory, SETTINGS)
    await vault.create_kek(kek(1))
    wrapped = await vault.wrap(kek(1), b"of the parent", aad=b"")
    busy = [asyncio.create_task(_use_for_ever(vault)) for _ in range(AT_ONCE)]
    codes = []
    for _ in range(forks):
        await asyncio.sleep(0.01)
        child = os.fork()
        if not child:
            os._exit(_be_child(directory, vault, wrapped))
        codes.append(os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, child, 0))[1]))
        if codes[-1]:
            break
    for task in busy:
        task.cancel()
    await asyncio.gather(*busy, return_exceptions=True)
    still = await vault.unwrap(kek(1), wrapped, aad=b"") == b"of the parent"
    return f"{codes} {still}"


async def _use_for_ever(vault: KeyVault) -> None:
    while True:
        await vault.unwrap(kek(1), await vault.wrap(kek(1), b"busy", aad=b""), aad=b"")


def _be_child(directory: Path, inherited: Pkcs11Vault, wrapped: WrappedKey) -> int:
    async def child() -> int:
        try:
            await inherited.unwrap(kek(1), wrapped, aad=b"")
        except UnavailableError as error:
            if "forked" not in error.message:
                return 4
            own = await Pkcs11Vault.open(directory, SETTINGS)
            return 0 if await own.unwrap(kek(1), wrapped, aad=b"") == b"of the parent" else 3
        return 2

    return asyncio.run(child())


async def create(directory: Path, number: int, *, own_token: bool = False) -> str:
    """Make a KEK, wrap a key with it, and print that."""
    vault = await Pkcs11Vault.open(directory, SETTINGS)
    await vault.create_kek(kek(number), own_token=own_token)
    return (await vault.wrap(kek(number), b"of a process", aad=b"")).hex()


async def unwrap(directory: Path, number: int, wrapped: str) -> str:
    """Open what another process has wrapped."""
    vault = await Pkcs11Vault.open(directory, SETTINGS)
    return (await vault.unwrap(kek(number), WrappedKey(bytes.fromhex(wrapped)), aad=b"")).hex()


async def destroy(directory: Path, number: int) -> str:
    """Destroy a KEK."""
    vault = await Pkcs11Vault.open(directory, SETTINGS)
    await vault.destroy_kek(kek(number))
    return "destroyed"


def main() -> None:
    what, folder, *more = sys.argv[1:]
    directory = Path(folder)
    match what:
        case "stress" | "stress-without-mutexes":
            if what != "stress":
                # Not to be done: it shows that the test would notice.
                setattr(cryptoki, "OS_LOCKING_OK", 0)  # noqa: B010 a constant, otherwise
            work = stress(directory, float(more[0]), more[1])
        case "keep-contract":
            work = keep_contract(directory, more[0])
        case "fork":
            work = fork(directory, int(more[0]))
        case "create":
            work = create(directory, int(more[0]))
        case "create-own":
            work = create(directory, int(more[0]), own_token=True)
        case "unwrap":
            work = unwrap(directory, int(more[0]), more[1])
        case "destroy":
            work = destroy(directory, int(more[0]))
        case _:
            raise AssertionError(what)
    print(asyncio.run(work))  # noqa: T201 the result


if __name__ == "__main__":
    main()
