"""Calls on a real database, with a real vault."""

from tests.fixtures.cell import cell, vault

__all__ = ["cell", "vault"]
