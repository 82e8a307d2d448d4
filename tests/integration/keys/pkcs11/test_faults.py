"""What becomes of calls while a device fails, and after it: named errors, nothing in software, no restart."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from control_plane.errors import UnavailableError
from control_plane.keys.model import IntegrityError, KekRef, MissingKeyError, WrappedKey
from control_plane.keys.pkcs11.codes import SO, Rv
from control_plane.keys.pkcs11.cryptoki import CryptokiError
from control_plane.keys.pkcs11.library import Library
from control_plane.keys.vault import UnusableVaultError
from control_plane.keys.vault_pkcs11 import Pkcs11Vault
from control_plane.keys.vault_software import SoftwareVault
from control_plane.settings import HsmSettings
from tests.fixtures.softhsm import SETTINGS, FaultyCryptoki, library_of, library_of_its_own, open_vault, softhsm_module

KEK = KekRef(tenant_uid=UUID(int=1), version=1)
OTHER = KekRef(tenant_uid=UUID(int=2), version=1)
KEY = bytes(range(32))
NEW_PIN = b"another pin"
HANGS = timedelta(milliseconds=300)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "vault"


@pytest.fixture
async def faulty() -> AsyncIterator[FaultyCryptoki]:
    """Put the real library, whose answers can be replaced, in the place of the process's."""
    with library_of_its_own():
        made = FaultyCryptoki(softhsm_module())
        yield made


@pytest.fixture
async def vault(directory: Path, faulty: FaultyCryptoki, monkeypatch: pytest.MonkeyPatch) -> Pkcs11Vault:
    monkeypatch.setattr("control_plane.keys.pkcs11.library.Cryptoki", lambda _module: faulty)
    made = await open_vault(directory)
    await made.create_kek(KEK)
    return made


def _mended_at_once(vault: Pkcs11Vault) -> Library:
    library = library_of(vault)
    library._not_before = 0.0
    return library


def _token_folders(directory: Path) -> list[Path]:
    return sorted((directory / "tokens").iterdir())


async def _refused(vault: Pkcs11Vault, wrapped: WrappedKey) -> set[str]:
    """Ask for everything that a vault does, and return the reasons why it is not done."""
    reasons = set()
    for work in (
        vault.wrap(KEK, KEY, aad=b""),
        vault.unwrap(KEK, wrapped, aad=b""),
        vault.unwrap(KEK, wrapped, aad=b"another"),
        vault.create_kek(KEK),
        vault.create_kek(OTHER),
        vault.destroy_kek(KEK),
        vault.keks(),
    ):
        with pytest.raises(UnavailableError) as refused:
            await work
        reasons.add(refused.value.code)
    return reasons


@pytest.mark.behaviour("S2.17")
@pytest.mark.parametrize("whole", [False, True], ids=["its tokens", "the whole device"])
async def test_a_device_that_is_away_is_unavailable_and_nothing_is_missing_or_altered_or_made(
    vault: Pkcs11Vault, directory: Path, *, whole: bool
) -> None:
    wrapped = await vault.wrap(KEK, KEY, aad=b"")
    moved = [directory / "tokens"] if whole else _token_folders(directory)
    away = [path.rename(directory.parent / path.name) for path in moved]

    assert await _refused(vault, wrapped) == {"VAULT_UNAVAILABLE"}
    for path, origin in zip(away, moved, strict=True):
        path.rename(origin)
    _mended_at_once(vault)
    assert await vault.unwrap(KEK, wrapped, aad=b"") == KEY
    assert await vault.keks() == [KEK]


async def test_a_token_that_is_away_leaves_the_others_at_work(vault: Pkcs11Vault, directory: Path) -> None:
    elsewhere = next(
        kek
        for kek in (KekRef(tenant_uid=UUID(int=n), version=1) for n in range(2, 50))
        if vault._layout.known.token_of(kek.tenant_uid) != vault._layout.known.token_of(KEK.tenant_uid)
    )
    await vault.create_kek(elsewhere)
    wrapped, other = await vault.wrap(KEK, KEY, aad=b""), await vault.wrap(elsewhere, KEY, aad=b"")
    folder = next(folder for folder in _token_folders(directory) if _holds(vault, folder))
    folder.rename(directory.parent / "away")

    for _ in range(3):
        with pytest.raises(UnavailableError):
            await vault.unwrap(KEK, wrapped, aad=b"")
        assert await vault.unwrap(elsewhere, other, aad=b"") == KEY
    with pytest.raises(UnavailableError):
        await vault.keks()


