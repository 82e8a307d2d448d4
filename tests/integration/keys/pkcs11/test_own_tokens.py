"""Tenants that have a token to themselves: nobody else's keys are in it, and theirs are nowhere else."""

import json
from pathlib import Path
from uuid import UUID

import pytest

from control_plane.errors import PreconditionError, UnavailableError
from control_plane.keys.model import KekRef, MissingKeyError
from control_plane.keys.pkcs11 import layout, tokens
from control_plane.keys.pkcs11.codes import SECRET_KEY, Attribute
from control_plane.keys.pkcs11.layout import WITNESS, object_id
from control_plane.keys.vault_pkcs11 import Pkcs11Vault
from control_plane.settings import DeviceSettings, HsmSettings
from tests.fixtures.softhsm import library_of, open_vault, softhsm_module
from tests.integration.keys.pkcs11.test_processes import said, start

A, B, C = (KekRef(tenant_uid=UUID(int=n), version=1) for n in (1, 2, 3))
KEY = bytes(range(32))
POOL = ("one", "two")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "vault"


@pytest.fixture
async def vault(softhsm: HsmSettings, directory: Path) -> Pkcs11Vault:
    return await open_vault(directory, softhsm)


async def _in_token(vault: Pkcs11Vault, label: str) -> set[bytes]:
    """Name all keys of a token."""
    library = library_of(vault)

    def names() -> set[bytes]:
        with library.session(label, vault._place.means.pin) as session:
            found = library.cryptoki.find(session, {Attribute.CLASS: SECRET_KEY})
            return {library.cryptoki.attributes(session, each, [Attribute.ID])[0] for each in found}

    return await library.run_to_end(names)


@pytest.mark.behaviour("S2.17", "I8")
async def test_a_token_of_a_tenants_own_has_its_keks_and_no_others(vault: Pkcs11Vault) -> None:
    await vault.create_kek(A, own_token=True)
    await vault.create_kek(B, own_token=True)
    await vault.create_kek(C)
    roots = [vault.root_of_trust_of(kek.tenant_uid) for kek in (A, B, C)]

    assert [root.own_token for root in roots] == [True, True, False]
    assert len({root.token for root in roots}) == len(roots)
    assert [await _in_token(vault, root.token) for root in roots] == [{WITNESS, object_id(kek)} for kek in (A, B, C)]
    assert await vault.keks() == [A, B, C]


async def test_later_keks_of_a_tenant_are_in_its_token_whether_or_not_it_is_said_again(vault: Pkcs11Vault) -> None:
    await vault.create_kek(A, own_token=True)
    second, third = (KekRef(tenant_uid=A.tenant_uid, version=version) for version in (2, 3))
    await vault.create_kek(second)
    await vault.create_kek(third, own_token=True)
    await vault.destroy_kek(A)
    token = vault.root_of_trust_of(A.tenant_uid).token

    assert await _in_token(vault, token) == {WITNESS, object_id(second), object_id(third)}


async def test_who_has_keks_among_others_gets_no_token_to_itself(vault: Pkcs11Vault) -> None:
    await vault.create_kek(A)
    wrapped = await vault.wrap(A, KEY, aad=b"")
    with pytest.raises(PreconditionError) as refused:
        await vault.create_kek(KekRef(tenant_uid=A.tenant_uid, version=2), own_token=True)

    assert refused.value.code == "HSM_TIER_UNAVAILABLE"
    assert await vault.keks() == [A]
    assert await vault.unwrap(A, wrapped, aad=b"") == KEY


async def test_a_token_whose_last_kek_is_destroyed_is_the_next_ones(vault: Pkcs11Vault) -> None:
    await vault.create_kek(A, own_token=True)
    token = vault.root_of_trust_of(A.tenant_uid).token
    wrapped = await vault.wrap(A, KEY, aad=b"")
    await vault.destroy_kek(A)
    await vault.destroy_kek(A)
    with pytest.raises(MissingKeyError):
        await vault.unwrap(A, wrapped, aad=b"")
    left = vault.root_of_trust_of(A.tenant_uid)
    await vault.create_kek(B, own_token=True)

    assert not left.own_token
    assert vault.root_of_trust_of(B.tenant_uid).token == token
    assert await _in_token(vault, token) == {WITNESS, object_id(B)}


@pytest.mark.behaviour("S2.18")
async def test_processes_that_are_up_find_a_token_that_another_one_has_made(
    vault: Pkcs11Vault, directory: Path
) -> None:
    await vault.create_kek(C)
    opened = []
    for number in (1, 2):
        wrapped = said(start("create-own", directory, str(number)))
        kek = KekRef(tenant_uid=UUID(int=number), version=1)
        opened.append(await vault.unwrap(kek, bytes.fromhex(wrapped), aad=b""))  # type: ignore[arg-type]  # as it is
    said(start("destroy", directory, "1"))
    with pytest.raises(MissingKeyError):
        await vault.wrap(A, KEY, aad=b"")

    assert opened == [b"of a process"] * 2
    assert not vault.root_of_trust_of(A.tenant_uid).own_token
    assert await vault.keks() == [B, C]


