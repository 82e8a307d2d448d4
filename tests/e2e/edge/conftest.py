"""How much is asked of the edge: little each time, and much when the battery is run."""

import os
import random
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.edge.grammar import Case, Renderer, Request, Who, Wire
from tests.fixtures.edge import ClientAuthority, EdgeWorld, client_names, open_edge_world
from tests.fixtures.edge_wire import Answer, Asking, Door, Http2, http1, lines
from tests.fixtures.stack import Stack

# Set BATTERY to draw as many as the specification demands, and SEED to draw the same ones again.
IS_BATTERY: Final = bool(os.environ.get("BATTERY"))
PATIENCE_S: Final = 900 if IS_BATTERY else 120


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Draws what the test sends; the seed is in the output of a test that fails."""
    seed = int(os.environ.get("SEED") or random.SystemRandom().getrandbits(32))
    print(f"{request.node.name}: SEED={seed}")  # noqa: T201 shown when the test fails
    return random.Random(seed)


@pytest.fixture
def plain(edge_world: EdgeWorld) -> Door:
    """The plain listener."""
    return Door(address=edge_world.http)


@pytest.fixture(scope="session")
def client_authority(edge_world: EdgeWorld) -> ClientAuthority:
    return ClientAuthority.of(edge_world.stack)


class Callers:
    """Sends cases, those of one client on the same connection after each other."""

    def __init__(self, world: EdgeWorld, renderer: Renderer, certificates: dict[Who, Path]) -> None:
        self._world = world
        self._renderer = renderer
        self._certificates = certificates
        self._connections: dict[Door, Http2] = {}
        self._doors: dict[tuple[Who, str, Wire], Door] = {}

    def send(self, case: Case) -> Answer:
        request = self._renderer.write(case)
        door = self._door(case)
        if case.wire is Wire.HTTP1:
            return http1(door, lines(request.start, request.fields, request.body))
        return self._on_a_kept_connection(door, request)

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()

    def _on_a_kept_connection(self, door: Door, request: Request) -> Answer:
        connection = self._connections.get(door) or Http2(door)
        self._connections[door] = connection
        return connection.ask(Asking(headers=request.http2, body=request.body))

    def _door(self, case: Case) -> Door:
        if not case.tls:
            return Door(address=self._world.http)
        key = (case.certificate, self._renderer.server_name(case), case.wire)
        if key not in self._doors:
            context = trusting(self._world)
            if case.certificate is not Who.NONE:
                context.load_cert_chain(self._certificates[case.certificate])
            self._doors[key] = Door(address=self._world.https, tls=context, server_name=key[1])
        return self._doors[key]


def trusting(world: EdgeWorld) -> ssl.SSLContext:
    """Trust the edge, by whichever name it is called: what is asked for here is not always a name of its own."""
    context = ssl.create_default_context(cafile=world.stack.endpoints["edge_ca_file"])
    context.check_hostname = False
    return context


@pytest.fixture
def own_world(stack: Stack) -> Iterator[EdgeWorld]:
    """Tenants of one test's own, whose audit logs have nothing of others."""
    with open_edge_world(stack) as world:
        yield world


@pytest.fixture
def renderer(own_world: EdgeWorld) -> Renderer:
    return Renderer(own_world)


@pytest.fixture
def callers(
    own_world: EdgeWorld, renderer: Renderer, client_authority: ClientAuthority, *, tmp_path: Path
) -> Iterator[Callers]:
    """Clients with the certificate of each tenant, and with none."""
    certificates: dict[Who, Path] = {
        who: client_authority.issue(tmp_path, client_names(renderer.tenant_id(who)))
        for who in Who
        if who is not Who.NONE
    }
    made = Callers(own_world, renderer, certificates)
    yield made
    made.close()
