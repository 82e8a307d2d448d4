"""A request means an RPC by its whole path, as Envoy's transcoder reads it, or it means none."""

import pytest

from bulkhead.v1 import certificates_pb2, tenants_pb2
from control_plane.serving.principal import Role
from control_plane.serving.rules import RuleError
from ext_authz.authz.methods import ExposedMethods, Wire
from tests.unit.ext_authz.authz.checks import METHODS

SERVICE = "/bulkhead.v1.CertificateService"
RPCS = [method.name for method in certificates_pb2.DESCRIPTOR.services_by_name["CertificateService"].methods]


@pytest.mark.parametrize("rpc", RPCS)
def test_an_rpc_is_meant_by_its_own_path(rpc: str) -> None:
    found = METHODS.find(Wire.GRPC, "POST", f"{SERVICE}/{rpc}")

    assert found is not None
    assert found.path == f"{SERVICE}/{rpc}"


@pytest.mark.parametrize(
    ("http_method", "path", "rpc"),
    [
        ("POST", "/api/v1/tenants/org_1/certificates:issue", "IssueCertificate"),
        ("GET", "/api/v1/tenants/org_1/certificates/c1", "GetCertificate"),
        ("GET", "/api/v1/tenants/org_1/certificates/a:b", "GetCertificate"),
        ("GET", "/api/v1/tenants/org_1/certificates", "ListCertificates"),
        ("POST", "/api/v1/tenants/org_1/certificates/c1:revoke", "RevokeCertificate"),
        ("POST", "/api/v1/tenants/org_1/certificates/a:b:revoke", "RevokeCertificate"),
        ("GET", "/api/v1/tenants/org_1/certificateAuthority", "GetCertificateAuthority"),
    ],
)
def test_an_rpc_is_meant_by_its_http_method_and_template(http_method: str, path: str, rpc: str) -> None:
    found = METHODS.find(Wire.HTTP, http_method, path)

    assert found is not None
    assert found.path == f"{SERVICE}/{rpc}"


@pytest.mark.parametrize(
    ("wire", "http_method", "path"),
    [
        (Wire.HTTP, "HEAD", "/api/v1/tenants/org_1/certificates"),
        (Wire.HTTP, "OPTIONS", "/api/v1/tenants/org_1/certificates"),
        (Wire.HTTP, "get", "/api/v1/tenants/org_1/certificates"),
        (Wire.HTTP, "DELETE", "/api/v1/tenants/org_1/certificates/c1"),
        (Wire.HTTP, "PUT", "/api/v1/tenants/org_1/certificates:issue"),
        (Wire.HTTP, "GET", "/api/v1/tenants/org_1/certificates:issue"),
        (Wire.HTTP, "GET", "/api/v1/tenants/org_1/certificates/c1:revoke"),
        (Wire.HTTP, "GET", "/api/v1/tenants/org_1/certificates/c1:issue"),
        (Wire.HTTP, "POST", "/api/v1/tenants/org_1/certificates/c1"),
        (Wire.HTTP, "POST", "/api/v1/tenants/org_1/certificates/:revoke"),
        (Wire.HTTP, "POST", "/api/v1/tenants/org_1/certificates:revoke"),
        (Wire.HTTP, "GET", "/api/v1/tenants/org_1/certificates/"),
        (Wire.HTTP, "GET", "/api/v1/tenants/org_1/certificates/c1/d"),
        (Wire.HTTP, "GET", "/api/v1/tenants/org_1/Certificates"),
        (Wire.HTTP, "GET", "/x/api/v1/tenants/org_1/certificates"),
        (Wire.HTTP, "GET", "/api/v1/tenants/org_1"),
        (Wire.HTTP, "GET", "/api/v1/tenants/org_1/certificates\n"),
        (Wire.HTTP, "GET", ""),
        (Wire.HTTP, "POST", f"{SERVICE}/GetCertificate"),
        (Wire.OTHER, "POST", f"{SERVICE}/GetCertificate"),
        (Wire.OTHER, "GET", "/api/v1/tenants/org_1/certificates"),
        (Wire.GRPC, "GET", f"{SERVICE}/GetCertificate"),
        (Wire.GRPC, "POST", f"{SERVICE}/getcertificate"),
        (Wire.GRPC, "POST", f"{SERVICE}/GetCertificate/"),
        (Wire.GRPC, "POST", f"{SERVICE}/Nothing"),
        (Wire.GRPC, "POST", "/api/v1/tenants/org_1/certificates:issue"),
        (Wire.GRPC, "POST", "/grpc.health.v1.Health/Check"),
        (Wire.GRPC, "POST", "/bulkhead.v1.TenantService/GetTenant"),
        (Wire.GRPC, "POST", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"),
    ],
)
def test_anything_else_means_nothing(wire: Wire, http_method: str, path: str) -> None:
    assert METHODS.find(wire, http_method, path) is None


def test_an_rpc_has_what_its_rule_says() -> None:
    found = METHODS.find(Wire.GRPC, "POST", f"{SERVICE}/IssueCertificate")

    assert found is not None
    assert found.roles == {Role.PLATFORM_ADMIN, Role.TENANT_ADMIN, Role.TENANT_MEMBER, Role.SERVICE}
    assert (found.scope, found.cost, found.tenant_field) == ("certificates.write", 10, "parent")
    assert METHODS.scopes == {"certificates.read", "certificates.write"}


def test_what_is_served_elsewhere_can_be_understood_too() -> None:
    elsewhere = ExposedMethods((tenants_pb2.DESCRIPTOR,))

    assert elsewhere.find(Wire.HTTP, "GET", "/api/v1/tenants/org_1") is not None


@pytest.mark.parametrize("template", ["/v1/{name=tenants/**}", "/v1/{a={b=c}}", "v1", "/v1/a:b:c", "/v1/a b", ""])
def test_a_template_that_is_not_understood_stops_the_start(template: str) -> None:
    method = METHODS.find(Wire.GRPC, "POST", f"{SERVICE}/GetCertificate")
    assert method is not None

    with pytest.raises(RuleError, match="does not understand"):
        METHODS._add("get", template, method)
