"""KeyService over gRPC."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from google.longrunning import operations_pb2
from typing_extensions import override

from bulkhead.v1 import key_changes_pb2, key_requests_pb2, keys_pb2, keys_pb2_grpc, receipts_pb2
from control_plane.errors import NotFoundError, Violations
from control_plane.ids import uuid_of
from control_plane.keyring import destructions, named_keys, service
from control_plane.keyring.model import RECEIPT_TYPE, Key, KeyVersion, Receipt, Resealing, VersionState, position
from control_plane.keyring.named_keys import Making
from control_plane.keys.model import KEK, Purpose
from control_plane.keys.named.model import NamedKey, check_key_id, check_kind, check_waiting
from control_plane.keys.service import TenantKeys
from control_plane.keys.vault import RootOfTrust
from control_plane.operations.plan import DeferJob, Plans
from control_plane.operations.servicer import to_proto as operation_to_proto
from control_plane.serving import names
from control_plane.serving.call import Call, current_call
from control_plane.serving.fields import read_request_id
from control_plane.serving.interception import Context
from control_plane.serving.paging import PageTokens
from control_plane.token_keys import read_token_key

# Of a waiting period; far more than is allowed.
_LONGEST_READ_S: Final = 10**9


class KeyServicer(keys_pb2_grpc.KeyServiceServicer):
    """See keys.proto."""

    def __init__(
        self, keys: TenantKeys, page_tokens: PageTokens, plans: Plans, *, defer: DeferJob, making: Making
    ) -> None:
        """Say what `keys` rest on; defer the jobs of rotations with `defer`; make tenants' own keys by `making`."""
        self._keys = keys
        self._making = making
        self._page_tokens = page_tokens
        self._plans = plans
        self._defer = defer

    @override
    async def ListKeys(self, request: key_requests_pb2.ListKeysRequest, context: Context) -> keys_pb2.ListKeysResponse:
        call, placement = current_call(), current_call().require_placement()
        page = self._page_tokens.page(request, method=call.method, parent=call.tenant_name, now=datetime.now(UTC))
        keys = await call.system().run(lambda tx: service.list_keys(tx, placement))
        rest = [key for key in keys if not page.after or key.position > position(page.after)]
        shown, next_page_token = page.cut(rest, lambda key: key.id)
        root = self._keys.root_of_trust(placement.uid)
        return keys_pb2.ListKeysResponse(
            keys=[key_to_proto(key, root) for key in shown], next_page_token=next_page_token
        )

    @override
    async def GetKey(self, request: key_requests_pb2.GetKeyRequest, context: Context) -> keys_pb2.Key:
        placement = current_call().require_placement()
        key_id = names.parse(names.KEY, request.name)["key"]
        key = await current_call().system().run(lambda tx: service.get_key(tx, placement, key_id))
        return key_to_proto(key, self._keys.root_of_trust(placement.uid))

    @override
    async def ListKeyVersions(
        self, request: key_requests_pb2.ListKeyVersionsRequest, context: Context
    ) -> keys_pb2.ListKeyVersionsResponse:
        call, placement = current_call(), current_call().require_placement()
        key_id = names.parse(names.KEY, request.parent, field="parent")["key"]
        page = self._page_tokens.page(request, method=call.method, parent=request.parent, now=datetime.now(UTC))
        key = await call.system().run(lambda tx: service.get_key(tx, placement, key_id))
        rest = [each for each in key.versions if not page.after or each.version < int(page.after)]
        shown, next_page_token = page.cut(rest, lambda version: version.version)
        return keys_pb2.ListKeyVersionsResponse(
            key_versions=[_version_to_proto(key, version) for version in shown], next_page_token=next_page_token
        )

    @override
    async def CreateKey(self, request: keys_pb2.CreateKeyRequest, context: Context) -> keys_pb2.Key:
        call, now = current_call(), datetime.now(UTC)
        creation = _creation(request, call)
        root = self._keys.root_of_trust(creation.placement.uid)
        if request.validate_only:
            await named_keys.check_creation(call.system(), creation)
            return keys_pb2.Key(name=creation.name, purpose=request.key.purpose, algorithm=creation.kind.algorithm)
        return key_to_proto(await named_keys.create_key(call.system(), creation, making=self._making, now=now), root)

    @override
    async def ScheduleKeyDestruction(
        self, request: key_requests_pb2.ScheduleKeyDestructionRequest, context: Context
    ) -> keys_pb2.Key:
        call, violations = current_call(), Violations()
        # Cut before it is read: a duration can hold more than a timedelta.
        seconds = min(max(request.waiting_period.seconds, 0), _LONGEST_READ_S)
        asked = timedelta(seconds=seconds) if request.HasField("waiting_period") else None
        waiting = check_waiting(asked, violations)
        violations.check()
        key = await named_keys.schedule_destruction(
            call.system(),
            _change(request.name, request.etag, call),
            waiting=waiting,
            now=datetime.now(UTC),
            validate_only=request.validate_only,
        )
        return key_to_proto(key, self._keys.root_of_trust(key.tenant_uid))

    @override
    async def RestoreKey(self, request: key_requests_pb2.RestoreKeyRequest, context: Context) -> keys_pb2.Key:
        call = current_call()
        key = await named_keys.restore_key(call.system(), _change(request.name, request.etag, call))
        return key_to_proto(key, self._keys.root_of_trust(key.tenant_uid))

    @override
    async def ListDestructionReceipts(
        self, request: receipts_pb2.ListDestructionReceiptsRequest, context: Context
    ) -> receipts_pb2.ListDestructionReceiptsResponse:
        call, placement = current_call(), current_call().require_placement()
        page = self._page_tokens.page(request, method=call.method, parent=call.tenant_name, now=datetime.now(UTC))
        found = await call.system().run(
            lambda tx: destructions.receipts(tx, placement.uid, before=page.before, limit=page.limit)
        )
        shown, next_page_token = page.cut(found, lambda receipt: receipt.id)
        return receipts_pb2.ListDestructionReceiptsResponse(
            destruction_receipts=[_receipt_to_proto(receipt, call.tenant_name) for receipt in shown],
            next_page_token=next_page_token,
        )

    @override
    async def GetDestructionReceipt(
        self, request: receipts_pb2.GetDestructionReceiptRequest, context: Context
    ) -> receipts_pb2.DestructionReceipt:
        call, placement = current_call(), current_call().require_placement()
        receipt_id = uuid_of(names.parse(names.DESTRUCTION_RECEIPT, request.name)["receipt"])
        if receipt_id is None:
            raise NotFoundError(request.name)
        receipt = await call.system().run(lambda tx: destructions.find_receipt(tx, placement.uid, receipt_id))
        if receipt is None:
            raise NotFoundError(request.name)
        return _receipt_to_proto(receipt, call.tenant_name)

    @override
    async def RotateKey(self, request: key_requests_pb2.RotateKeyRequest, context: Context) -> operations_pb2.Operation:
        call = current_call()
        wanted = _wanted(request, call)
        if request.validate_only:
            await service.check_rotation(call.system(), wanted)
            return operations_pb2.Operation(done=True)
        operation = await service.rotate_key(call.system(), wanted, defer=self._defer, now=datetime.now(UTC))
        return await operation_to_proto(operation, self._plans)

    @override
    async def RetireKeyVersion(
        self, request: key_changes_pb2.RetireKeyVersionRequest, context: Context
    ) -> keys_pb2.KeyVersion:
        return await self._changed(request.name, VersionState.RETIRED, etag=request.etag)

    @override
    async def EnableKeyVersion(
        self, request: key_changes_pb2.EnableKeyVersionRequest, context: Context
    ) -> keys_pb2.KeyVersion:
        return await self._changed(request.name, VersionState.ENABLED, etag=request.etag)

    async def _changed(self, name: str, state: VersionState, *, etag: str) -> keys_pb2.KeyVersion:
        placement, parts = current_call().require_placement(), names.parse(names.KEY_VERSION, name)
        change = service.VersionChange(
            placement=placement, key_id=parts["key"], version=parts["version"], state=state, etag=etag
        )
        key, version = await service.change_version(current_call().system(), change)
        # This process at once; the others look by themselves.
        self._keys.forget(placement.uid)
        return _version_to_proto(key, version)


