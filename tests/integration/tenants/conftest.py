"""A cell whose tenants are sealed."""

from tests.fixtures.cell import cell, vault

__all__ = ["cell", "vault"]
