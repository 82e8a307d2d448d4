"""A valid request for every RPC, derived from its descriptor: what only this RPC needs is added from a table."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from bulkhead.v1 import keys_pb2, rules_pb2
from control_plane.recipients.hpke import PrivateKey
from control_plane.serving.rules import PLATFORM_FILES

HTTP: Final[Any] = annotations_pb2.http  # typed as a plain descriptor, which is no key of an extension map
METHODS: Final[tuple[MethodDescriptor, ...]] = tuple(
    method for file in PLATFORM_FILES for service in file.services_by_name.values() for method in service.methods
)

# What every tenant has under the same name; versions count from 1, whatever they are of.
COMMON: Final[Mapping[str, str]] = {"keys": "storage", "versions": "1"}
# Made by the founder in every tenant; what cannot be asked of a key that is built in is asked of it.
OWN_KEY: Final = "signer"
OF_AN_OWN_KEY: Final = {"ScheduleKeyDestruction", "RestoreKey", "Sign", "Verify", "GetPublicKey"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A tenant, with one resource of each collection that names can point into."""

    tenant: str
    resources: Mapping[str, UUID]


def path(method: MethodDescriptor) -> str:
    """Return the method's full path."""
    return f"/{method.containing_service.full_name}/{method.name}"


def rule(method: MethodDescriptor) -> rules_pb2.Rule:
    """Return the method's rule."""
    return method.GetOptions().Extensions[rules_pb2.rule]


def resource_name(method: MethodDescriptor, target: Target) -> str:
    """Fill the name that the REST mapping knows, such as `tenants/*/tokens/*`, with the target's."""
    http = method.GetOptions().Extensions[HTTP]
    found = dict(re.findall(r"\{([\w.]+)=([^}]+)\}", getattr(http, http.WhichOneof("pattern"))))
    words = found[rule(method).tenant].split("/")
    for place, word in enumerate(words):
        if word == "*":
            collection = words[place - 1]
            words[place] = target.tenant if collection == "tenants" else _segment(collection, target)
            if collection == "keys" and method.name in OF_AN_OWN_KEY:
                words[place] = OWN_KEY
    return "/".join(words)


def _segment(collection: str, target: Target) -> str:
    # What every tenant has under the same name, or the id of its own.
    return COMMON.get(collection) or str(target.resources[collection])


def request(method: MethodDescriptor, target: Target) -> Message:
    """Make a request that changes nothing, or nothing that the next one would notice."""
    message: Message = GetMessageClass(method.input_type)()
    if rule(method).tenant:
        name_resource(message, rule(method).tenant, resource_name(method, target))
    ADDED.get(method.name, _nothing)(message)
    return message


def name_resource(message: Message, field: str, name: str) -> None:
    """Put the name into the field, whose path may have dots."""
    *outer, last = field.split(".")
    setattr(reduce(getattr, outer, message), last, name)


def _nothing(_message: Any) -> None:
    """Most requests are whole with the name."""


def _new_tenant(message: Any) -> None:
    message.tenant_id = "matrix_new"
    message.validate_only = True


def _update(message: Any) -> None:
    message.update_mask.paths.append("display_name")
    message.tenant.display_name = "changed"
    message.validate_only = True


def _stale_etag(message: Any) -> None:
    message.etag = "0000000000000000"


def _stale_etag_and_reason(message: Any) -> None:
    _stale_etag(message)
    message.reason = "for the matrix"


def _deletion(message: Any) -> None:
    _stale_etag_and_reason(message)
    message.confirmation = message.name.rpartition("/")[2]


def _token(message: Any) -> None:
    message.subject = "matrix"
    message.validate_only = True


def _secret(message: Any) -> None:
    message.secret_id = "matrix"
    message.payload = b"matrix"
    message.validate_only = True


def _described_secret(message: Any) -> None:
    message.update_mask.paths.append("description")
    message.secret.description = "changed"
    message.validate_only = True


def _value(message: Any) -> None:
    message.payload = b"matrix"
    message.validate_only = True


def _wrong_enrolment_token(message: Any) -> None:
    message.enrolment_token = "bulkhead_enrol_" + "A" * 43


