"""The RPCs that tenants may call through the edge, and the request that means each: read from the protos, once.

An RPC is meant by its own path, where the request is one of gRPC, and by its HTTP method and template where it is not
(`google.api.http`). Templates are read as Envoy's transcoder reads them: a last segment that ends with a verb of some
template's (`:revoke`) is of no template without that verb. A request that the transcoder would not turn into an RPC
means none here.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor

from bulkhead.v1 import rules_pb2
from control_plane.serving.principal import Role
from control_plane.serving.rules import RuleError, load_rules, role_number

_KINDS: Final = ("get", "put", "post", "delete", "patch")
# `/api/v1/{name=tenants/*/certificates/*}:revoke`
_VARIABLE: Final = re.compile(r"\{[\w.]+=([^{}]+)\}")
_TEMPLATE: Final = re.compile(r"((?:/[\w.\-*]+)+)(?::(\w+))?", re.ASCII)


class Wire(StrEnum):
    """In which form a request says which RPC it means."""

    GRPC = "GRPC"
    HTTP = "HTTP"
    # gRPC with messages that nobody here reads.
    OTHER = "OTHER"


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """An RPC, with what its rule says."""

    path: str
    """Such as `/bulkhead.v1.CertificateService/GetCertificate`."""
    roles: frozenset[Role]
    scope: str
    cost: int
    lease_class: str
    """The class under which its decisions are leased; empty where they are not."""
    tenant_field: str
    """The field of the request that names the tenant; its REST path sets it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Template:
    segments: re.Pattern[str]
    verb: str
    method: Method


class ExposedMethods:
    """The RPCs of some services. Nothing is found by its HTTP method alone, and nothing by a part of its path."""

    def __init__(self, files: Iterable[FileDescriptor]) -> None:
        """Take the RPCs of the services in `files`.

        Raises:
            RuleError: where an RPC's rule or template is not to be understood.
        """
        self._by_path: dict[str, Method] = {}
        self._templates: dict[str, list[_Template]] = {}
        self._verbs: set[str] = set()
        files = tuple(files)
        rules = load_rules(files)
        for descriptor in (method for file in files for method in _methods(file)):
            path = f"/{descriptor.containing_service.full_name}/{descriptor.name}"
            method = self._by_path[path] = _method(path, rules[path])
            for kind, template in _bindings(descriptor):
                self._add(kind, template, method)
        self.scopes: Final = frozenset(method.scope for method in self._by_path.values() if method.scope)

    def find(self, wire: Wire, http_method: str, path: str) -> Method | None:
        """Return the RPC that a request means; `path` is without its query."""
        if wire is Wire.GRPC:
            return self._by_path.get(path) if http_method == "POST" else None
        if wire is not Wire.HTTP:
            return None
        segments, _, verb = path.rpartition(":")
        if "/" in verb or verb not in self._verbs:
            segments, verb = path, ""
        for template in self._templates.get(http_method, ()):
            if template.verb == verb and template.segments.fullmatch(segments):
                return template.method
        return None

    def _add(self, kind: str, template: str, method: Method) -> None:
        read = _TEMPLATE.fullmatch(_VARIABLE.sub(r"\1", template))
        if read is None or "**" in template:
            raise RuleError(f"{method.path}: the edge does not understand the template {template!r}")
        segments, verb = read[1], read[2] or ""
        pattern = re.compile(re.escape(segments).replace(r"\*", "[^/]+"))
        self._templates.setdefault(kind.upper(), []).append(_Template(segments=pattern, verb=verb, method=method))
        self._verbs |= {verb} - {""}


def _methods(file: FileDescriptor) -> Iterator[MethodDescriptor]:
    for service in file.services_by_name.values():
        yield from service.methods


def _method(path: str, rule: rules_pb2.Rule) -> Method:
    return Method(
        path=path,
        roles=frozenset(role for role in Role if role_number(role) in rule.roles),
        scope=rule.scope,
        cost=rule.cost,
        lease_class=rule.lease_class,
        tenant_field=rule.tenant,
    )


def _bindings(descriptor: MethodDescriptor) -> Iterator[tuple[str, str]]:
    http: http_pb2.HttpRule = descriptor.GetOptions().Extensions[annotations_pb2.http]  # type: ignore[index]  # no stubs
    for binding in (http, *http.additional_bindings):
        kind = binding.WhichOneof("pattern")
        if kind is not None and kind not in _KINDS:
            path = f"/{descriptor.containing_service.full_name}/{descriptor.name}"
            raise RuleError(f"{path}: the edge does not understand a binding by {kind!r}")
        if kind is not None:
            yield kind, str(getattr(binding, kind))