def _wanted(request: key_requests_pb2.RotateKeyRequest, call: Call) -> service.Request:
    violations = Violations()
    request_id = read_request_id(request.request_id, violations)
    violations.check()
    return service.Request(
        placement=call.require_placement(),
        key_id=names.parse(names.KEY, request.name)["key"],
        etag=request.etag,
        actor=call.actor,
        call_request_id=call.request_id,
        request_id=request_id,
        request_hash=hashlib.sha256(request.SerializeToString(deterministic=True)).digest(),
    )


def _creation(request: keys_pb2.CreateKeyRequest, call: Call) -> named_keys.Creation:
    violations, asked = Violations(), request.key
    check_key_id(request.key_id, violations)
    purpose = keys_pb2.KeyPurpose.Name(asked.purpose) if asked.purpose in keys_pb2.KeyPurpose.values() else ""
    kind = check_kind(purpose, asked.algorithm, violations, path="key")
    request_id = read_request_id(request.request_id, violations)
    violations.check()
    if kind is None:
        message = "a key that cannot be made has nothing wrong with it"
        raise RuntimeError(message)
    return named_keys.Creation(
        placement=call.require_placement(),
        key_id=request.key_id,
        kind=kind,
        actor=call.actor,
        request_id=request_id,
        request_hash=hashlib.sha256(request.SerializeToString(deterministic=True)).digest(),
    )


