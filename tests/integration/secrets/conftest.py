"""Secrets on a real database, with a real vault, and callers of each kind that may do something with them."""

from collections.abc import AsyncIterator

import pytest

from control_plane.postgres.placement import Placement
from control_plane.serving.principal import Role
from tests.fixtures.cell import Cell, Metadata, SecretStub, bearer, cell, vault

__all__ = ["cell", "vault"]


@pytest.fixture
async def placement(cell: Cell) -> Placement:
    return await cell.tenant()


@pytest.fixture
async def admin(cell: Cell, placement: Placement) -> Metadata:
    """Who manages secrets, and reads no values."""
    return bearer(await cell.token(placement, subject="admin"))


@pytest.fixture
async def reader(cell: Cell, placement: Placement) -> Metadata:
    """Who reads values, and manages nothing."""
    return bearer(await cell.token(placement, Role.TENANT_MEMBER, subject="crawler", scopes=("secrets.access",)))


@pytest.fixture
async def stub(cell: Cell) -> AsyncIterator[SecretStub]:
    async with cell.secrets() as connected:
        yield connected