def _holds(vault: Pkcs11Vault, folder: Path) -> bool:
    return vault._layout.known.token_of(KEK.tenant_uid).encode() in (folder / "token.object").read_bytes()


async def test_a_token_that_was_emptied_is_unavailable_and_its_keys_are_not_missing(
    vault: Pkcs11Vault, directory: Path
) -> None:
    wrapped = await vault.wrap(KEK, KEY, aad=b"")
    for folder in _token_folders(directory):
        for file in folder.glob("*-*.object"):
            file.unlink()

    _mended_at_once(vault)
    assert await _refused(vault, wrapped) == {"VAULT_UNAVAILABLE"}


async def test_a_token_that_is_lost_is_not_made_again(vault: Pkcs11Vault, directory: Path) -> None:
    library_of(vault).close()
    before = _token_folders(directory)
    before[0].rename(directory.parent / "lost")
    again = await open_vault(directory)

    with pytest.raises(UnavailableError):
        await again.keks()
    assert _token_folders(directory) == before[1:]


@pytest.mark.behaviour("S2.18")
@pytest.mark.parametrize("fault", ["logged out", "sessions closed", "library ended"])
async def test_a_lost_session_or_login_is_taken_up_again(vault: Pkcs11Vault, fault: str) -> None:
    wrapped = await vault.wrap(KEK, KEY, aad=b"")
    library, label = _mended_at_once(vault), vault._layout.known.token_of(KEK.tenant_uid)

    def lose() -> None:
        if fault == "library ended":
            # Nobody may be in it meanwhile: the standard promises nothing then.
            with library._gate.alone(), suppress(CryptokiError):
                library.cryptoki.finalize()
            return
        # The other threads may have lost it already.
        with suppress(CryptokiError, UnavailableError), library.session(label, lambda: b"") as session:
            lost = {"logged out": library.cryptoki.logout, "sessions closed": library.cryptoki.close_session}
            lost[fault](session)

    for work in (
        lambda: vault.unwrap(KEK, wrapped, aad=b""),
        lambda: vault.wrap(KEK, KEY, aad=b""),
        lambda: vault.create_kek(OTHER),
        vault.keks,
        lambda: vault.destroy_kek(OTHER),
    ):
        await asyncio.gather(*(library.run_to_end(lose) for _ in range(4)))
        library._not_before = 0.0
        await work()
    assert await vault.unwrap(KEK, wrapped, aad=b"") == KEY


@pytest.mark.parametrize("function", ["Encrypt", "Decrypt"])
@pytest.mark.parametrize("code", [Rv.GENERAL_ERROR, Rv.FUNCTION_FAILED, Rv.DEVICE_ERROR, 0x8000_0001])
async def test_a_fault_of_the_device_is_never_called_an_alteration(
    vault: Pkcs11Vault, faulty: FaultyCryptoki, function: str, code: int
) -> None:
    wrapped = await vault.wrap(KEK, KEY, aad=b"")
    faulty.answer = {function: code, "Decrypt": code}.get

    with pytest.raises(UnavailableError) as refused:
        await vault.unwrap(KEK, wrapped, aad=b"")
    assert refused.value.code == "VAULT_UNAVAILABLE"
    faulty.answer = lambda _function: None
    _mended_at_once(vault)
    assert await vault.unwrap(KEK, wrapped, aad=b"") == KEY


async def test_a_fault_that_passes_is_no_alteration(vault: Pkcs11Vault, faulty: FaultyCryptoki) -> None:
    wrapped = await vault.wrap(KEK, KEY, aad=b"")
    faults = [Rv.GENERAL_ERROR, Rv.GENERAL_ERROR]
    faulty.answer = lambda function: faults.pop() if function == "Decrypt" and faults else None

    assert await vault.unwrap(KEK, wrapped, aad=b"") == KEY


