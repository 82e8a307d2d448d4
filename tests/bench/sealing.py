"""The kill switch under load: how soon it is answered, and what a neighbour notices of it.

The baseline of the neighbour's figures is what it waits while the other tenant's calls are let in, just before.
"""

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, Final

import grpc

from bulkhead.v1 import (
    certificates_pb2,
    certificates_pb2_grpc,
    seals_pb2,
    tenants_pb2_grpc,
    tokens_pb2,
    tokens_pb2_grpc,
)
from tests.bench.callers import UnexpectedAnswerError
from tests.bench.edge import figure
from tests.bench.measure import Figure, Work, figures
from tests.bench.system import System
from tests.fixtures.tasks import stop
from tests.isolation.rpc_requests import signing_request

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

ROUNDS: Final = 10
AT_ONCE: Final = 100
SETTLES_S: Final = 1.0
"""Left out: a hundred callers who begin at once."""
WATCHED_S: Final = 2.0
REFUSED_WAITS_S: Final = 0.6
"""At most, and half of that on average: about what was waited for an answer before, so that as many ask as did then."""


@dataclass(slots=True)
class Seen:
    """What one tenant's callers were answered: when they asked, and how long it took, in seconds."""

    begun: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    refused: int = 0

    async def repeat(self, work: Work) -> None:
        """Ask again and again, until it is cancelled."""
        while True:
            begun = time.perf_counter()
            try:
                await work()
            except grpc.aio.AioRpcError:
                self.refused += 1
                await asyncio.sleep(random.uniform(0, REFUSED_WAITS_S))
            else:
                self.begun.append(begun)
                self.took.append(time.perf_counter() - begun)

    def asked_within(self, start: float, end: float) -> list[float]:
        """Return how long the answers took, in milliseconds, of what was asked meanwhile."""
        return [took * 1000 for begun, took in zip(self.begun, self.took, strict=True) if start <= begun < end]

    @property
    def last(self) -> float:
        """When the last success came."""
        return max(begun + took for begun, took in zip(self.begun, self.took, strict=True))


@dataclass(slots=True)
class Taken:
    """What was measured, in milliseconds: of each round, and of each call of the neighbour's."""

    answered: list[float] = field(default_factory=list)
    last_success: list[float] = field(default_factory=list)
    before: list[float] = field(default_factory=list)
    meanwhile: list[float] = field(default_factory=list)
    afterwards: list[float] = field(default_factory=list)


class Callers:
    """Both services, and what a tenant asks of them."""

    def __init__(self, system: System, control: grpc.aio.Channel, certificates: grpc.aio.Channel) -> None:
        self._metadata = system.metadata
        self.control = control
        self._tenants: Any = tenants_pb2_grpc.TenantServiceStub(control)
        self._tokens: Any = tokens_pb2_grpc.TokenServiceStub(control)
        self._certificates: Any = certificates_pb2_grpc.CertificateServiceStub(certificates)
        self._csr = signing_request("bench.example.org")

    async def works(self, parent: str) -> list[Work]:
        """Return what one asks for: a token, a certificate, a list of them, and one of them read."""
        issuing = certificates_pb2.IssueCertificateRequest(parent=parent, csr_pem=self._csr)
        name = (await self._certificates.IssueCertificate(issuing, metadata=self._metadata)).name
        return [
            self._asking(self._tokens.IssueToken, tokens_pb2.IssueTokenRequest(parent=parent, subject="alice")),
            self._asking(self._certificates.IssueCertificate, issuing),
            self._asking(self._certificates.ListCertificates, certificates_pb2.ListCertificatesRequest(parent=parent)),
            self._asking(self._certificates.GetCertificate, certificates_pb2.GetCertificateRequest(name=name)),
        ]

    def _asking(self, method: Callable[..., Any], request: object) -> Work:
        async def ask() -> None:
            await method(request, metadata=self._metadata, timeout=20)

        return ask

    async def seal(self, name: str) -> None:
        """Seal a tenant; return once it is acknowledged."""
        await self._tenants.SealTenant(seals_pb2.SealTenantRequest(name=name, reason="bench"), metadata=self._metadata)


async def seal(system: System) -> AsyncIterator[Figure]:
    """Seal tenants that have a hundred calls under way, each beside a neighbour that asks for two things at a time."""
    taken = Taken()
    async with _callers(system) as callers:
        neighbour = await callers.works(f"tenants/{await system.create_tenant(callers.control)}")
        for _ in range(ROUNDS):
            name = f"tenants/{await system.create_tenant(callers.control)}"
            # It is no tenant that a case after this one could use.
            system.tenants["POOLED"].remove(name.partition("/")[2])
            await _round(system, callers, name, (neighbour[0], neighbour[-1]), taken=taken)
    answered, latest = statistics.median(taken.answered), max(taken.last_success)
    for found in [
        figure("seal.answered_p50", answered, "ms", runs=ROUNDS),
        figure("seal.last_success_max", latest, "ms", runs=ROUNDS),
        *figures("seal.neighbour_meanwhile", taken.meanwhile, taken.before, tail=0.99),
        *figures("seal.neighbour_afterwards", taken.afterwards, taken.before, tail=0.99),
    ]:
        yield found


async def _round(system: System, callers: Callers, name: str, neighbour: tuple[Work, ...], *, taken: Taken) -> None:
    others = Seen()
    ours, theirs = get_context("spawn").Pipe()
    # In a process of its own: a neighbour does not share the other's client.
    crowd = get_context("spawn").Process(target=_crowd, args=(system, name, theirs), daemon=True)
    crowd.start()
    # Else nobody would notice here that the process is gone.
    theirs.close()
    await asyncio.to_thread(ours.recv)
    calling = [asyncio.create_task(others.repeat(work)) for work in neighbour]
    await asyncio.sleep(SETTLES_S)
    start = time.perf_counter()
    await asyncio.sleep(WATCHED_S)
    called = time.perf_counter()
    await callers.seal(name)
    answered = time.perf_counter()
    await asyncio.sleep(WATCHED_S)
    end = time.perf_counter()
    ours.send(None)
    last = await asyncio.to_thread(ours.recv)
    await stop(calling)
    await asyncio.to_thread(crowd.join)
    if last > answered or others.refused:
        message = f"success {last - answered} s after the seal was answered, a neighbour's refused: {others.refused}"
        raise UnexpectedAnswerError(message)
    taken.answered.append((answered - called) * 1000)
    taken.last_success.append((last - called) * 1000)
    taken.before += others.asked_within(start, called)
    taken.meanwhile += others.asked_within(called, answered)
    taken.afterwards += others.asked_within(answered, end)


def _crowd(system: System, name: str, parent: "Connection[float | None, None]") -> None:
    """Call until the parent says so, and tell it when the last success came."""

    async def call() -> float:
        seen = Seen()
        async with _callers(system) as callers:
            works = itertools.islice(itertools.cycle(await callers.works(name)), AT_ONCE)
            calling = [asyncio.create_task(seen.repeat(work)) for work in works]
            parent.send(None)
            await asyncio.to_thread(parent.recv)
            await stop(calling)
        return seen.last

    parent.send(asyncio.run(call()))


@asynccontextmanager
async def _callers(system: System) -> AsyncIterator[Callers]:
    async with (
        system.channel(system.settings.control_plane) as control,
        system.channel(system.settings.certificates) as certificates,
    ):
        yield Callers(system, control, certificates)
