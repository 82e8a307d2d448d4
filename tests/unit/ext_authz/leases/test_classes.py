"""Which requests mean an RPC that may be leased."""

from typing import Final

import pytest

from bulkhead.v1 import certificates_pb2, rules_pb2
from control_plane.serving.rules import RuleError
from ext_authz.leases import classes
from ext_authz.leases.classes import classes_by_collection, leased_rpcs

SERVICE: Final = certificates_pb2.DESCRIPTOR.services_by_name["CertificateService"]
PREFIX: Final = "/bulkhead.v1.CertificateService/"


def test_what_only_reads_may_be_leased() -> None:
    found = {rpc.path.removeprefix(PREFIX): (rpc.lease_class, rpc.collections) for rpc in leased_rpcs([SERVICE])}

    assert found == {
        "GetCertificate": ("certificates.read", ("certificates/*",)),
        "ListCertificates": ("certificates.list", ("certificates",)),
        "GetCertificateAuthority": ("certificates.read", ("certificateAuthority",)),
    }


def test_a_collection_leads_to_one_class() -> None:
    assert classes_by_collection(leased_rpcs([SERVICE])) == {
        "certificates/*": "certificates.read",
        "certificates": "certificates.list",
        "certificateAuthority": "certificates.read",
    }


@pytest.mark.behaviour("S3.19")
def test_a_lease_of_one_rpc_pays_for_no_dearer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def rules(_: object) -> dict[str, rules_pb2.Rule]:
        costs = {"GetCertificate": 1, "ListCertificates": 2}
        return {
            f"{PREFIX}{name}": rules_pb2.Rule(lease_class="c" if name in costs else "", cost=costs.get(name, 1))
            for name in (method.name for method in SERVICE.methods)
        }

    monkeypatch.setattr(classes, "load_rules", rules)

    with pytest.raises(RuleError, match="cost"):
        leased_rpcs([SERVICE])
