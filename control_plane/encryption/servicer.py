"""EncryptionService over gRPC."""

import secrets
from collections.abc import Mapping
from typing import Protocol

from typing_extensions import override

from bulkhead.v1 import encryption_pb2, encryption_pb2_grpc, key_uses_pb2
from control_plane.encryption.model import Purpose, check_ciphertext, check_key, check_key_bytes, check_plaintext
from control_plane.encryption.service import Encryption, key_version_name
from control_plane.errors import Violations
from control_plane.key_policies.gate import KeyGate
from control_plane.key_policies.messages import read_use
from control_plane.key_policies.model import KeyUse, Operation
from control_plane.keys.service import TenantKeys
from control_plane.serving.call import current_call
from control_plane.serving.interception import Context


class _Asked(Protocol):
    @property
    def encryption_context(self) -> Mapping[str, str]: ...
    @property
    def reason(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def reason_code(self) -> key_uses_pb2.KeyUse.ReasonCode.ValueType: ...


class EncryptionServicer(encryption_pb2_grpc.EncryptionServiceServicer):
    """See encryption.proto."""

    def __init__(self, keys: TenantKeys, gate: KeyGate) -> None:
        """Use the tenants' `keys`, where `gate` lets pass."""
        self._encryption = Encryption(keys, gate)

    @override
    async def GenerateDataKey(
        self, request: encryption_pb2.GenerateDataKeyRequest, context: Context
    ) -> encryption_pb2.GenerateDataKeyResponse:
        violations, handle = Violations(), current_call().tenant()
        key_bytes = check_key_bytes(request.key_bytes, violations)
        purpose, use = _asked(request, Operation.GENERATE_DATA_KEY, violations)
        plaintext = secrets.token_bytes(key_bytes)
        sealed = await self._encryption.seal(plaintext, purpose, handle, use=use)
        return encryption_pb2.GenerateDataKeyResponse(
            plaintext=plaintext,
            ciphertext=sealed.ciphertext,
            key_version=key_version_name(handle, use.key, sealed.version),
        )

    @override
    async def Encrypt(self, request: encryption_pb2.EncryptRequest, context: Context) -> encryption_pb2.EncryptResponse:
        violations, handle = Violations(), current_call().tenant()
        check_plaintext(request.plaintext, violations)
        purpose, use = _asked(request, Operation.ENCRYPT, violations)
        sealed = await self._encryption.seal(request.plaintext, purpose, handle, use=use)
        return encryption_pb2.EncryptResponse(
            ciphertext=sealed.ciphertext, key_version=key_version_name(handle, use.key, sealed.version)
        )

    @override
    async def Decrypt(self, request: encryption_pb2.DecryptRequest, context: Context) -> encryption_pb2.DecryptResponse:
        violations, handle = Violations(), current_call().tenant()
        check_ciphertext(request.ciphertext, violations)
        purpose, use = _asked(request, Operation.DECRYPT, violations)
        opened = await self._encryption.open(request.ciphertext, purpose, handle, use=use)
        return encryption_pb2.DecryptResponse(
            plaintext=opened.plaintext, key_version=key_version_name(handle, use.key, opened.version)
        )

    @override
    async def Rewrap(self, request: encryption_pb2.RewrapRequest, context: Context) -> encryption_pb2.RewrapResponse:
        violations, handle = Violations(), current_call().tenant()
        check_ciphertext(request.ciphertext, violations)
        purpose, use = _asked(request, Operation.REWRAP, violations)
        sealed = await self._encryption.rewrap(request.ciphertext, purpose, handle, use=use)
        return encryption_pb2.RewrapResponse(
            ciphertext=sealed.ciphertext, key_version=key_version_name(handle, use.key, sealed.version)
        )


def _asked(request: _Asked, operation: Operation, violations: Violations) -> tuple[Purpose, KeyUse]:
    """Read what the key is to be used for; raise InvalidArgumentError listing all that was found wrong by now."""
    key_id = check_key(request.key, current_call().tenant_name, violations)
    use = read_use(request, key_id, operation, call=current_call(), violations=violations)
    purpose = Purpose(context=dict(request.encryption_context), reason=request.reason)
    purpose.check(violations)
    violations.check()
    return purpose, use
