"""What a token is called on every surface."""

from control_plane.keys.pkcs11.cryptoki import Slot, TokenInfo
from control_plane.keys.vault import RootOfTrust
from control_plane.keys.vault_pkcs11 import root_of


def _token(model: str) -> TokenInfo:
    return TokenInfo(slot=Slot(1), label="a", model=model, firmware="7.4", is_initialized=True, has_user_pin=True)


def test_a_device_says_its_model_and_firmware() -> None:
    assert root_of(_token("LunaSA 7.4.0"), token="a") == RootOfTrust(
        hsm_backed=True, label="LunaSA 7.4.0", firmware="7.4", token="a"
    )


def test_software_in_the_place_of_a_device_is_called_software() -> None:
    assert not root_of(_token("SoftHSM v2"), token="a").hsm_backed


def test_nothing_is_claimed_of_a_device_that_was_never_seen() -> None:
    assert not root_of(None, token="a").hsm_backed