def _signing_request(message: Any) -> None:
    message.csr_pem = CSR
    message.validate_only = True


def _validate(message: Any) -> None:
    message.validate_only = True


def _cell(message: Any) -> None:
    message.cell = "cells/local"


def _impossible_revision(message: Any) -> None:
    message.revision = -1


def _empty_report(message: Any) -> None:
    message.reporter = "00000000-0000-0000-0000-00000000000a"
    message.sequence = 1


def signing_request(common_name: str) -> str:
    """Make a PKCS#10 request in PEM, with a new key."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    names = x509.SubjectAlternativeName([x509.DNSName(common_name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject).add_extension(names, critical=False)
    signed = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


CSR: Final = signing_request("matrix.example.org")


def _plaintext(message: Any) -> None:
    message.plaintext = b"matrix"


def _ciphertext(message: Any) -> None:
    message.ciphertext = b"none"


def _new_key(message: Any) -> None:
    message.key_id = "matrix"
    message.key.purpose = keys_pb2.ENCRYPTION
    message.validate_only = True


def _new_import(message: Any) -> None:
    message.import_job.key = f"{message.parent}/keys/matrix"
    message.import_job.purpose = keys_pb2.ENCRYPTION
    message.validate_only = True


def _wrapped_key(message: Any) -> None:
    message.wrapped_key = b"none"


def _data(message: Any) -> None:
    message.data = b"matrix"


def _signature(message: Any) -> None:
    message.data = b"matrix"
    message.signature = b"none"


def _key_policy(message: Any) -> None:
    message.update_mask.paths.append("enforced")
    message.validate_only = True


def _escrow(message: Any) -> None:
    for name in ("ann", "bob"):
        message.recipients.add(name=name, public_key=PrivateKey.generate().public)
    message.threshold = 2
    _stale_etag(message)


def _digest(message: Any) -> None:
    message.digest = "0" * 64


def _recovery(message: Any) -> None:
    message.reason = "for the matrix"
    message.validate_only = True


def _approval(message: Any) -> None:
    message.recipient = "ann"
    message.approval = b"none"


ADDED: Final[Mapping[str, Callable[[Any], None]]] = {
    "CreateTenant": _new_tenant,
    "UpdateTenant": _update,
    "SuspendTenant": _stale_etag,
    "ReactivateTenant": _stale_etag,
    "SealTenant": _stale_etag_and_reason,
    "UnsealTenant": _stale_etag_and_reason,
    "DeleteTenant": _deletion,
    "UndeleteTenant": _stale_etag_and_reason,
    "IssueToken": _token,
    "RedeemEnrolmentToken": _wrong_enrolment_token,
    "IssueCertificate": _signing_request,
    "CreateSecret": _secret,
    "UpdateSecret": _described_secret,
    "DeleteSecret": _stale_etag,
    "AddSecretVersion": _value,
    "DisableSecretVersion": _stale_etag,
    "EnableSecretVersion": _stale_etag,
    "DestroySecretVersion": _stale_etag,
    "RotateKey": _validate,
    "RetireKeyVersion": _stale_etag,
    "EnableKeyVersion": _stale_etag,
    "CreateKey": _new_key,
    "ScheduleKeyDestruction": _stale_etag,
    "RestoreKey": _stale_etag,
    "CreateImportJob": _new_import,
    "ImportKey": _wrapped_key,
    "Sign": _data,
    "Verify": _signature,
    "UpdateKeyPolicy": _key_policy,
    "ProposeKeyPolicyChange": _key_policy,
    "ApproveKeyUse": _stale_etag,
    "DenyKeyUse": _stale_etag,
    "EnableEscrow": _escrow,
    "ConfirmEscrow": _digest,
    "DisableEscrow": _stale_etag,
    "BeginRecovery": _recovery,
    "ApproveRecovery": _approval,
    "VerifyCell": _cell,
    "Encrypt": _plaintext,
    "Decrypt": _ciphertext,
    "Rewrap": _ciphertext,
    "AcknowledgePolicies": _impossible_revision,
    "ReportDecisions": _empty_report,
}