def _change(name: str, etag: str, call: Call) -> named_keys.Change:
    key_id = names.parse(names.KEY, name)["key"]
    return named_keys.Change(placement=call.require_placement(), key_id=key_id, etag=etag)


def key_to_proto(key: Key, root: RootOfTrust) -> keys_pb2.Key:
    """Show a key."""
    message = keys_pb2.Key(
        name=key.name,
        purpose=keys_pb2.KeyPurpose.Value(key.purpose.upper()),
        algorithm=key.primary.algorithm,
        primary_version=key.primary.version,
        root_of_trust=key_requests_pb2.RootOfTrust(
            hsm_backed=root.hsm_backed,
            label=root.label,
            firmware=root.firmware,
            token=root.token,
            own_token=root.own_token,
        ),
        version_count=len(key.versions),
        rotation=f"operations/{key.rotation}" if key.rotation else "",
        etag=key.etag,
        lifecycle=None if key.named is None else _lifecycle_to_proto(key.named),
    )
    message.create_time.FromDatetime(key.primary.create_time)
    return message


def resealing_to_proto(resealing: Resealing) -> key_changes_pb2.Resealing:
    """Show how far it is."""
    return key_changes_pb2.Resealing(
        objects_total=resealing.objects_total,
        objects_done=resealing.look_done,
        look=resealing.look,
        objects_resealed=resealing.objects_resealed,
        bytes_resealed=resealing.bytes_resealed,
        rows_resealed=resealing.rows_resealed,
        objects_kept=sum(count for _, count in resealing.look_kept),
        objects_refused=resealing.look_shut,
    )


def _lifecycle_to_proto(named: NamedKey) -> key_requests_pb2.KeyLifecycle:
    message = key_requests_pb2.KeyLifecycle(
        origin=key_requests_pb2.KeyLifecycle.Origin.Value(named.origin),
        state=key_requests_pb2.KeyLifecycle.State.Value(named.state),
    )
    if named.destroy_time is not None:
        message.destroy_time.FromDatetime(named.destroy_time)
    return message


def _version_to_proto(key: Key, version: KeyVersion) -> keys_pb2.KeyVersion:
    message = keys_pb2.KeyVersion(
        name=f"{key.name}/versions/{version.version}",
        state=keys_pb2.KeyVersion.State.Value(version.state),
        primary=version is key.primary,
        algorithm=version.algorithm,
        kek_version=version.kek_version,
        public_pem=_public_pem(key.purpose, version.public),
        kid=str(version.id) if key.id == Purpose.TOKENS else "",
    )
    message.create_time.FromDatetime(version.create_time)
    if version.destroy_time is not None:
        message.destroy_time.FromDatetime(version.destroy_time)
    return message


def _receipt_to_proto(receipt: Receipt, parent: str) -> receipts_pb2.DestructionReceipt:
    message = receipts_pb2.DestructionReceipt(
        name=f"{parent}/destructionReceipts/{receipt.id}",
        key_version=f"{parent}/keys/{KEK}/versions/{receipt.kek_version}" if receipt.kek_version else "",
        payload_type=RECEIPT_TYPE,
        payload=receipt.payload,
        signature=receipt.signature,
        key_id=str(receipt.key_id),
        destroyed_key_versions=[f"{parent}/{each}" for each in receipt.with_it],
    )
    message.destroy_time.FromDatetime(receipt.destroy_time)
    return message


def _public_pem(purpose: str, public: bytes | None) -> str:
    """Write a public half; empty where there is none, or what is stored there is none."""
    try:
        match purpose:
            case Purpose.TOKENS if public is not None:
                key = read_token_key(public)
                return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
            case Purpose.AUDIT if public is not None:
                raw = Ed25519PublicKey.from_public_bytes(public)
                return raw.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
            case Purpose.SIGNING if public is not None:
                pem = load_der_public_key(public).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
                return pem.decode()
            case Purpose.AUTHORITY if public is not None:
                return x509.load_der_x509_certificate(public).public_bytes(Encoding.PEM).decode()
            case _:
                return ""
    except ValueError:
        return ""
