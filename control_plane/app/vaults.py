"""Which kind of vault a cell has."""

from control_plane.keys.vault import KeyVault
from control_plane.keys.vault_pkcs11 import Pkcs11Vault
from control_plane.keys.vault_software import SoftwareVault
from control_plane.settings import Settings


async def open_vault(settings: Settings) -> KeyVault:
    """Open the vault that the cell was made with, and no other one: there is nothing to fall back to.

    Raises:
        ExposedKeyError, UnusableVaultError: as it is, it must not be used; the text says what to do.
        UnavailableError: it is yet to be made, and the device does not work.
    """
    if settings.hsm is not None:
        return await Pkcs11Vault.open(settings.vault_dir, settings.hsm)
    return await SoftwareVault.open(settings.vault_dir)