@pytest.mark.parametrize("code", [Rv.ENCRYPTED_DATA_INVALID, Rv.AEAD_DECRYPT_FAILED, Rv.ENCRYPTED_DATA_LEN_RANGE])
async def test_an_alteration_is_called_one_in_every_dialect(
    vault: Pkcs11Vault, faulty: FaultyCryptoki, code: int
) -> None:
    wrapped = await vault.wrap(KEK, KEY, aad=b"")
    faulty.answer = {"Decrypt": code}.get

    with pytest.raises(IntegrityError):
        await vault.unwrap(KEK, wrapped, aad=b"")


async def test_a_kek_whose_making_was_reported_failed_is_the_one(vault: Pkcs11Vault, faulty: FaultyCryptoki) -> None:
    faults = [Rv.DEVICE_ERROR]
    faulty.answer = lambda function: faults.pop() if function == "GenerateKey" and faults else None
    _mended_at_once(vault)
    faulty.calls.clear()
    await vault.create_kek(OTHER)

    assert faulty.calls.count("GenerateKey") == 1
    assert await vault.unwrap(OTHER, await vault.wrap(OTHER, KEY, aad=b""), aad=b"") == KEY


async def test_a_kept_handle_that_names_another_kek_by_now_wraps_and_opens_nothing(vault: Pkcs11Vault) -> None:
    await vault.create_kek(OTHER)
    handles, epoch = vault._keks._handles, library_of(vault).epoch
    mine, others = await vault.wrap(KEK, KEY, aad=b""), await vault.wrap(OTHER, KEY, aad=b"")

    def mix_up() -> None:
        handles.put(KEK, handles.get(OTHER, epoch=epoch), epoch=epoch)

    mix_up()
    wrapped = await vault.wrap(KEK, KEY, aad=b"")
    handles.put(KEK, (), epoch=epoch)
    assert [await vault.unwrap(KEK, each, aad=b"") for each in (wrapped, mine)] == [KEY, KEY]
    mix_up()
    with pytest.raises(IntegrityError):
        await vault.unwrap(KEK, others, aad=b"")
    mix_up()
    assert await vault.unwrap(KEK, mine, aad=b"") == KEY


