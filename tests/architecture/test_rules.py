"""Every RPC says in its .proto who may call it and how it runs; the build is shown to notice one that does not.

What a process checks as it starts (`serving/rules.py`) is checked here first, and beside it what only a build needs.
"""

import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import pytest
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool

import bulkhead
from bulkhead.v1 import rules_pb2
from control_plane.serving.rules import PLATFORM_FILES, RuleError, load_rules

ROOT: Final = Path(__file__).parents[2]
# Spoken between processes alone, with client certificates: no REST path leads there, and what it changes is theirs.
BETWEEN_PROCESSES: Final = "bulkhead.edge.v1"
HTTP: Final[Any] = annotations_pb2.http  # typed as a plain descriptor, which is no key of an extension map


def _generated_files() -> list[FileDescriptor]:
    modules = [module.name for module in pkgutil.walk_packages(bulkhead.__path__, "bulkhead.")]
    return [importlib.import_module(name).DESCRIPTOR for name in modules if name.endswith("_pb2")]


METHODS: Final[list[MethodDescriptor]] = [
    method for file in _generated_files() for service in file.services_by_name.values() for method in service.methods
]
EACH_METHOD: Final = pytest.mark.parametrize("method", METHODS, ids=lambda method: str(method.full_name))


def oversights(method: MethodDescriptor) -> Iterator[str]:
    """Say what looks forgotten in a rule that could be served all the same."""
    rule = method.GetOptions().Extensions[rules_pb2.rule]
    if len(set(rule.roles)) != len(rule.roles):
        yield "names a role twice"
    if rule.unauthenticated and (rule.scope or rule.lease_class):
        yield "asks for no credential, and has a scope or a lease class"
    if not rule.tenant and {"name", "parent"} & set(method.input_type.fields_by_name):
        yield "takes a resource name, and does not say that its tenant is to be checked"
    verb = method.GetOptions().Extensions[HTTP].WhichOneof("pattern")
    if method.containing_service.file.package == BETWEEN_PROCESSES:
        if set(rule.roles) != {rules_pb2.ROLE_EDGE}:
            yield "is for edges, and others may call it"
    elif verb is None:
        yield "has no path in the REST mapping"
    elif verb != "get" and rule.audit != rules_pb2.AUDIT_EFFECTS:
        yield "changes something, and leaves no entry in the audit log"


@pytest.mark.behaviour("H1")
def test_every_generated_service_is_covered_by_the_rules_of_the_processes() -> None:
    with_services = {file.name for file in _generated_files() if file.services_by_name}

    assert {file.name for file in PLATFORM_FILES} == with_services
    assert {f"/{method.containing_service.full_name}/{method.name}" for method in METHODS} <= load_rules().keys()


@EACH_METHOD
def test_the_rule_of_an_rpc_has_no_oversight(method: MethodDescriptor) -> None:
    assert list(oversights(method)) == []


@EACH_METHOD
def test_an_rpc_has_a_servicer_method(method: MethodDescriptor) -> None:
    service = method.containing_service
    proto = service.file.name.removesuffix(".proto").replace("/", ".")
    generated = getattr(importlib.import_module(f"{proto}_pb2_grpc"), f"{service.name}Servicer")
    _import_servicers()
    written = [cls for cls in generated.__subclasses__() if cls.__module__.startswith("control_plane.")]
    is_written = inspect.isasyncgenfunction if method.server_streaming else inspect.iscoroutinefunction

    assert len(written) == 1, f"{service.full_name} is served by {len(written)} classes"
    assert is_written(vars(written[0]).get(method.name))


def _import_servicers() -> None:
    # What an agent relays to its workers is the same service once more, and has tests of its own.
    for path in (ROOT / "control_plane").rglob("*servicer.py"):
        importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


