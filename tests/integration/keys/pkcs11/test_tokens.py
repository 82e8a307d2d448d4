"""What is in the tokens, as an implementation that is not ours reads it, and what is not on the disk."""

import _ctypes
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Final, cast
from uuid import UUID

import pytest

from control_plane import private_file
from control_plane.app.vaults import open_vault as open_any
from control_plane.errors import UnavailableError
from control_plane.keys.model import KekRef
from control_plane.keys.pkcs11 import library as libraries
from control_plane.keys.pkcs11.cryptoki import Cryptoki, CryptokiError
from control_plane.keys.pkcs11.library import Library
from control_plane.keys.vault import UnusableVaultError
from control_plane.keys.vault_pkcs11 import Pkcs11Vault
from control_plane.private_file import ExposedKeyError
from control_plane.settings import DeviceSettings, HsmSettings, Settings
from tests.fixtures.softhsm import library_of, open_vault, softhsm_module

KEKS: Final = [KekRef(tenant_uid=UUID(int=n), version=1) for n in range(1, 9)]
# In a process of its own: the library that it loads is initialized by it, and closed with it.
READER: Final = """
import sys, pkcs11
from pkcs11 import Attribute, KeyType, ObjectClass
for token in pkcs11.lib(sys.argv[1]).get_tokens(token_flags=pkcs11.TokenFlag.TOKEN_INITIALIZED):
    with token.open(user_pin=sys.argv[2]) as session:
        for key in session.get_objects():
            assert key[Attribute.CLASS] is ObjectClass.SECRET_KEY and key[Attribute.KEY_TYPE] is KeyType.AES
            names = ("TOKEN PRIVATE SENSITIVE ALWAYS_SENSITIVE EXTRACTABLE NEVER_EXTRACTABLE MODIFIABLE LOCAL "
                "ENCRYPT DECRYPT WRAP UNWRAP SIGN VERIFY DERIVE").split()
            try:
                key[Attribute.VALUE]
                value = "READ"
            except pkcs11.exceptions.PKCS11Error:
                value = "hidden"
            print(token.label, key[Attribute.LABEL].replace(" ", "_"), key[Attribute.VALUE_LEN], value,
                *(name for name in names if key[Attribute[name]]))
    with token.open() as session:
        assert not list(session.get_objects()), "a stranger sees keys"
"""


def _read_by_another(directory: Path) -> list[list[str]]:
    pin = (directory / "user.pin").read_text()
    command = [sys.executable, "-c", READER, str(softhsm_module()), pin]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"SOFTHSM2_CONF": str(directory / "softhsm2.conf")}
    )
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


@pytest.mark.behaviour("S2.2")
async def test_a_kek_never_leaves_its_token_and_does_nothing_but_encrypt_and_decrypt(
    softhsm: HsmSettings, tmp_path: Path
) -> None:
    vault = await open_vault(tmp_path / "vault", softhsm)
    for kek in KEKS:
        await vault.create_kek(kek)
    found = _read_by_another(tmp_path / "vault")
    can = "TOKEN PRIVATE SENSITIVE ALWAYS_SENSITIVE NEVER_EXTRACTABLE LOCAL ENCRYPT DECRYPT"

    assert {" ".join(rest) for _, _, *rest in found} == {f"32 hidden {can}"}
    assert {label for _, label, *_ in found if "witness" not in label} == {f"{kek.tenant_uid}.1" for kek in KEKS}
    assert {(token, label) for token, label, *_ in found if "witness" in label} == {
        ("bulkhead-00", "bulkhead-witness_1/2"),
        ("bulkhead-01", "bulkhead-witness_2/2"),
    }
    for kek in KEKS:
        root = vault.root_of_trust_of(kek.tenant_uid)
        assert [token for token, label, *_ in found if label == f"{kek.tenant_uid}.1"] == [root.token]


async def test_softhsm_is_not_called_a_device(softhsm: HsmSettings, tmp_path: Path) -> None:
    vault = await open_vault(tmp_path / "vault", softhsm)
    root = vault.root_of_trust_of(KEKS[0].tenant_uid)

    assert (root.hsm_backed, root.label, root.firmware) == (False, "SoftHSM v2", "2.6")
    assert not vault.root_of_trust.hsm_backed


