"""What may be leased: the classes that the RPCs' rules declare, and the requests that mean an RPC of one. Pure.

A request is one of a class only where all is plain: gRPC by the RPC's own path, REST by a GET of a collection or of one
of its items. Whatever else means the same RPC is asked about each time.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from control_plane.serving.rules import RuleError, load_rules

# `/api/v1/{name=tenants/*/certificates/*}`: what follows the tenant is a collection, or one of its items.
_PLAIN: Final = re.compile(r"/api/v1/\{\w+=tenants/\*(?:/(\w+)(/\*)?)?\}(?:/(\w+))?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedRpc:
    """An RPC that may be leased."""

    path: str
    """Such as `/bulkhead.v1.CertificateService/GetCertificate`."""
    lease_class: str
    cost: int
    collections: tuple[str, ...]
    """What follows the tenant in the REST paths of its GETs: `certificates`, or `certificates/*` for an item."""


def leased_rpcs(services: Iterable[ServiceDescriptor]) -> tuple[LeasedRpc, ...]:
    """Return the RPCs that may be leased.

    Raises:
        RuleError: the RPCs of a class differ in what they take, so that a lease of one would pay for another.
    """
    services = tuple(services)
    rules = load_rules([service.file for service in services])
    found: list[LeasedRpc] = []
    costs: dict[str, int] = {}
    for method in (method for service in services for method in service.methods):
        path = f"/{method.containing_service.full_name}/{method.name}"
        rule = rules[path]
        if not rule.lease_class:
            continue
        if costs.setdefault(rule.lease_class, rule.cost) != rule.cost:
            raise RuleError(f"{path}: others of the class {rule.lease_class!r} cost {costs[rule.lease_class]}")
        found.append(
            LeasedRpc(path=path, lease_class=rule.lease_class, cost=rule.cost, collections=tuple(_collections(method)))
        )
    return tuple(found)


def classes_by_collection(rpcs: Iterable[LeasedRpc]) -> Mapping[str, str]:
    """Return the classes of REST requests."""
    return {collection: rpc.lease_class for rpc in rpcs for collection in rpc.collections}


def _collections(method: MethodDescriptor) -> Iterator[str]:
    http: http_pb2.HttpRule = method.GetOptions().Extensions[annotations_pb2.http]  # type: ignore[index]  # no stubs
    for binding in (http, *http.additional_bindings):
        read = _PLAIN.fullmatch(binding.get)
        if read is not None and bool(read[1]) != bool(read[3]):
            yield (read[1] or read[3]) + (read[2] or "")
