"""What every vault promises (`control_plane/keys/vault.py`), whatever holds its keys."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID

import pytest

from control_plane.errors import PreconditionError
from control_plane.keys.model import IntegrityError, KekRef, MissingKeyError, WrappedKey
from control_plane.keys.vault import KeyVault
from control_plane.keys.vault_pkcs11 import Pkcs11Vault
from control_plane.keys.vault_software import SoftwareVault
from control_plane.settings import HsmSettings

KEK = KekRef(tenant_uid=UUID(int=1), version=1)
NEXT_VERSION = KekRef(tenant_uid=UUID(int=1), version=2)
FOREIGN = KekRef(tenant_uid=UUID(int=2), version=1)
AAD = b"this very row"
KEY = bytes(range(32))

OpenVault = Callable[[], Awaitable[KeyVault]]
"""Opens the same vault once more, as another process does, or the same one after a restart."""


@pytest.fixture(params=["software", "pkcs11"])
def open_vault(request: pytest.FixtureRequest, tmp_path: Path, softhsm: HsmSettings) -> OpenVault:
    async def software() -> KeyVault:
        return await SoftwareVault.open(tmp_path / "vault")

    async def pkcs11() -> KeyVault:
        return await Pkcs11Vault.open(tmp_path / "vault", softhsm)

    return {"software": software, "pkcs11": pkcs11}[request.param]


@pytest.fixture
async def vault(open_vault: OpenVault) -> KeyVault:
    opened = await open_vault()
    await opened.create_kek(KEK)
    return opened


@pytest.mark.parametrize("size", [1, 16, 32, 138, 4096])
async def test_a_wrapped_key_is_unwrapped(vault: KeyVault, size: int) -> None:
    key = (KEY * 128)[:size]

    assert await vault.unwrap(KEK, await vault.wrap(KEK, key, aad=AAD), aad=AAD) == key


async def test_wrapping_hides_the_key_and_never_repeats_itself(vault: KeyVault) -> None:
    wrapped = [await vault.wrap(KEK, KEY, aad=AAD) for _ in range(8)]

    assert len(set(wrapped)) == len(wrapped)
    assert [each for each in wrapped if each.find(KEY[:8]) >= 0] == []


async def test_a_kek_is_made_once_and_stays(vault: KeyVault, open_vault: OpenVault) -> None:
    wrapped = await vault.wrap(KEK, KEY, aad=AAD)
    await vault.create_kek(KEK)
    await (await open_vault()).create_kek(KEK)

    assert await vault.unwrap(KEK, wrapped, aad=AAD) == KEY


async def test_of_many_that_make_a_kek_at_once_all_have_the_same(open_vault: OpenVault) -> None:
    vaults = [await open_vault() for _ in range(8)]
    await asyncio.gather(*(vault.create_kek(KEK) for vault in vaults))
    wrapped = [await vault.wrap(KEK, KEY, aad=AAD) for vault in vaults]

    assert {await vaults[0].unwrap(KEK, each, aad=AAD) for each in wrapped} == {KEY}
    assert await vaults[0].keks() == [KEK]


async def test_a_vault_that_is_opened_again_has_its_keks(vault: KeyVault, open_vault: OpenVault) -> None:
    wrapped = await vault.wrap(KEK, KEY, aad=AAD)
    again = await open_vault()

    assert await again.keks() == [KEK]
    assert await again.unwrap(KEK, wrapped, aad=AAD) == KEY


async def test_many_may_use_a_vault_at_once(vault: KeyVault) -> None:
    keys = [bytes([n]) * 32 for n in range(64)]
    wrapped = await asyncio.gather(*(vault.wrap(KEK, key, aad=AAD) for key in keys))

    assert await asyncio.gather(*(vault.unwrap(KEK, each, aad=AAD) for each in wrapped)) == keys


@pytest.mark.behaviour("T-K1")
async def test_a_key_opens_under_its_own_kek_only(vault: KeyVault) -> None:
    await vault.create_kek(FOREIGN)
    await vault.create_kek(NEXT_VERSION)
    wrapped = await vault.wrap(KEK, KEY, aad=AAD)

    assert await vault.unwrap(KEK, wrapped, aad=AAD) == KEY
    for other in (FOREIGN, NEXT_VERSION):
        with pytest.raises(IntegrityError):
            await vault.unwrap(other, wrapped, aad=AAD)


@pytest.mark.behaviour("T-K1")
@pytest.mark.parametrize("other", [b"", b"this very ro", b"this very row ", b"that very row"])
async def test_a_key_opens_with_its_own_aad_only(vault: KeyVault, other: bytes) -> None:
    wrapped = await vault.wrap(KEK, KEY, aad=AAD)

    assert await vault.unwrap(KEK, wrapped, aad=AAD) == KEY
    with pytest.raises(IntegrityError):
        await vault.unwrap(KEK, wrapped, aad=other)


@pytest.mark.behaviour("T-K1")
async def test_a_wrapped_key_that_was_changed_anywhere_does_not_open(vault: KeyVault) -> None:
    wrapped = await vault.wrap(KEK, KEY, aad=AAD)
    changed = [wrapped[:n] + bytes([wrapped[n] ^ 1]) + wrapped[n + 1 :] for n in range(len(wrapped))]
    changed += [wrapped[:n] for n in range(len(wrapped))] + [wrapped + b"\0"]

    assert await vault.unwrap(KEK, wrapped, aad=AAD) == KEY
    for each in changed:
        with pytest.raises(IntegrityError):
            await vault.unwrap(KEK, WrappedKey(each), aad=AAD)


async def test_a_kek_that_is_not_there_is_missed(vault: KeyVault) -> None:
    wrapped = await vault.wrap(KEK, KEY, aad=AAD)

    with pytest.raises(MissingKeyError):
        await vault.wrap(FOREIGN, KEY, aad=AAD)
    with pytest.raises(MissingKeyError):
        await vault.unwrap(FOREIGN, wrapped, aad=AAD)


async def test_what_a_destroyed_kek_wrapped_is_lost_for_every_process(vault: KeyVault, open_vault: OpenVault) -> None:
    other = await open_vault()
    await vault.create_kek(FOREIGN)
    wrapped = await vault.wrap(KEK, KEY, aad=AAD)
    kept = await vault.wrap(FOREIGN, KEY, aad=AAD)
    assert await other.unwrap(KEK, wrapped, aad=AAD) == KEY
    await vault.destroy_kek(KEK)

    for each in (vault, other, await open_vault()):
        with pytest.raises(MissingKeyError):
            await each.unwrap(KEK, wrapped, aad=AAD)
        assert await each.unwrap(FOREIGN, kept, aad=AAD) == KEY
        assert await each.keks() == [FOREIGN]


async def test_a_kek_made_anew_after_its_destruction_is_another(vault: KeyVault) -> None:
    wrapped = await vault.wrap(KEK, KEY, aad=AAD)
    await vault.destroy_kek(KEK)
    await vault.create_kek(KEK)

    assert await vault.unwrap(KEK, await vault.wrap(KEK, KEY, aad=AAD), aad=AAD) == KEY
    with pytest.raises(IntegrityError):
        await vault.unwrap(KEK, wrapped, aad=AAD)


async def test_destroying_is_done_once_and_may_be_asked_twice(vault: KeyVault) -> None:
    await vault.destroy_kek(KEK)
    await vault.destroy_kek(KEK)
    await vault.destroy_kek(FOREIGN)

    assert await vault.keks() == []


async def test_a_cancelled_making_is_over_before_a_destruction_clears_up(open_vault: OpenVault) -> None:
    vault = await open_vault()
    for n in range(20):
        making = asyncio.create_task(vault.create_kek(KEK))
        await asyncio.sleep(n / 20_000)
        making.cancel()
        await asyncio.wait([making])
        await vault.destroy_kek(KEK)

        assert await vault.keks() == []


async def test_the_census_lists_every_kek_and_nothing_else(vault: KeyVault) -> None:
    await vault.create_kek(FOREIGN)
    await vault.create_kek(NEXT_VERSION)

    assert sorted(await vault.keks()) == [KEK, NEXT_VERSION, FOREIGN]


async def test_a_vault_says_what_its_keys_rest_on_and_not_where(vault: KeyVault, tmp_path: Path) -> None:
    root = vault.root_of_trust

    assert root.label
    assert str(tmp_path) not in root.label
    assert vault.root_of_trust_of(KEK.tenant_uid).hsm_backed is root.hsm_backed


async def test_no_error_and_no_repr_shows_a_key(vault: KeyVault) -> None:
    wrapped = await vault.wrap(KEK, KEY, aad=AAD)
    with pytest.raises(IntegrityError) as refused:
        await vault.unwrap(KEK, wrapped, aad=b"")
    with pytest.raises(MissingKeyError) as missed:
        await vault.wrap(FOREIGN, KEY, aad=AAD)
    said = f"{vault!r} {refused.value!r} {missed.value!r} {refused.value} {missed.value}"

    assert repr(KEY)[2:-1] not in said
    assert KEY.hex() not in said
    assert wrapped.hex() not in said


@pytest.mark.behaviour("S2.17", "I8")
async def test_a_token_to_oneself_is_had_or_refused_and_never_replaced_by_a_shared_one(vault: KeyVault) -> None:
    refused = None
    try:
        await vault.create_kek(FOREIGN, own_token=True)
    except PreconditionError as error:
        refused = error.code

    assert refused == (None if vault.offers_own_tokens else "HSM_TIER_UNAVAILABLE")
    assert (FOREIGN in await vault.keks()) == vault.offers_own_tokens
    assert vault.root_of_trust_of(FOREIGN.tenant_uid).own_token == vault.offers_own_tokens
    assert not vault.root_of_trust_of(KEK.tenant_uid).own_token
