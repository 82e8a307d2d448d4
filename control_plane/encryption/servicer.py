"""EncryptionService over gRPC."""

import secrets
from collections.abc import Mapping
from typing import Protocol

from typing_extensions import override

from bulkhead.v1 import encryption_pb2, encryption_pb2_grpc
from control_plane.encryption.model import Purpose, check_ciphertext, check_key, check_key_bytes, check_plaintext
from control_plane.encryption.service import Encryption, Use, key_version_name
from control_plane.encryption.uses import Operation
from control_plane.errors import Violations
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


class EncryptionServicer(encryption_pb2_grpc.EncryptionServiceServicer):
    """See encryption.proto."""

    def __init__(self, keys: TenantKeys) -> None:
        """Use the tenants' `keys`."""
        self._encryption = Encryption(keys)

    @override
    async def GenerateDataKey(
        self, request: encryption_pb2.GenerateDataKeyRequest, context: Context
    ) -> encryption_pb2.GenerateDataKeyResponse:
        violations, handle = Violations(), current_call().tenant()
        key_bytes = check_key_bytes(request.key_bytes, violations)
        purpose = _purpose(request, violations)
        plaintext = secrets.token_bytes(key_bytes)
        sealed = await self._encryption.seal(plaintext, purpose, handle, by=_by(Operation.GENERATE_DATA_KEY))
        return encryption_pb2.GenerateDataKeyResponse(
            plaintext=plaintext,
            ciphertext=sealed.ciphertext,
            key_version=key_version_name(handle, purpose, sealed.version),
        )

    @override
    async def Encrypt(self, request: encryption_pb2.EncryptRequest, context: Context) -> encryption_pb2.EncryptResponse:
        violations, handle = Violations(), current_call().tenant()
        check_plaintext(request.plaintext, violations)
        purpose = _purpose(request, violations)
        sealed = await self._encryption.seal(request.plaintext, purpose, handle, by=_by(Operation.ENCRYPT))
        return encryption_pb2.EncryptResponse(
            ciphertext=sealed.ciphertext, key_version=key_version_name(handle, purpose, sealed.version)
        )

    @override
    async def Decrypt(self, request: encryption_pb2.DecryptRequest, context: Context) -> encryption_pb2.DecryptResponse:
        violations, handle = Violations(), current_call().tenant()
        check_ciphertext(request.ciphertext, violations)
        purpose = _purpose(request, violations)
        opened = await self._encryption.open(request.ciphertext, purpose, handle, by=_by(Operation.DECRYPT))
        return encryption_pb2.DecryptResponse(
            plaintext=opened.plaintext, key_version=key_version_name(handle, purpose, opened.version)
        )

    @override
    async def Rewrap(self, request: encryption_pb2.RewrapRequest, context: Context) -> encryption_pb2.RewrapResponse:
        violations, handle = Violations(), current_call().tenant()
        check_ciphertext(request.ciphertext, violations)
        purpose = _purpose(request, violations)
        sealed = await self._encryption.rewrap(request.ciphertext, purpose, handle, by=_by(Operation.REWRAP))
        return encryption_pb2.RewrapResponse(
            ciphertext=sealed.ciphertext, key_version=key_version_name(handle, purpose, sealed.version)
        )


def _purpose(request: _Asked, violations: Violations) -> Purpose:
    """Read what the key is to be used for; raise InvalidArgumentError listing all that was found wrong by now."""
    key_id = check_key(request.key, current_call().tenant_name, violations)
    purpose = Purpose(key_id=key_id, context=dict(request.encryption_context), reason=request.reason)
    purpose.check(violations)
    violations.check()
    return purpose


def _by(operation: Operation) -> Use:
    return Use(operation=operation, principal=current_call().actor)