async def test_several_keys_of_one_name_open_what_each_of_them_wrapped_and_go_together(
    vault: Pkcs11Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await vault.wrap(KEK, KEY, aad=b"")
    monkeypatch.setattr(vault._keks, "_look_up", lambda *_: ())
    await vault.create_kek(KEK)
    monkeypatch.undo()
    second = await vault.wrap(KEK, KEY, aad=b"")

    assert await vault.keks() == [KEK]
    assert [await vault.unwrap(KEK, each, aad=b"") for each in (first, second)] == [KEY, KEY]
    await vault.destroy_kek(KEK)
    for each in (first, second):
        with pytest.raises(MissingKeyError):
            await vault.unwrap(KEK, each, aad=b"")


def _change_pins(vault: Pkcs11Vault, directory: Path) -> None:
    """Set another PIN, as the security officer does at the device, and end everybody's sessions."""
    library = library_of(vault)
    so_pin = (directory / "so.pin").read_bytes()
    library.reopen(library.epoch)
    with library.tokens() as tokens:
        for token in tokens:
            if token.is_initialized:
                session = library.cryptoki.open_session(token.slot)
                library.cryptoki.login(session, SO, so_pin)
                library.cryptoki.init_pin(session, NEW_PIN)
                library.cryptoki.logout(session)
                library.cryptoki.close_session(session)


@pytest.mark.behaviour("S2.18")
async def test_a_wrong_pin_is_tried_once_and_another_as_soon_as_it_is_there(
    vault: Pkcs11Vault, directory: Path, faulty: FaultyCryptoki
) -> None:
    wrapped = await vault.wrap(KEK, KEY, aad=b"")
    library = _mended_at_once(vault)
    await library.run_to_end(lambda: _change_pins(vault, directory))
    faulty.calls.clear()
    reasons = set()
    for _ in range(8):
        with pytest.raises(UnavailableError) as refused:
            await vault.unwrap(KEK, wrapped, aad=b"")
        reasons.add(refused.value.code)

    assert reasons == {"VAULT_PIN_REFUSED"}
    assert faulty.calls.count("Login") == 1
    (directory / "user.pin").write_bytes(NEW_PIN + b"\n")
    assert await vault.unwrap(KEK, wrapped, aad=b"") == KEY


@pytest.mark.parametrize("mode", [0o640, 0o604])
async def test_a_pin_that_is_open_to_others_is_not_used(vault: Pkcs11Vault, directory: Path, mode: int) -> None:
    wrapped = await vault.wrap(KEK, KEY, aad=b"")
    library = _mended_at_once(vault)
    (directory / "user.pin").chmod(mode)
    await library.run_to_end(lambda: library.reopen(library.epoch))

    assert await _refused(vault, wrapped) == {"VAULT_PIN_REFUSED"}
    (directory / "user.pin").chmod(0o600)
    assert await vault.unwrap(KEK, wrapped, aad=b"") == KEY


async def test_no_pin_is_shown_in_any_error(vault: Pkcs11Vault, directory: Path) -> None:
    library = _mended_at_once(vault)
    pin = (directory / "user.pin").read_text()
    await library.run_to_end(lambda: _change_pins(vault, directory))
    with pytest.raises(UnavailableError) as refused:
        await vault.wrap(KEK, KEY, aad=b"")
    said = f"{refused.value!r} {refused.value.__cause__!r} {refused.value} {vault!r} {vault._place!r} {library!r}"

    assert pin not in said


async def test_a_device_that_hangs_is_unavailable_and_holds_up_no_event_loop(
    vault: Pkcs11Vault, faulty: FaultyCryptoki, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped = await vault.wrap(KEK, KEY, aad=b"")
    go_on = threading.Event()

    def hang(function: str) -> None:
        if function == "Decrypt":
            go_on.wait()

    faulty.answer = hang
    monkeypatch.setattr("control_plane.keys.vault_pkcs11.USE_WITHIN", HANGS)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    try:
        results = await asyncio.gather(*(vault.unwrap(KEK, wrapped, aad=b"") for _ in range(8)), return_exceptions=True)
    finally:
        go_on.set()
        ticking.cancel()

    assert {type(result) for result in results} == {UnavailableError}
    assert ticks > len(results)
    monkeypatch.undo()
    assert await vault.unwrap(KEK, wrapped, aad=b"") == KEY


async def test_a_vault_is_never_opened_as_the_other_kind(softhsm: HsmSettings, directory: Path, tmp_path: Path) -> None:
    await open_vault(directory, softhsm)
    await SoftwareVault.open(tmp_path / "software")

    with pytest.raises(UnusableVaultError, match="other kind"):
        await SoftwareVault.open(directory)
    with pytest.raises(UnusableVaultError, match="other kind"):
        await open_vault(tmp_path / "software", softhsm)
    assert not (directory / "root.key").exists()
    assert not (tmp_path / "software" / "tokens.json").exists()


async def test_the_number_of_shards_stays_what_a_vault_was_made_with(directory: Path) -> None:
    with library_of_its_own():
        vault = await open_vault(directory)
        await vault.create_kek(KEK)
        wrapped = await vault.wrap(KEK, KEY, aad=b"")
        again = await open_vault(directory, HsmSettings(shards=SETTINGS.shards + 5))

        assert await again.unwrap(KEK, wrapped, aad=b"") == KEY
        assert len(_token_folders(directory)) == SETTINGS.shards


async def test_a_lost_layout_is_not_guessed_anew(directory: Path) -> None:
    with library_of_its_own():
        await open_vault(directory)
        kept = (directory / "tokens.json").rename(directory.parent / "backup")

        with pytest.raises(UnusableVaultError, match="backup"):
            await open_vault(directory)
        kept.rename(directory / "tokens.json")
        await open_vault(directory)
