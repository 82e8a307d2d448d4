"""A tenant's keys are rotated under its callers: no token is refused at the edge, and no certificate unreadable."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import httpx
import jwt
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc

from bulkhead.v1 import key_requests_pb2, keys_pb2_grpc
from tests.fixtures.edge import EdgeTenant, EdgeWorld


@contextmanager
def rotating(world: EdgeWorld) -> Iterator[Callable[[str], None]]:
    """Connect as the platform's administrator; give what rotates the key of a name to the end."""
    trusted = grpc.ssl_channel_credentials((world.stack.dir / "ca" / "ca.pem").read_bytes())
    metadata = (("authorization", f"Bearer {world.platform_token}"),)
    with grpc.secure_channel(world.stack.endpoints["admin_grpc"], trusted) as channel:
        keys = keys_pb2_grpc.KeyServiceStub(channel)
        stub: Any = operations_pb2_grpc.OperationsStub  # Google's own stubs are not typed
        operations = stub(channel)

        def rotate(name: str) -> None:
            operation = keys.RotateKey(key_requests_pb2.RotateKeyRequest(name=name), metadata=metadata)
            while not operation.done:
                asked = operations_pb2.WaitOperationRequest(name=operation.name)
                operation = operations.WaitOperation(asked, metadata=metadata)
            assert operation.WhichOneof("result") == "response", operation

        yield rotate


def calling(world: EdgeWorld, tenant: EdgeTenant, stop: threading.Event) -> list[tuple[str, int, int]]:
    """Get a token and show it to the edge at once, again and again, beside one from before."""
    answers = []
    with httpx.Client(base_url=f"http://{world.http}") as edge:
        while not stop.is_set():
            token = world.founder.issue(tenant.tenant_id, "carol").token
            codes = [
                edge.get(f"/api/v1/{tenant.certificate}", headers={"authorization": f"Bearer {shown}"}).status_code
                for shown in (token, tenant.token)
            ]
            answers.append((jwt.get_unverified_header(token)["kid"], codes[0], codes[1]))
    return answers


@pytest.mark.behaviour("S2.5")
@pytest.mark.behaviour("S2.6")
def test_no_caller_notices_that_keys_are_rotated(edge_world: EdgeWorld) -> None:
    tenant = edge_world.founder.found("rotated")
    edge_world.founder.applied()
    stop = threading.Event()
    with ThreadPoolExecutor() as pool, rotating(edge_world) as rotate:
        answers = pool.submit(calling, edge_world, tenant, stop)
        try:
            for key in ("tokens", "kek", "storage", "tokens", "kek"):
                rotate(f"tenants/{tenant.tenant_id}/keys/{key}")
        finally:
            stop.set()
        seen = answers.result()
    kids = {kid for kid, _, _ in seen}

    assert {(new, old) for _, new, old in seen} == {(200, 200)}
    assert str(tenant.kid) in kids
    assert len(kids) >= 2
