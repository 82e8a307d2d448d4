"""The rule of each method, read from the options in the protos.

Google's own services carry no options of ours; their rules are stated here.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import Descriptor, FileDescriptor, MethodDescriptor

from bulkhead.edge.v1 import policies_pb2
from bulkhead.v1 import (
    audit_pb2,
    certificates_pb2,
    edges_pb2,
    encryption_pb2,
    escrows_pb2,
    isolation_pb2,
    key_imports_pb2,
    key_policies_pb2,
    keys_pb2,
    rules_pb2,
    secrets_pb2,
    signing_pb2,
    tenants_pb2,
    tokens_pb2,
)
from control_plane.serving.principal import Role

PLATFORM_FILES: Final[tuple[FileDescriptor, ...]] = (
    tenants_pb2.DESCRIPTOR,
    tokens_pb2.DESCRIPTOR,
    certificates_pb2.DESCRIPTOR,
    audit_pb2.DESCRIPTOR,
    edges_pb2.DESCRIPTOR,
    isolation_pb2.DESCRIPTOR,
    encryption_pb2.DESCRIPTOR,
    secrets_pb2.DESCRIPTOR,
    keys_pb2.DESCRIPTOR,
    key_imports_pb2.DESCRIPTOR,
    signing_pb2.DESCRIPTOR,
    key_policies_pb2.DESCRIPTOR,
    escrows_pb2.DESCRIPTOR,
    policies_pb2.DESCRIPTOR,
)

_OPERATORS: Final = rules_pb2.Rule(
    roles=[rules_pb2.ROLE_PLATFORM_ADMIN, rules_pb2.ROLE_PROVIDER_OPERATOR],
    cost=1,
    isolation=rules_pb2.ISOLATION_NONE,
    audit=rules_pb2.AUDIT_DENIALS,
)
_ANYONE: Final = rules_pb2.Rule(
    cost=1,
    isolation=rules_pb2.ISOLATION_NONE,
    audit=rules_pb2.AUDIT_DENIALS,
    unauthenticated=True,
)
GOOGLE_RULES: Final[Mapping[str, rules_pb2.Rule]] = {
    "/google.longrunning.Operations/GetOperation": _OPERATORS,
    "/google.longrunning.Operations/ListOperations": _OPERATORS,
    "/google.longrunning.Operations/WaitOperation": _OPERATORS,
    "/grpc.health.v1.Health/Check": _ANYONE,
    "/grpc.health.v1.Health/Watch": _ANYONE,
    # On the admin listener alone: a tenant's listener would give away the names of the administrators' methods.
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _OPERATORS,
}
_LEASE_CLASS: Final = re.compile(r"[a-z]+\.[a-z]+")


class RuleError(Exception):
    """A method has no rule, or one that cannot be meant."""


def role_number(role: Role) -> rules_pb2.Role.ValueType:
    """Return the role's number in rules.proto."""
    return rules_pb2.Role.Value(f"ROLE_{role.name}")


def load_rules(files: Iterable[FileDescriptor] = PLATFORM_FILES) -> dict[str, rules_pb2.Rule]:
    """Return the rule of each method by its full path, Google's included.

    Raises:
        RuleError: naming every method whose rule is missing or wrong, so that the process does not start.
    """
    rules = dict(GOOGLE_RULES)
    faults: list[str] = []
    for file in files:
        for service in file.services_by_name.values():
            for method in service.methods:
                path = f"/{service.full_name}/{method.name}"
                rules[path] = method.GetOptions().Extensions[rules_pb2.rule]
                faults += [f"{path}: {fault}" for fault in _faults(method, rules[path])]
    if faults:
        raise RuleError("\n".join(faults))
    return rules


def name_templates(files: Iterable[FileDescriptor] = PLATFORM_FILES) -> dict[str, str]:
    """Return, by method, the form of the name that says which tenant is meant: `tenants/*/certificates/*`.

    It stands in the method's REST path, beside the field that the rule names.
    """
    templates: dict[str, str] = {}
    for service in (service for file in files for service in file.services_by_name.values()):
        for method in service.methods:
            field = method.GetOptions().Extensions[rules_pb2.rule].tenant
            found = re.search(rf"{{{re.escape(field)}=([^}}]+)}}", _rest_path(method)) if field else None
            if found is not None:
                templates[f"/{service.full_name}/{method.name}"] = found[1]
    return templates


def _rest_path(method: MethodDescriptor) -> str:
    http: http_pb2.HttpRule = method.GetOptions().Extensions[annotations_pb2.http]  # type: ignore[index]  # no stubs
    kind = http.WhichOneof("pattern")
    return str(getattr(http, kind)) if kind else ""


def _faults(method: MethodDescriptor, rule: rules_pb2.Rule) -> Iterator[str]:
    if not method.GetOptions().HasExtension(rules_pb2.rule):
        yield "has no rule"
        return
    if rule.unauthenticated == bool(rule.roles):
        yield "must name its roles, or else be unauthenticated"
    if rules_pb2.ROLE_UNSPECIFIED in rule.roles:
        yield "names the role ROLE_UNSPECIFIED"
    if rule.cost < 1:
        yield "must cost at least 1"
    if rule.isolation == rules_pb2.ISOLATION_UNSPECIFIED:
        yield "must declare its isolation level"
    if rule.audit == rules_pb2.AUDIT_UNSPECIFIED:
        yield "must declare what the audit log keeps"
    yield from _tenant_faults(method, rule)
    if rule.lease_class and not _LEASE_CLASS.fullmatch(rule.lease_class):
        yield f"has the lease class {rule.lease_class!r}, which is not like `noun.verb`"


def _tenant_faults(method: MethodDescriptor, rule: rules_pb2.Rule) -> Iterator[str]:
    if rule.tenant and not _has_string_field(method.input_type, rule.tenant):
        yield f"names its tenant by {rule.tenant!r}, which the request does not have"
    elif rule.tenant and f"{{{rule.tenant}=tenants/*" not in _rest_path(method):
        yield f"has no REST path that says of what form {rule.tenant!r} is"
    if rule.isolation in {rules_pb2.ISOLATION_SERIALIZABLE, rules_pb2.ISOLATION_READ_COMMITTED} and not rule.tenant:
        yield "opens a tenant transaction, but no field of the request names the tenant"


def _has_string_field(message: Descriptor, path: str) -> bool:
    first, _, rest = path.partition(".")
    field = message.fields_by_name.get(first)
    if field is None:
        return False
    if rest:
        return field.message_type is not None and _has_string_field(field.message_type, rest)
    return field.type == field.TYPE_STRING and not field.is_repeated
