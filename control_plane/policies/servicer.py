"""PolicyService for the edges, and EdgeService for those who watch them, over gRPC."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Final

from typing_extensions import override

from bulkhead.edge.v1 import policies_pb2, policies_pb2_grpc
from bulkhead.v1 import edges_pb2, edges_pb2_grpc
from control_plane.errors import Violations
from control_plane.policies import wire
from control_plane.policies.feed import Publisher
from control_plane.policies.reports import Reports
from control_plane.policies.service import Edges
from control_plane.policies.traffic import Traffic
from control_plane.serving.call import current_call
from control_plane.serving.interception import Context
from control_plane.serving.principal import Role

_WAIT: Final = timedelta(seconds=10)
_LONGEST_WAIT: Final = timedelta(seconds=60)
# A call without a deadline of its own is ended by its reception after 30 seconds.
_LONGEST_WAIT_WITHOUT_DEADLINE: Final = timedelta(seconds=25)
# So that the answer, with those that lag, is there before the caller gives up.
_BEFORE_DEADLINE: Final = timedelta(milliseconds=200)
_TENANTS: Final = 20
_MOST_TENANTS: Final = 1000


class PolicyServicer(policies_pb2_grpc.PolicyServiceServicer):
    """See policies.proto."""

    def __init__(self, publisher: Publisher, edges: Edges, reports: Reports) -> None:
        """Publish, and keep what edges say."""
        self._publisher = publisher
        self._edges = edges
        self._reports = reports

    @override
    async def FollowPolicies(
        self, request: policies_pb2.FollowPoliciesRequest, context: Context
    ) -> AsyncIterator[policies_pb2.FollowPoliciesResponse]:
        async with aclosing(self._publisher.follow(wire.position_of(request))) as followed:
            async for changes in followed:
                for message in wire.to_responses(changes):
                    yield message

    @override
    async def AcknowledgePolicies(
        self, request: policies_pb2.AcknowledgePoliciesRequest, context: Context
    ) -> policies_pb2.AcknowledgePoliciesResponse:
        position, proxies = wire.position_of(request), wire.proxies_of(request)
        await self._edges.acknowledge(_caller(), position=position, proxies=proxies)
        return policies_pb2.AcknowledgePoliciesResponse()

    @override
    async def ReportDecisions(
        self, request: policies_pb2.ReportDecisionsRequest, context: Context
    ) -> policies_pb2.ReportDecisionsResponse:
        await self._reports.take(wire.report_of(request, now=datetime.now(UTC)))
        return policies_pb2.ReportDecisionsResponse()


class EdgeServicer(edges_pb2_grpc.EdgeServiceServicer):
    """See edges.proto."""

    def __init__(self, edges: Edges, traffic: Traffic) -> None:
        """Show what `edges` and `traffic` know."""
        self._edges = edges
        self._traffic = traffic

    @override
    async def ListEdges(self, request: edges_pb2.ListEdgesRequest, context: Context) -> edges_pb2.ListEdgesResponse:
        standing = await self._edges.standing(with_proxies=True)
        return edges_pb2.ListEdgesResponse(
            edges=[wire.to_edge(edge, standing) for edge in standing.edges], revision=standing.head.revision
        )

    @override
    async def WaitApplied(
        self, request: edges_pb2.WaitAppliedRequest, context: Context
    ) -> edges_pb2.WaitAppliedResponse:
        within = _bounded(_timeout(request), context.time_remaining())
        outcome = await self._edges.wait_applied(request.revision, within=within)
        return edges_pb2.WaitAppliedResponse(
            revision=outcome.revision,
            applied=not outcome.lagging,
            lagging=[wire.edge_name(edge) for edge in outcome.lagging],
            live_edges=outcome.live_edges,
        )

    @override
    async def ListTenantTraffic(
        self, request: edges_pb2.ListTenantTrafficRequest, context: Context
    ) -> edges_pb2.ListTenantTrafficResponse:
        violations = Violations()
        if not 0 <= request.page_size <= _MOST_TENANTS:
            violations.add("page_size", f"must be 0 to {_MOST_TENANTS}")
        violations.check()
        return wire.to_traffic(self._traffic.present(datetime.now(UTC)), most=request.page_size or _TENANTS)


def _caller() -> str:
    """Return the edge's name, as its certificate says it."""
    principal = current_call().principal
    if principal is None or principal.role is not Role.EDGE:
        message = "only an edge says how an edge is"
        raise RuntimeError(message)
    return principal.subject


def _timeout(request: edges_pb2.WaitAppliedRequest) -> timedelta:
    violations = Violations()
    if request.revision < 0:
        violations.add("revision", "must not be negative")
    if not -1 < request.timeout.seconds <= _LONGEST_WAIT.total_seconds() or request.timeout.nanos < 0:
        violations.add("timeout", f"must be at most {_LONGEST_WAIT.total_seconds():.0f} seconds")
    violations.check()
    return request.timeout.ToTimedelta() if request.HasField("timeout") else _WAIT


def _bounded(timeout: timedelta, deadline_s: float | None) -> timedelta:
    if deadline_s is None:
        return min(timeout, _LONGEST_WAIT_WITHOUT_DEADLINE)
    return max(min(timeout, timedelta(seconds=deadline_s) - _BEFORE_DEADLINE), timedelta())