# What a careless author could write into a service, and what the process answers instead of starting.
FAULTS: Final = {
    "no rule": ("", "has no rule"),
    "no role": ('tenant: "name" cost: 1 isolation: ISOLATION_NONE audit: AUDIT_EFFECTS', "must name its roles"),
    "role and none": (
        "roles: [ROLE_EDGE] unauthenticated: true cost: 1 isolation: ISOLATION_NONE audit: AUDIT_EFFECTS",
        "must name its roles, or else be unauthenticated",
    ),
    "no cost": ('tenant: "name" roles: [ROLE_EDGE] isolation: ISOLATION_NONE audit: AUDIT_EFFECTS', "must cost"),
    "no isolation": ('tenant: "name" roles: [ROLE_EDGE] cost: 1 audit: AUDIT_EFFECTS', "isolation level"),
    "no audit": ('tenant: "name" roles: [ROLE_EDGE] cost: 1 isolation: ISOLATION_NONE', "what the audit log keeps"),
    "no tenant": ("roles: [ROLE_EDGE] cost: 1 isolation: ISOLATION_SERIALIZABLE audit: AUDIT_EFFECTS", "no field"),
    "a tenant that is not in the request": (
        'tenant: "tenant.name" roles: [ROLE_EDGE] cost: 1 isolation: ISOLATION_NONE audit: AUDIT_EFFECTS',
        "names its tenant by 'tenant.name', which the request does not have",
    ),
    "no form of its names": (
        'tenant: "name" roles: [ROLE_EDGE] cost: 1 isolation: ISOLATION_NONE audit: AUDIT_EFFECTS scope: "unmapped"',
        "has no REST path that says of what form 'name' is",
    ),
    "a lease without a class": (
        'tenant: "name" roles: [ROLE_EDGE] cost: 1 isolation: ISOLATION_NONE audit: AUDIT_EFFECTS lease_class: "Purge"',
        "lease class",
    ),
}


@pytest.mark.parametrize(("rule", "fault"), FAULTS.values(), ids=FAULTS)
@pytest.mark.behaviour("H1")
def test_nothing_starts_with_an_rpc_that_was_added_with(rule: str, fault: str, tmp_path: Path) -> None:
    mapped = "" if "unmapped" in rule else 'option (google.api.http) = {post: "/api/v1/{name=tenants/*}:purge"};'
    changed = _with_added_rpc(mapped + (f"option (rule) = {{{rule}}};" if rule else ""), tmp_path)

    with pytest.raises(RuleError, match=fault) as raised:
        load_rules([changed])
    assert str(raised.value).startswith("/bulkhead.v1.TenantService/PurgeTenant: ")
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "found"),
    [
        pytest.param(
            'option (rule) = {tenant: "name"}; option (google.api.http) = {post: "/api/v1/{name=tenants/*}:purge"};',
            ["changes something, and leaves no entry in the audit log"],
            id="an effect without an entry",
        ),
        pytest.param(
            'option (rule) = {roles: [ROLE_EDGE, ROLE_EDGE] unauthenticated: true lease_class: "purge.all"};',
            [
                "names a role twice",
                "asks for no credential, and has a scope or a lease class",
                "takes a resource name, and does not say that its tenant is to be checked",
                "has no path in the REST mapping",
            ],
            id="a tenant that nobody checks",
        ),
    ],
)
def test_the_build_notices_an_oversight(options: str, found: list[str], tmp_path: Path) -> None:
    service = _with_added_rpc(options, tmp_path).services_by_name["TenantService"]

    assert list(oversights(service.methods_by_name["PurgeTenant"])) == found


def _with_added_rpc(options: str, tmp_path: Path) -> FileDescriptor:
    """Compile the tenants' service with one more RPC, and load it apart from the real one."""
    name = "bulkhead/v1/tenants.proto"
    rpc = f"rpc PurgeTenant(GetTenantRequest) returns (Tenant) {{ {options} }}"
    changed = tmp_path / name
    changed.parent.mkdir(parents=True)
    text = (ROOT / "proto" / name).read_text()
    changed.write_text(text.replace("service TenantService {", f"service TenantService {{ {rpc}", 1))
    known = descriptor_pb2.FileDescriptorSet.FromString((files("bulkhead.v1") / "bulkhead.protoset").read_bytes())
    others = descriptor_pb2.FileDescriptorSet(file=[file for file in known.file if file.name != name])
    (tmp_path / "others").write_bytes(others.SerializeToString())
    command = ["-m", "grpc_tools.protoc", f"--proto_path={tmp_path}", f"--descriptor_set_in={tmp_path / 'others'}"]
    subprocess.run([sys.executable, *command, f"--descriptor_set_out={tmp_path / 'changed'}", name], check=True)
    compiled = descriptor_pb2.FileDescriptorSet.FromString((tmp_path / "changed").read_bytes())
    pool = DescriptorPool()
    for file in [*others.file, *compiled.file]:
        pool.Add(file)
    return pool.FindFileByName(name)
