"""SigningService over gRPC."""

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from typing_extensions import override

from bulkhead.v1 import signing_pb2, signing_pb2_grpc
from control_plane.encryption.model import Purpose
from control_plane.errors import NotFoundError, Violations
from control_plane.key_policies.gate import KeyGate
from control_plane.key_policies.messages import read_use
from control_plane.key_policies.model import Operation
from control_plane.keys.named.signatures import Content
from control_plane.keys.service import TenantKeys
from control_plane.serving import names
from control_plane.serving.call import current_call
from control_plane.serving.interception import Context
from control_plane.signing.model import check_data, check_signature
from control_plane.signing.service import Asked, Signing, key_name

# As many as a version's number can have.
_DIGITS = 9


class SigningServicer(signing_pb2_grpc.SigningServiceServicer):
    """See signing.proto."""

    def __init__(self, keys: TenantKeys, gate: KeyGate) -> None:
        """Use the tenants' `keys`, where `gate` lets pass."""
        self._signing = Signing(keys, gate)

    @override
    async def Sign(self, request: signing_pb2.SignRequest, context: Context) -> signing_pb2.SignResponse:
        handle = current_call().tenant()
        asked = _asked(request, Operation.SIGN, Violations())
        signed = await self._signing.sign(asked, handle)
        name = key_name(handle.placement, asked.use.key)
        return signing_pb2.SignResponse(signature=signed.signature, key_version=f"{name}/versions/{signed.version}")

    @override
    async def Verify(self, request: signing_pb2.VerifyRequest, context: Context) -> signing_pb2.VerifyResponse:
        violations, handle = Violations(), current_call().tenant()
        check_signature(request.signature, violations)
        if request.version < 0:
            violations.add("version", "counts from 1", reason="VERSION")
        asked = _asked(request, Operation.VERIFY, violations)
        found = await self._signing.verify(asked, request.signature, handle, version=request.version)
        if found is None:
            return signing_pb2.VerifyResponse()
        name = key_name(handle.placement, asked.use.key)
        return signing_pb2.VerifyResponse(verified=True, key_version=f"{name}/versions/{found}")

    @override
    async def GetPublicKey(self, request: signing_pb2.GetPublicKeyRequest, context: Context) -> signing_pb2.PublicKey:
        parts = names.parse(names.KEY_VERSION, request.name)
        version = parts["version"]
        if not (version.isascii() and version.isdecimal() and len(version) <= _DIGITS):
            raise NotFoundError(request.name)
        half = await self._signing.public_half(current_call().require_placement(), parts["key"], int(version))
        pem = load_der_public_key(half.der).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return signing_pb2.PublicKey(name=request.name, algorithm=half.algorithm, pem=pem.decode())


def _asked(
    request: signing_pb2.SignRequest | signing_pb2.VerifyRequest, operation: Operation, violations: Violations
) -> Asked:
    """Read what is to be signed, or was; raise InvalidArgumentError listing all that was found wrong by now."""
    key_id = names.parse(names.KEY, request.name)["key"]
    use = read_use(request, key_id, operation, call=current_call(), violations=violations)
    purpose = Purpose(context=dict(request.context), reason=request.reason)
    purpose.check(violations, field="context")
    is_digest = request.WhichOneof("content") == "digest"
    if not is_digest:
        check_data(request.data, violations)
    violations.check()
    known = signing_pb2.Digest.Algorithm.values()
    said = request.digest.algorithm if request.digest.algorithm in known else signing_pb2.Digest.ALGORITHM_UNSPECIFIED
    return Asked(
        content=Content(data=request.digest.value if is_digest else request.data, is_digest=is_digest),
        digest_algorithm=signing_pb2.Digest.Algorithm.Name(said) if is_digest else "",
        purpose=purpose,
        use=use,
    )
