"""What a real Envoy writes of leased requests is counted once, also while it is asked for another log."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from uuid import UUID

import pytest

from bulkhead.v1 import certificates_pb2
from ext_authz.leases.classes import leased_rpcs
from ext_authz.leases.grants import ticket
from ext_authz.leases.lines import Prices
from ext_authz.leases.log import LeaseLog
from ext_authz.leases.reader import LeaseReader, ReopeningError, reopen_logs
from tests.fixtures.eventually import eventually
from tests.fixtures.ports import free_ports
from tests.integration.ext_authz.envoy_edge.decisions import CONTEXT, admitted, headers
from tests.integration.ext_authz.envoy_edge.edge import TENANTS, Edge
from tests.integration.ext_authz.envoy_edge.http1 import request, send
from tests.unit.ext_authz.leases.writing import Server

PRICES = Prices(leased_rpcs(certificates_pb2.DESCRIPTOR.services_by_name.values()))
PATH = "/api/v1/tenants/acme/certificates"
LIST = "/bulkhead.v1.CertificateService/ListCertificates"


def grant_calls(edge: Edge, calls: int) -> None:
    """Have each Check grant so many calls."""
    shown = ticket(TENANTS[0].revision, "certificates.list", tenant_uid=TENANTS[0].uid, session=UUID(int=7))
    answer = admitted()
    assert answer.ok_response is not None
    ends = int(time.time() * 1000) + 60_000
    answer.ok_response.response_headers_to_add += headers({"x-bulkhead-grant": f"1 {calls} {ends} {shown} {CONTEXT}"})
    edge.workers.decide(answer)


async def ask(edge: Edge, times: int, *, caller: int) -> None:
    for _ in range(times):
        await send(edge.http_port, request(PATH, ("authorization", f"Bearer {caller}")))


@asynccontextmanager
async def reading(reader: LeaseReader) -> AsyncIterator[None]:
    task = asyncio.create_task(reader.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.behaviour("S3.14")
async def test_requests_that_pass_the_agent_by_are_counted_once_while_logs_take_turns(edge: Edge) -> None:
    grant_calls(edge, 20)
    server = Server()
    log = LeaseLog(edge.settings.lease_log, large=2000)
    reader = LeaseReader(log, server, PRICES, reopen=partial(reopen_logs, edge.settings.admin_listen))
    await reader.open()
    async with reading(reader):
        await asyncio.gather(*(ask(edge, 105, caller=caller) for caller in range(4)))
        leased = 4 * 105 - len(edge.workers.raw)
        await eventually(lambda: server.counted.total() == leased)

    assert leased == 4 * 100
    assert server.counted == {LIST: leased}
    assert max(server.sequences.values()) > 2000, "it was more than one log"


async def test_an_envoy_that_is_away_is_told_as_such() -> None:
    with pytest.raises(ReopeningError, match="does not answer"):
        await asyncio.to_thread(reopen_logs, f"127.0.0.1:{free_ports(1)[0]}")
