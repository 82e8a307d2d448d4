"""A hub and an Envoy that says what a test has it say."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack

from bulkhead.envoy.v3 import discovery_pb2
from ext_authz.xds.hub import Hub
from ext_authz.xds.snapshot import ROUTES
from tests.fixtures.edge_policies import policy
from tests.fixtures.plain_resources import index_of

HUNDRED = index_of(*(policy(number) for number in range(100)))

Said = list[tuple[str, list[str], list[str]]]


class Conversation:
    """Everything that the hub says is kept unanswered until the test answers it."""

    def __init__(self, hub: Hub, node: str = "edge-1") -> None:
        self._connection = ExitStack()
        self.stream = self._connection.enter_context(hub.connect())
        self._node = node
        self.nonces: list[tuple[str, str]] = []
        self.versions: dict[str, str] = {}
        self.sizes: list[int] = []

    def ask(
        self,
        url: str,
        *names: str,
        give_up: Iterable[str] = (),
        held: Mapping[str, str] | None = None,
    ) -> Said:
        request = discovery_pb2.DeltaDiscoveryRequest(
            node=discovery_pb2.Node(id=self._node),
            type_url=url,
            resource_names_subscribe=names,
            resource_names_unsubscribe=give_up,
            initial_resource_versions=held,
        )
        request.node.user_agent_build_version.version.major_number = 1
        request.node.user_agent_build_version.version.minor_number = 40
        self.stream.receive(request)
        return self.hear()

    def hear(self) -> Said:
        """Return what the hub says now: the type's last word, what there is, and what there is not."""
        said: Said = []
        for response in self.stream.turns():
            if response is not None:
                self.nonces.append((response.type_url, response.nonce))
                self.sizes.append(response.ByteSize())
                names = [resource.name for resource in response.resources]
                self.versions |= {resource.name: resource.version for resource in response.resources}
                said.append((response.type_url.rpartition(".")[2], names, list(response.removed_resources)))
        return said

    def answer(self, error: str = "") -> Said:
        """Accept or refuse the first of what is unanswered; return what the hub says to that."""
        url, nonce = self.nonces.pop(0)
        request = discovery_pb2.DeltaDiscoveryRequest(type_url=url, response_nonce=nonce)
        if error:
            request.error_detail.message = error
        self.stream.receive(request)
        return self.hear()

    def accept_all(self) -> Said:
        """Accept everything, and what the hub says to that, until it says nothing more."""
        said: Said = []
        while self.nonces:
            said += self.answer()
        return said

    def go(self) -> None:
        self._connection.close()


def holding(hub: Hub, *tenants: int) -> Conversation:
    """Return an Envoy that has accepted these tenants' routes."""
    envoy = Conversation(hub)
    envoy.ask(ROUTES, *(f"tenant:org_{number}" for number in tenants))
    envoy.accept_all()
    return envoy