async def test_everything_that_we_make_is_its_owners_only(softhsm: HsmSettings, tmp_path: Path) -> None:
    vault = await open_vault(tmp_path / "vault", softhsm)
    await vault.create_kek(KEKS[0])

    assert [
        path for path in [tmp_path / "vault", *(tmp_path / "vault").rglob("*")] if path.stat().st_mode & 0o077
    ] == []


async def test_a_vault_that_was_moved_is_where_it_is(softhsm: HsmSettings, tmp_path: Path) -> None:
    vault = await open_vault(tmp_path / "vault", softhsm)
    await vault.create_kek(KEKS[0])
    wrapped = await vault.wrap(KEKS[0], b"key", aad=b"")
    library_of(vault).close()
    (tmp_path / "vault").rename(tmp_path / "moved")
    moved = await open_vault(tmp_path / "moved", softhsm)

    assert await moved.unwrap(KEKS[0], wrapped, aad=b"") == b"key"
    assert not (tmp_path / "vault").exists()


@pytest.mark.behaviour("S2.1")
async def test_a_copy_of_the_tokens_opens_nothing_without_the_pin(softhsm: HsmSettings, tmp_path: Path) -> None:
    vault = await open_vault(tmp_path / "vault", softhsm)
    await vault.create_kek(KEKS[0])
    wrapped = await vault.wrap(KEKS[0], b"key", aad=b"")
    library_of(vault).close()
    shutil.copytree(tmp_path / "vault", tmp_path / "thief", ignore=shutil.ignore_patterns("*.pin"))
    private_file.create(tmp_path / "thief" / "user.pin", b"guessed")
    thief = await open_vault(tmp_path / "thief", softhsm)

    with pytest.raises(UnavailableError) as refused:
        await thief.unwrap(KEKS[0], wrapped, aad=b"")
    assert refused.value.code == "VAULT_PIN_REFUSED"
    with pytest.raises(UnavailableError):
        await thief.keks()


async def test_a_second_token_of_a_name_is_not_shown_the_pin(softhsm: HsmSettings, tmp_path: Path) -> None:
    vault = await open_vault(tmp_path / "vault", softhsm)
    await vault.create_kek(KEKS[0])
    library, label = library_of(vault), vault.root_of_trust_of(KEKS[0].tenant_uid).token

    def stranger() -> str:
        with library.tokens() as tokens:
            free = next(token for token in tokens if not token.is_initialized)
            library.cryptoki.init_token(free.slot, b"a stranger", label)
        library.reopen(library.epoch)
        shown = []

        def pin() -> bytes:
            shown.append(label)
            return b""

        with pytest.raises(CryptokiError) as refused, library.session(label, pin):
            pass
        assert shown == []
        return str(refused.value)

    library._not_before = 0.0
    assert "TOKEN_NOT_RECOGNIZED" in await library.run_to_end(stranger)


def _device(directory: Path, *tokens: str) -> HsmSettings:
    """Configure tokens that somebody else has made, as those of a device are."""
    return HsmSettings(
        device=DeviceSettings(module=softhsm_module(), tokens=tokens, pin_file=directory / "somebodys" / "user.pin")
    )


