"""What every vault promises, after whatever was done to it before: made, destroyed and made anew, from two places."""

import asyncio
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.keys.model import IntegrityError, KekRef, MissingKeyError, WrappedKey
from control_plane.keys.vault import KeyVault
from control_plane.keys.vault_pkcs11 import Pkcs11Vault
from control_plane.keys.vault_software import SoftwareVault
from control_plane.settings import HsmSettings

KEKS: Final = 3
AADS: Final = (b"", b"one", b"another")
EXAMPLES: Final = 60
# No example meets the KEKs of another, and one vault serves them all.
_uids: Final = count(1)

STEPS: Final = st.lists(
    st.tuples(
        st.sampled_from(["create", "wrap", "unwrap", "unwrap", "destroy"]),
        st.integers(0, KEKS - 1),
        st.sampled_from(AADS),
        st.integers(0, 7),
        st.sampled_from([0, 1]),
    ),
    max_size=24,
)


@dataclass(slots=True)
class History:
    """What was done, and so what a vault has to say."""

    vaults: list[KeyVault]
    keks: list[KekRef]
    made: list[int] = field(default_factory=lambda: [0] * KEKS)
    """How often each KEK was made; 0 while there is none."""
    ever: list[int] = field(default_factory=lambda: [0] * KEKS)
    wrapped: list[tuple[WrappedKey, int, int, bytes, bytes]] = field(default_factory=list)

    async def step(self, what: str, number: int, aad: bytes, *, choice: int, place: int) -> None:
        """Do it, and compare."""
        vault, kek = self.vaults[place], self.keks[number]
        match what:
            case "create":
                await vault.create_kek(kek)
                if not self.made[number]:
                    self.ever[number] += 1
                    self.made[number] = self.ever[number]
            case "destroy":
                await vault.destroy_kek(kek)
                self.made[number] = 0
            case "wrap" if self.made[number]:
                key = bytes([len(self.wrapped)]) * 32
                wrapped = await vault.wrap(kek, key, aad=aad)
                self.wrapped.append((wrapped, number, self.made[number], aad, key))
            case "wrap":
                with pytest.raises(MissingKeyError):
                    await vault.wrap(kek, b"key", aad=aad)
            case _ if self.wrapped:
                await self._unwrap(vault, number, aad, choice % len(self.wrapped))

    async def _unwrap(self, vault: KeyVault, number: int, aad: bytes, choice: int) -> None:
        wrapped, maker, making, bound, key = self.wrapped[choice]
        if not self.made[number]:
            with pytest.raises(MissingKeyError):
                await vault.unwrap(self.keks[number], wrapped, aad=aad)
        elif (maker, making, bound) == (number, self.made[number], aad):
            assert await vault.unwrap(self.keks[number], wrapped, aad=aad) == key
        else:
            with pytest.raises(IntegrityError):
                await vault.unwrap(self.keks[number], wrapped, aad=aad)

    async def compare(self) -> None:
        """See that everything opens that should, and that the census has what there is."""
        for choice in range(len(self.wrapped)):
            for number in range(KEKS):
                await self._unwrap(self.vaults[0], number, self.wrapped[choice][3], choice)
        there = {kek for kek, made in zip(self.keks, self.made, strict=True) if made}
        for vault in self.vaults:
            assert {kek for kek in await vault.keks() if kek in self.keks} == there


@pytest.mark.parametrize("kind", ["software", "pkcs11"])
def test_a_vault_is_what_was_done_to_it_whoever_did_it(kind: str, softhsm: HsmSettings, tmp_path: Path) -> None:
    async def opened() -> KeyVault:
        if kind == "software":
            return await SoftwareVault.open(tmp_path / "vault")
        return await Pkcs11Vault.open(tmp_path / "vault", softhsm)

    async def both() -> list[KeyVault]:
        return [await opened(), await opened()]

    with asyncio.Runner() as runner:
        vaults = runner.run(both())

        @settings(max_examples=EXAMPLES)
        @given(steps=STEPS)
        def hold(steps: list[tuple[str, int, bytes, int, int]]) -> None:
            async def play() -> None:
                uid = UUID(int=next(_uids))
                # Of one tenant and of another, so that versions are told apart, too.
                keks = [
                    KekRef(tenant_uid=uid, version=1),
                    KekRef(tenant_uid=uid, version=2),
                    KekRef(tenant_uid=UUID(int=next(_uids)), version=1),
                ]
                history = History(vaults, keks)
                for what, number, aad, choice, place in steps:
                    await history.step(what, number, aad, choice=choice, place=place)
                await history.compare()
                for kek in keks:
                    await vaults[0].destroy_kek(kek)

            runner.run(play())

        hold()
