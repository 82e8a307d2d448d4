"""What a tenant wants of its certificates, in and out of protobuf."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Final

from bulkhead.v1 import certificate_policies_pb2
from control_plane.errors import Violations
from control_plane.keys.algorithms import (
    DEFAULT_AUTHORITY,
    DEFAULT_POST_QUANTUM_AUTHORITY,
    CertificatePolicy,
    KeyAlgorithm,
    PostQuantum,
)
from control_plane.tenants.model import CERTIFICATE_POLICY_PATHS

_Message = certificate_policies_pb2.CertificatePolicy
_UNSPECIFIED: Final = 0


def read_new(message: _Message) -> CertificatePolicy:
    """Read what a new tenant is to have. What is no name in it is left out: `check` notes that."""
    post_quantum = _post_quantum(message)
    default = DEFAULT_POST_QUANTUM_AUTHORITY if post_quantum is PostQuantum.REQUIRED else DEFAULT_AUTHORITY
    authority = _algorithm(message.authority_algorithm) or default
    return CertificatePolicy(authority=authority, keys=frozenset(_keys(message)), post_quantum=post_quantum)


def changed(before: CertificatePolicy, message: _Message, paths: Collection[str]) -> CertificatePolicy:
    """Take over what the paths of a mask name. The authority's algorithm stays."""
    keys, post_quantum = CERTIFICATE_POLICY_PATHS
    return replace(
        before,
        keys=frozenset(_keys(message)) if keys in paths else before.keys,
        post_quantum=_post_quantum(message) if post_quantum in paths else before.post_quantum,
    )


def check(message: _Message, policy: CertificatePolicy, violations: Violations) -> None:
    """Note what of the message the policy that was read from it cannot say."""
    prefix = "tenant.certificate_policy."
    names = ", ".join(KeyAlgorithm)
    asked = message.authority_algorithm
    if asked != _UNSPECIFIED and _algorithm(asked) is None:
        violations.add(f"{prefix}authority_algorithm", f"must be one of {names}", reason="UNKNOWN")
    elif asked not in {_UNSPECIFIED, _number(policy.authority)}:
        settled = f"is {policy.authority}, and settled for as long as there is the tenant"
        violations.add(f"{prefix}authority_algorithm", settled, reason="IMMUTABLE")
    for index, number in enumerate(message.key_algorithms):
        if _algorithm(number) is None:
            violations.add(f"{prefix}key_algorithms[{index}]", f"must be one of {names}", reason="UNKNOWN")
    if message.post_quantum not in _Message.PostQuantum.values():
        violations.add(f"{prefix}post_quantum", f"must be one of {', '.join(PostQuantum)}", reason="UNKNOWN")


def to_proto(policy: CertificatePolicy) -> _Message:
    """Render the policy."""
    return _Message(
        authority_algorithm=_number(policy.authority),
        key_algorithms=sorted(map(_number, policy.keys)),
        post_quantum=_Message.PostQuantum.Value(policy.post_quantum),
    )


def _keys(message: _Message) -> Iterator[KeyAlgorithm]:
    for number in message.key_algorithms:
        algorithm = _algorithm(number)
        if algorithm is not None:
            yield algorithm


def _post_quantum(message: _Message) -> PostQuantum:
    names = {_Message.PostQuantum.Value(one): one for one in PostQuantum}
    return names.get(message.post_quantum, PostQuantum.OFF)


def _algorithm(number: int) -> KeyAlgorithm | None:
    # An open enum carries numbers that this version has no name for.
    return next((one for one in KeyAlgorithm if _number(one) == number), None)


def _number(algorithm: KeyAlgorithm) -> _Message.KeyAlgorithm.ValueType:
    return _Message.KeyAlgorithm.Value(algorithm)