@pytest.fixture
async def made_by_somebody(softhsm: HsmSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make tokens, and forget that it was us who did."""
    vault = await open_vault(tmp_path / "somebodys", softhsm)
    library = library_of(vault)

    def remove_witnesses() -> None:
        for label in ("bulkhead-00", "bulkhead-01"):
            with library.session(label, (tmp_path / "somebodys" / "user.pin").read_bytes) as session:
                for handle in library.cryptoki.find(session, {}):
                    library.cryptoki.destroy(session, handle)

    await library.run_to_end(remove_witnesses)
    library.close()
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "somebodys" / "softhsm2.conf"))
    return tmp_path


async def test_a_devices_tokens_are_used_as_they_are_and_their_order_is_settled(made_by_somebody: Path) -> None:
    directory, ours = made_by_somebody, made_by_somebody / "ours"
    vault = await open_vault(ours, _device(directory, "bulkhead-01", "bulkhead-00"))
    for kek in KEKS:
        await vault.create_kek(kek)
    wrapped = [await vault.wrap(kek, b"key", aad=b"") for kek in KEKS]

    for other in (("bulkhead-00", "bulkhead-01"), ("bulkhead-01",), ("bulkhead-01", "bulkhead-00", "third")):
        with pytest.raises(UnusableVaultError, match="in this order"):
            await open_vault(ours, _device(directory, *other))
        # And where this was forgotten, the tokens know.
        with pytest.raises(UnusableVaultError, match="in the same order"):
            await open_vault(directory / f"forgotten {len(other)} {other[0]}", _device(directory, *other))
    again = await open_vault(ours, _device(directory, "bulkhead-01", "bulkhead-00"))
    assert [await again.unwrap(kek, each, aad=b"") for kek, each in zip(KEKS, wrapped, strict=True)] == [b"key"] * 8
    assert not (ours / "tokens").exists()


async def test_a_pin_that_is_open_to_others_is_refused_with_what_to_do(made_by_somebody: Path) -> None:
    pin = made_by_somebody / "somebodys" / "user.pin"
    pin.chmod(0o644)

    with pytest.raises(ExposedKeyError, match="chmod 600"):
        await open_vault(made_by_somebody / "ours", _device(made_by_somebody, "bulkhead-00"))


async def test_what_is_no_library_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "pin").write_text("1234")
    (tmp_path / "pin").chmod(0o600)
    for module in (tmp_path / "nothing.so", tmp_path / "pin", Path(_ctypes.__file__)):
        other = DeviceSettings(module=module, tokens=("a",), pin_file=tmp_path / "pin")
        with pytest.raises(UnusableVaultError, match="must be one of PKCS#11"):
            await open_vault(tmp_path / "vault", HsmSettings(device=other))


async def test_without_softhsm_nothing_else_is_opened_and_the_remedy_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.keys.pkcs11.softhsm.find_module", lambda _environment: None)

    with pytest.raises(UnusableVaultError, match="apt-get install softhsm2"):
        await open_vault(tmp_path / "vault")


async def test_a_cell_with_a_device_has_no_software_vault_whatever_becomes_of_the_device(
    softhsm: HsmSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = cast("Settings", SimpleNamespace(hsm=softhsm, vault_dir=tmp_path / "vault"))

    assert isinstance(await open_any(settings), Pkcs11Vault)
    monkeypatch.setattr("control_plane.keys.pkcs11.softhsm.find_module", lambda _environment: None)
    with pytest.raises(UnusableVaultError):
        await open_any(settings)


async def test_a_process_has_one_owner_of_a_library(softhsm: HsmSettings, tmp_path: Path) -> None:
    first, second = await open_vault(tmp_path / "vault", softhsm), await open_vault(tmp_path / "vault", softhsm)

    assert library_of(first) is library_of(second)
    with pytest.raises(UnusableVaultError, match="in use by this process"):
        await open_vault(tmp_path / "another", softhsm)
    assert len(libraries._OWNERS) == 1


def test_a_library_whose_tokens_are_away_is_loaded_and_opened_later(tmp_path: Path) -> None:
    conf = tmp_path / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {tmp_path / 'away'}\n")
    library = Library.shared(softhsm_module(), {"SOFTHSM2_CONF": str(conf)})
    try:
        library.look()
        (tmp_path / "away").mkdir()

        assert library.reopen(library.epoch)
        with library.tokens() as tokens:
            assert [token.is_initialized for token in tokens] == [False]
    finally:
        library.close()


def test_an_error_names_the_function_and_the_code_and_no_argument() -> None:
    cryptoki = Cryptoki(softhsm_module())

    with pytest.raises(CryptokiError) as refused:
        cryptoki.login(1, 1, b"very secret")  # type: ignore[arg-type]  # no session
    assert str(refused.value) == "C_Login: CRYPTOKI_NOT_INITIALIZED (0x190)"
