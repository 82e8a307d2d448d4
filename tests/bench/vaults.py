"""What a vault's work costs, in SoftHSM and in software, each in a directory of its own."""

import asyncio
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from uuid import UUID

from control_plane.keys.model import KekRef, WrappedKey
from control_plane.keys.pkcs11.layout import object_id, object_label
from control_plane.keys.pkcs11.tokens import make_key
from control_plane.keys.vault import KeyVault
from control_plane.keys.vault_pkcs11 import Pkcs11Vault
from control_plane.keys.vault_software import SoftwareVault
from control_plane.settings import HsmSettings
from tests.bench.measure import Figure, by_turns, figures, timed
from tests.bench.system import System
from tests.fixtures.softhsm import library_of, library_of_its_own

CALLS: Final = 2_000
CHANGES: Final = 100
AT_ONCE: Final = 32
MANY: Final = 10_000
FOUND: Final = 300
SHARDS: Final = 64
AAD: Final = b"bench"
OPENING: Final = """
import asyncio, sys, time
from pathlib import Path
from uuid import UUID
from control_plane.keys.model import KekRef
from control_plane.keys.vault_pkcs11 import Pkcs11Vault
from control_plane.settings import HsmSettings

async def main():
    begun = time.perf_counter()
    vault = await Pkcs11Vault.open(Path(sys.argv[1]), HsmSettings())
    opened = time.perf_counter()
    await vault.wrap(KekRef(tenant_uid=UUID(int=1), version=1), b"key", aad=b"")
    print((opened - begun) * 1000, (time.perf_counter() - opened) * 1000)

asyncio.run(main())
"""


def _kek(number: int) -> KekRef:
    return KekRef(tenant_uid=UUID(int=number), version=1)


async def operations(_: System) -> AsyncIterator[Figure]:
    """Measure each promise of a vault, by turns; the baseline is the software vault's."""
    with tempfile.TemporaryDirectory(prefix="bulkhead-bench-") as folder, library_of_its_own():
        device = await Pkcs11Vault.open(Path(folder) / "pkcs11", HsmSettings())
        software = await SoftwareVault.open(Path(folder) / "software")
        async for figure in _compare(device, software):
            yield figure


async def cold_start(_: System) -> AsyncIterator[Figure]:
    """Measure how soon a process may use its first KEK of ten thousand, and what finding and listing them costs."""
    with tempfile.TemporaryDirectory(prefix="bulkhead-bench-") as folder:
        directory = Path(folder) / "vault"
        with library_of_its_own():
            vault = await Pkcs11Vault.open(directory, HsmSettings(shards=SHARDS))
            begun = time.perf_counter()
            await library_of(vault).run_to_end(lambda: fill_device(vault, directory, MANY))
            yield _once("vault.fill_10000", time.perf_counter() - begun, "s")
        opened, first = [], []
        for _number in range(5):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", OPENING, str(directory)), stdout=asyncio.subprocess.PIPE
            )
            said = (await process.communicate())[0].split()
            opened.append(float(said[-2]))
            first.append(float(said[-1]))
        for name, taken in (("open", opened), ("first_wrap", first)):
            yield Figure(case=f"vault.{name}_of_10000", value=round(sorted(taken)[2], 3), unit="ms", baseline=0, runs=5)
        with library_of_its_own():
            vault = await Pkcs11Vault.open(directory, HsmSettings())
            found = [await timed(partial(vault.wrap, _kek(number), b"key", aad=AAD)) for number in range(1, FOUND + 1)]
            for figure in figures("vault.find_of_10000", found, [0.0], tail=0.99):
                yield figure
            yield _once("vault.list_10000", await timed(vault.keks), "ms")


def fill_device(vault: Pkcs11Vault, directory: Path, many: int) -> None:
    """Make the KEKs of the tenants from 1 on without a sync of the disk for each."""
    library = library_of(vault)
    for number in range(1, many + 1):
        kek = _kek(number)
        label = vault.root_of_trust_of(kek.tenant_uid).token
        with library.session(label, (directory / "user.pin").read_bytes) as session:
            make_key(library.cryptoki, session, identity=object_id(kek), label=object_label(kek))


async def _compare(device: KeyVault, software: KeyVault) -> AsyncIterator[Figure]:
    subject, baseline = await _Worked.on(device), await _Worked.on(software)
    for name in ("wrap", "unwrap", "create", "destroy"):
        runs = CALLS if name.endswith("wrap") else CHANGES
        taken = await by_turns(getattr(subject, name), getattr(baseline, name), runs=runs)
        for figure in figures(f"vault.{name}", *taken, tail=0.99):
            yield figure
        if runs == CALLS:
            rates = [await _rate(getattr(each, name)) for each in (subject, baseline)]
            yield Figure(case=f"vault.{name}_rate", value=rates[0], unit="1/s", baseline=rates[1], runs=CALLS)


@dataclass(slots=True, kw_only=True)
class _Worked:
    """A vault with a KEK, and what is done with it again and again."""

    vault: KeyVault
    key: bytes
    wrapped: WrappedKey
    made: int = 1
    destroyed: int = 1

    @classmethod
    async def on(cls, vault: KeyVault) -> "_Worked":
        key = secrets.token_bytes(32)
        await vault.create_kek(_kek(1))
        return cls(vault=vault, key=key, wrapped=await vault.wrap(_kek(1), key, aad=AAD))

    async def wrap(self) -> None:
        await self.vault.wrap(_kek(1), self.key, aad=AAD)

    async def unwrap(self) -> None:
        await self.vault.unwrap(_kek(1), self.wrapped, aad=AAD)

    async def create(self) -> None:
        self.made += 1
        await self.vault.create_kek(_kek(self.made))

    async def destroy(self) -> None:
        self.destroyed += 1
        await self.vault.destroy_kek(_kek(self.destroyed))


async def _rate(one: Callable[[], Awaitable[object]]) -> float:
    """Return how many a second are done, some of them at once."""

    async def many() -> None:
        for _ in range(CALLS // AT_ONCE):
            await one()

    begun = time.perf_counter()
    await asyncio.gather(*(many() for _ in range(AT_ONCE)))
    return round(CALLS // AT_ONCE * AT_ONCE / (time.perf_counter() - begun), 0)


def _once(case: str, value: float, unit: str) -> Figure:
    return Figure(case=case, value=round(value, 3), unit=unit, baseline=0, runs=1)
