"""What is particular to the vault without an HSM; what it promises like any other is in `tests/contracts`."""

import asyncio
import stat
from pathlib import Path
from uuid import UUID

import pytest

from control_plane.errors import UnavailableError
from control_plane.keys.model import IntegrityError, KekRef, MissingKeyError
from control_plane.keys.vault import UnusableVaultError
from control_plane.keys.vault_software import SoftwareVault
from control_plane.private_file import ExposedKeyError

KEK = KekRef(tenant_uid=UUID(int=1), version=1)
FOREIGN = KekRef(tenant_uid=UUID(int=2), version=1)
KEY = bytes(range(32))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state" / "vault"


def _modes(directory: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in [directory, *directory.rglob("*")]}


async def _vault_with_a_kek(directory: Path) -> SoftwareVault:
    vault = await SoftwareVault.open(directory)
    await vault.create_kek(KEK)
    return vault


async def test_everything_in_the_vault_is_its_owners_only(directory: Path) -> None:
    await _vault_with_a_kek(directory)

    assert _modes(directory) == {"vault": 0o700, "keks": 0o700, "root.key": 0o600, f"{KEK.tenant_uid}.1": 0o600}


async def test_a_vault_says_that_it_is_software(directory: Path) -> None:
    vault = await SoftwareVault.open(directory)

    assert not vault.root_of_trust.hsm_backed


async def test_many_that_open_a_new_vault_at_once_share_one_root(directory: Path) -> None:
    vaults = await asyncio.gather(*(SoftwareVault.open(directory) for _ in range(8)))
    await vaults[0].create_kek(KEK)
    wrapped = await vaults[0].wrap(KEK, KEY, aad=b"")

    assert [await vault.unwrap(KEK, wrapped, aad=b"") for vault in vaults] == [KEY] * 8


@pytest.mark.behaviour("S2.1")
async def test_keks_do_not_open_without_the_root_that_they_were_made_under(directory: Path, tmp_path: Path) -> None:
    vault = await _vault_with_a_kek(directory)
    wrapped = await vault.wrap(KEK, KEY, aad=b"")
    thief = await SoftwareVault.open(tmp_path / "thief")
    stolen = next((directory / "keks").iterdir())
    copy = tmp_path / "thief" / "keks" / stolen.name
    copy.write_bytes(stolen.read_bytes())
    copy.chmod(0o600)

    assert await vault.unwrap(KEK, wrapped, aad=b"") == KEY
    with pytest.raises(IntegrityError):
        await thief.unwrap(KEK, wrapped, aad=b"")


async def test_a_kek_moved_to_another_name_does_not_open(directory: Path) -> None:
    vault = await _vault_with_a_kek(directory)
    wrapped = await vault.wrap(KEK, KEY, aad=b"")
    own = directory / "keks" / f"{KEK.tenant_uid}.1"
    own.rename(directory / "keks" / f"{FOREIGN.tenant_uid}.1")

    with pytest.raises(IntegrityError):
        await vault.unwrap(FOREIGN, wrapped, aad=b"")
    with pytest.raises(MissingKeyError):
        await vault.unwrap(KEK, wrapped, aad=b"")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
async def test_a_root_that_is_open_to_others_is_refused_with_what_to_do(directory: Path, mode: int) -> None:
    await _vault_with_a_kek(directory)
    root = directory / "root.key"
    root.chmod(mode)

    with pytest.raises(ExposedKeyError, match=f"chmod 600 {root}"):
        await SoftwareVault.open(directory)
    root.chmod(0o600)
    assert await (await SoftwareVault.open(directory)).keks() == [KEK]


@pytest.mark.parametrize("folder", ["", "keks"])
async def test_a_vault_that_others_may_write_to_is_refused_with_what_to_do(directory: Path, folder: str) -> None:
    await _vault_with_a_kek(directory)
    (directory / folder).chmod(0o770)

    with pytest.raises(UnusableVaultError, match="chmod 700"):
        await SoftwareVault.open(directory)


async def test_a_lost_root_is_never_replaced_while_there_are_keks(directory: Path) -> None:
    await _vault_with_a_kek(directory)
    root = directory / "root.key"
    kept = root.rename(directory.parent / "backup")

    with pytest.raises(UnusableVaultError, match="backup"):
        await SoftwareVault.open(directory)
    assert not root.exists()
    kept.rename(root)
    assert await (await SoftwareVault.open(directory)).keks() == [KEK]


@pytest.mark.parametrize("damage", [slice(0, 40), slice(0, 0), slice(1, None)])
async def test_a_damaged_root_is_refused(directory: Path, damage: slice) -> None:
    await _vault_with_a_kek(directory)
    root = directory / "root.key"
    root.write_bytes(root.read_bytes()[damage])

    with pytest.raises(UnusableVaultError, match="damaged"):
        await SoftwareVault.open(directory)


async def test_a_root_with_a_changed_bit_is_refused(directory: Path) -> None:
    await _vault_with_a_kek(directory)
    root = directory / "root.key"
    content = bytearray(root.read_bytes())
    content[20] ^= 1
    root.write_bytes(content)

    with pytest.raises(UnusableVaultError, match="damaged"):
        await SoftwareVault.open(directory)


async def test_a_vault_in_the_place_of_a_file_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(UnusableVaultError, match="cannot be opened"):
        await SoftwareVault.open(tmp_path / "file")


async def test_a_vault_whose_directory_is_away_is_unavailable_and_its_keys_are_not_missing(directory: Path) -> None:
    vault = await _vault_with_a_kek(directory)
    wrapped = await vault.wrap(KEK, KEY, aad=b"")
    away = await asyncio.to_thread(directory.rename, directory.with_name("away"))

    for work in (vault.unwrap(KEK, wrapped, aad=b""), vault.create_kek(FOREIGN), vault.destroy_kek(KEK)):
        with pytest.raises(UnavailableError) as refused:
            await work
        assert str(directory) not in refused.value.message
    await asyncio.to_thread(away.rename, directory)
    assert await vault.unwrap(KEK, wrapped, aad=b"") == KEY


async def test_what_a_killed_maker_left_is_no_kek(directory: Path) -> None:
    vault = await _vault_with_a_kek(directory)
    (directory / "keks" / f".{FOREIGN.tenant_uid}.1.0123456789abcdef.new").write_bytes(b"half")

    assert await vault.keks() == [KEK]
    await vault.create_kek(FOREIGN)
    assert await vault.unwrap(FOREIGN, await vault.wrap(FOREIGN, KEY, aad=b""), aad=b"") == KEY
    assert len(list((directory / "keks").iterdir())) == 2


async def test_the_root_is_not_shown(directory: Path) -> None:
    vault = await _vault_with_a_kek(directory)
    root = (directory / "root.key").read_bytes()[4:36]

    assert root.hex() not in repr(vault)
    assert repr(root)[2:-1] not in repr(vault)
