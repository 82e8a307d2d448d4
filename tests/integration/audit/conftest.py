"""Audit logs on a real database, with a real vault."""

from tests.fixtures.cell import cell, vault
from tests.fixtures.keyring import ring
from tests.integration.audit.signed import log, placement

__all__ = ["cell", "log", "placement", "ring", "vault"]
