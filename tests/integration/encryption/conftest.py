"""Encryption on a real database, with a real vault."""

from collections.abc import AsyncIterator

import grpc
import pytest

from bulkhead.v1 import encryption_pb2_grpc
from tests.fixtures.cell import Cell, cell, vault
from tests.fixtures.keyring import ring

__all__ = ["cell", "ring", "vault"]


@pytest.fixture
async def stub(cell: Cell) -> "AsyncIterator[encryption_pb2_grpc.EncryptionServiceAsyncStub]":
    async with grpc.aio.insecure_channel(cell.address) as channel:
        yield encryption_pb2_grpc.EncryptionServiceStub(channel)
