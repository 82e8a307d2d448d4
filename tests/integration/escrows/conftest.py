"""Escrows of tenants' keys, on a real database, with a real vault."""

from tests.fixtures.cell import cell, vault
from tests.fixtures.escrow import escrow
from tests.fixtures.keyring import ring

__all__ = ["cell", "escrow", "ring", "vault"]
