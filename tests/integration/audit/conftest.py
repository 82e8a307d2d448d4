"""Audit logs on a real database, with a real vault."""

from tests.fixtures.cell import cell, vault
from tests.fixtures.keyring import ring

__all__ = ["cell", "ring", "vault"]