async def test_several_processes_never_give_out_one_token_twice(vault: Pkcs11Vault, directory: Path) -> None:
    for process in [start("create-own", directory, str(number)) for number in range(1, 5)]:
        said(process)
    keks = [KekRef(tenant_uid=UUID(int=number), version=1) for number in range(1, 5)]
    labels = [vault.root_of_trust_of(kek.tenant_uid).token for kek in keks]

    assert await vault.keks() == keks
    assert len(set(labels)) == len(labels)
    assert [await _in_token(vault, label) for label in labels] == [{WITNESS, object_id(kek)} for kek in keks]


@pytest.mark.parametrize("step", ["_keep_token", "_keep_witness", "layout.write", "make_key"])
async def test_who_is_interrupted_goes_on_with_the_same_token(
    vault: Pkcs11Vault, directory: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_arguments: object, **_more: object) -> None:
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr(layout if step == "layout.write" else tokens, step.rsplit(".", 1)[-1], fail)
        with pytest.raises(UnavailableError):
            await vault.create_kek(A, own_token=True)
    await vault.create_kek(A, own_token=True)
    root = vault.root_of_trust_of(A.tenant_uid)

    assert (root.token, root.own_token) == ("bulkhead-own-0001", True)
    assert len([entry for entry in (directory / "tokens").iterdir() if entry.is_dir()]) == 3


async def test_a_token_that_is_given_out_is_nobody_elses_before_it_has_a_kek(
    vault: Pkcs11Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(vault._keks, "create", lambda _kek: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await vault.create_kek(A, own_token=True)
    await vault.create_kek(B, own_token=True)
    await vault.create_kek(A)
    labels = [vault.root_of_trust_of(kek.tenant_uid).token for kek in (A, B)]

    assert labels == ["bulkhead-own-0001", "bulkhead-own-0002"]
    assert [await _in_token(vault, label) for label in labels] == [{WITNESS, object_id(kek)} for kek in (A, B)]


async def test_what_says_whose_tokens_are_whose_is_missed_and_no_key_is_said_to_be_missing(
    vault: Pkcs11Vault, directory: Path
) -> None:
    await vault.create_kek(A, own_token=True)
    wrapped = await vault.wrap(A, KEY, aad=b"")
    said_before = (directory / "tokens.json").read_bytes()
    for damaged in (None, b"{", b'{"format": 3, "tokens": ["a"], "is_made": true}'):
        (directory / "tokens.json").unlink(missing_ok=True)
        if damaged is not None:
            (directory / "tokens.json").write_bytes(damaged)
            (directory / "tokens.json").chmod(0o600)
        with pytest.raises(UnavailableError):
            await vault.unwrap(A, wrapped, aad=b"")
        with pytest.raises(UnavailableError):
            await vault.create_kek(B, own_token=True)
    (directory / "tokens.json").write_bytes(said_before)

    assert await vault.unwrap(A, wrapped, aad=b"") == KEY


async def test_a_version_that_knows_no_own_tokens_does_not_understand_the_file(
    vault: Pkcs11Vault, directory: Path
) -> None:
    shards_only = json.loads((directory / "tokens.json").read_bytes())["format"]
    await vault.create_kek(A, own_token=True)
    with_own = json.loads((directory / "tokens.json").read_bytes())["format"]

    assert (shards_only, with_own) == (1, 2)


@pytest.fixture
async def device(softhsm: HsmSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HsmSettings:
    """Configure a device with two shards, and two tokens to be given out, one of which has somebody's key."""
    somebodys = await open_vault(tmp_path / "somebodys", softhsm)
    library, means = library_of(somebodys), somebodys._place.means
    assert means.made_by_us is not None
    pins = means.made_by_us

    def prepare() -> None:
        for label in POOL:
            tokens._keep_token(library, label, pins)
        for label in ("bulkhead-00", "bulkhead-01"):
            with library.session(label, means.pin) as session:
                for handle in library.cryptoki.find(session, {}):
                    library.cryptoki.destroy(session, handle)
        with library.session(POOL[0], means.pin) as session:
            tokens.make_key(library.cryptoki, session, identity=b"somebody's", label=b"somebody's")

    await library.run_to_end(prepare)
    library.close()
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "somebodys" / "softhsm2.conf"))
    return HsmSettings(
        device=DeviceSettings(
            module=softhsm_module(),
            tokens=("bulkhead-00", "bulkhead-01"),
            own_tokens=("is not there", *POOL),
            pin_file=pins.user,
        )
    )


async def test_a_devices_tokens_are_given_out_one_by_one_and_none_that_has_keys(
    device: HsmSettings, directory: Path
) -> None:
    vault = await open_vault(directory, device)
    await vault.create_kek(A, own_token=True)
    with pytest.raises(PreconditionError) as refused:
        await vault.create_kek(B, own_token=True)

    assert vault.root_of_trust_of(A.tenant_uid).token == POOL[1]
    assert refused.value.code == "HSM_TIER_UNAVAILABLE"
    assert await vault.keks() == [A]
    assert await _in_token(vault, POOL[0]) == {b"somebody's"}
