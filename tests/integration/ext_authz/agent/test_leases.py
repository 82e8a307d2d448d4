"""What passed an agent by is counted once, also by one that is killed while Envoy writes."""

import asyncio
import json
import os
from collections import Counter
from pathlib import Path

import grpc
import pytest
from typing_extensions import override

from bulkhead.edge.v1 import policies_pb2
from ext_authz.settings import EdgeSettings
from tests.fixtures.edge_policies import change, policy
from tests.fixtures.eventually import eventually
from tests.fixtures.policy_server import ControlPlane, serving
from tests.integration.ext_authz.agent.edge_dir import running, write_edge_dir
from tests.unit.ext_authz.leases.test_lines import GET, LIST, line


class Ledger(ControlPlane):
    """Counts a report once, as the real one does, and now and then does not say so."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger.take(change(policy(1), revision=5, snapshot=True))
        self.counted: Counter[str] = Counter()
        self.sequences: dict[str, int] = {}

    @override
    async def ReportDecisions(
        self, request: policies_pb2.ReportDecisionsRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> policies_pb2.ReportDecisionsResponse:
        self.reports.append(request)
        if self.sequences.get(request.reporter, 0) < request.sequence:
            self.sequences[request.reporter] = request.sequence
            for used in request.usage:
                self.counted[used.method] += used.admitted
        if len(self.reports) % 5 == 0:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "counted, and lost")
        return policies_pb2.ReportDecisionsResponse()


class Writer:
    """Appends without a pause, in pieces that end anywhere."""

    def __init__(self, settings: EdgeSettings) -> None:
        settings.edge_dir.mkdir(exist_ok=True)
        self._path = settings.lease_log
        self.written: Counter[str] = Counter()

    async def run(self, stop: asyncio.Event) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        while not stop.is_set():
            content = line(path=GET) * 7 + line(path=LIST) * 3
            for piece in (content[:333], content[333:]):
                os.write(descriptor, piece)
                await asyncio.sleep(0.001)
            self.written.update({GET: 7, LIST: 3})
        os.close(descriptor)


@pytest.mark.behaviour("S3.13")
async def test_an_agent_that_is_killed_while_envoy_writes_loses_nothing_and_doubles_nothing(folder: Path) -> None:
    server = Ledger()
    async with serving(server) as address:
        writer = Writer(write_edge_dir(folder, control_plane=address, workers=1))
        for number in range(4):
            async with running(folder, control_plane=address, workers=1) as agent:
                if number == 0:
                    # Before Envoy is told where to write, the agent knows how far the log is counted.
                    await eventually(agent.settings.lease_log.with_suffix(".checkpoint").exists)
                told = len(server.reports)
                stop = asyncio.Event()
                writing = asyncio.create_task(writer.run(stop))
                await eventually(lambda told=told: len(server.reports) > told + 3)  # type: ignore[misc]  # no lambda has types
                agent.process.kill()
                await agent.process.wait()
                stop.set()
                await writing
        async with running(folder, control_plane=address, workers=1):
            await eventually(lambda: server.counted == writer.written)

    assert len(server.sequences) == 1


async def test_a_control_plane_that_is_away_is_told_later(folder: Path) -> None:
    server = Ledger()
    async with serving(server) as address:
        settings = write_edge_dir(folder, control_plane=address, workers=1)
        async with running(folder, control_plane=address, workers=1):
            await eventually(settings.lease_log.with_suffix(".checkpoint").exists)
    async with running(folder, control_plane=address, workers=1):
        settings.lease_log.write_bytes(line(path=GET) * 5)
        checkpoint = settings.lease_log.with_suffix(".checkpoint")
        await eventually(lambda: json.loads(checkpoint.read_bytes())["end"] == len(line(path=GET)) * 5)
        async with serving(server, address):
            await eventually(lambda: server.counted == {GET: 5})
