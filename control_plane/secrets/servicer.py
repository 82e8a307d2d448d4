"""SecretService over gRPC."""

from datetime import UTC, datetime

from google.protobuf.empty_pb2 import Empty
from typing_extensions import override

from bulkhead.v1 import secret_versions_pb2, secrets_pb2, secrets_pb2_grpc
from control_plane.errors import NotFoundError, Violations
from control_plane.key_policies.gate import KeyGate
from control_plane.key_policies.messages import read_use
from control_plane.key_policies.model import Operation
from control_plane.keys.model import Purpose as KeyPurpose
from control_plane.keys.service import TenantKeys
from control_plane.postgres.database import TenantTransaction
from control_plane.secrets import service, store
from control_plane.secrets.model import (
    LATEST,
    UPDATABLE,
    Action,
    Secret,
    Settings,
    Version,
    check_digest,
    check_etag,
    check_new,
    check_payload,
    check_settings,
    version_number,
)
from control_plane.serving import names
from control_plane.serving.call import current_call
from control_plane.serving.fields import check_mask, read_request_id
from control_plane.serving.interception import Context
from control_plane.serving.paging import PageTokens
from control_plane.tenants.model import reason_violation

_ChangeRequest = (
    secret_versions_pb2.DisableSecretVersionRequest
    | secret_versions_pb2.EnableSecretVersionRequest
    | secret_versions_pb2.DestroySecretVersionRequest
)


class SecretServicer(secrets_pb2_grpc.SecretServiceServicer):
    """See secrets.proto."""

    def __init__(self, keys: TenantKeys, gate: KeyGate, page_tokens: PageTokens) -> None:
        """Seal with the tenants' `keys`, and read where `gate` lets pass."""
        self._keys = keys
        self._gate = gate
        self._page_tokens = page_tokens

    @override
    async def CreateSecret(self, request: secrets_pb2.CreateSecretRequest, context: Context) -> secrets_pb2.Secret:
        call = current_call()
        violations = Violations()
        settings = _settings(request.secret)
        check_new(request.secret_id, settings, violations)
        check_payload(request.payload, violations)
        request_id = read_request_id(request.request_id, violations)
        violations.check()
        creation = service.Creation(
            secret_id=request.secret_id,
            settings=settings,
            actor=call.actor,
            request_id=request_id,
            payload=request.payload,
        )
        secret = await service.create_secret(
            call.tenant(), creation, keys=self._keys, now=datetime.now(UTC), validate_only=request.validate_only
        )
        return to_proto(secret, call.tenant_name)

    @override
    async def GetSecret(self, request: secrets_pb2.GetSecretRequest, context: Context) -> secrets_pb2.Secret:
        call = current_call()
        secret_id = _secret_id(request.name)
        secret = await call.tenant().run(lambda tx: service.existing(tx, secret_id))
        return to_proto(secret, call.tenant_name)

    @override
    async def ListSecrets(
        self, request: secrets_pb2.ListSecretsRequest, context: Context
    ) -> secrets_pb2.ListSecretsResponse:
        call = current_call()
        page = self._page_tokens.page(request, method=call.method, parent=call.tenant_name, now=datetime.now(UTC))
        secrets = await call.tenant().run(lambda tx: store.list_page(tx, before=page.before, limit=page.limit))
        shown, next_page_token = page.cut(secrets, lambda secret: secret.uid)
        return secrets_pb2.ListSecretsResponse(
            secrets=[to_proto(secret, call.tenant_name) for secret in shown], next_page_token=next_page_token
        )

    @override
    async def UpdateSecret(self, request: secrets_pb2.UpdateSecretRequest, context: Context) -> secrets_pb2.Secret:
        call, now = current_call(), datetime.now(UTC)
        secret_id = _secret_id(request.secret.name, field="secret.name")
        asked = _settings(request.secret)
        violations = Violations()
        check_mask(request.update_mask, UPDATABLE, violations)
        check_settings(asked, violations)
        violations.check()

        def change(secret: Secret) -> Secret:
            check_etag(request.secret.name, request.secret.etag, current=secret.etag)
            paths = set(request.update_mask.paths)
            merged = Settings(**{
                name: getattr(asked if name in paths else secret.settings, name) for name in UPDATABLE
            })  # fmt: skip
            return secret.updated(merged, now)

        secret = await service.update_secret(call.tenant(), secret_id, change, validate_only=request.validate_only)
        return to_proto(secret, call.tenant_name)

    @override
    async def DeleteSecret(self, request: secrets_pb2.DeleteSecretRequest, context: Context) -> Empty:
        await service.delete_secret(current_call().tenant(), _secret_id(request.name), etag=request.etag)
        return Empty()

    @override
    async def AddSecretVersion(
        self, request: secret_versions_pb2.AddSecretVersionRequest, context: Context
    ) -> secret_versions_pb2.SecretVersion:
        call = current_call()
        secret_id = _secret_id(request.parent, field="parent")
        violations = Violations()
        if not request.payload:
            violations.add("payload", "must not be empty", reason="PAYLOAD")
        check_payload(request.payload, violations)
        check_digest(request.payload, request.payload_sha256, violations)
        request_id = read_request_id(request.request_id, violations)
        violations.check()
        addition = service.Addition(
            secret_id=secret_id, actor=call.actor, request_id=request_id, payload=request.payload
        )
        version = await service.add_version(
            call.tenant(), addition, keys=self._keys, now=datetime.now(UTC), validate_only=request.validate_only
        )
        return version_to_proto(version, request.parent)

    @override
    async def ListSecretVersions(
        self, request: secret_versions_pb2.ListSecretVersionsRequest, context: Context
    ) -> secret_versions_pb2.ListSecretVersionsResponse:
        call = current_call()
        secret_id = _secret_id(request.parent, field="parent")
        page = self._page_tokens.page(request, method=call.method, parent=request.parent, now=datetime.now(UTC))
        before = int(page.after) if page.after else None

        async def work(tx: TenantTransaction) -> list[Version]:
            secret = await service.existing(tx, secret_id)
            return await store.list_versions(tx, secret.uid, before=before, limit=page.limit)

        shown, next_page_token = page.cut(await call.tenant().run(work), lambda version: version.number)
        return secret_versions_pb2.ListSecretVersionsResponse(
            secret_versions=[version_to_proto(version, request.parent) for version in shown],
            next_page_token=next_page_token,
        )

    @override
    async def AccessSecretVersion(
        self, request: secret_versions_pb2.AccessSecretVersionRequest, context: Context
    ) -> secret_versions_pb2.AccessSecretVersionResponse:
        call = current_call()
        secret, number = _version(request.name)
        violations = Violations()
        violations.add("reason", reason_violation(request.reason))
        # What seals secrets: see docs/secrets.md.
        key = KeyPurpose.STORAGE.value
        use = read_use(request, key, Operation.READ_SECRET, call=call, violations=violations)
        violations.check()
        opened = await service.access_version(call.tenant(), secret, number, use=use, gate=self._gate, keys=self._keys)
        return secret_versions_pb2.AccessSecretVersionResponse(
            name=f"{call.tenant_name}/secrets/{secret}/versions/{opened.number}",
            payload=opened.payload,
            payload_sha256=opened.sha256,
        )

    @override
    async def DisableSecretVersion(
        self, request: secret_versions_pb2.DisableSecretVersionRequest, context: Context
    ) -> secret_versions_pb2.SecretVersion:
        return await _changed(request, Action.DISABLE)

    @override
    async def EnableSecretVersion(
        self, request: secret_versions_pb2.EnableSecretVersionRequest, context: Context
    ) -> secret_versions_pb2.SecretVersion:
        return await _changed(request, Action.ENABLE)

    @override
    async def DestroySecretVersion(
        self, request: secret_versions_pb2.DestroySecretVersionRequest, context: Context
    ) -> secret_versions_pb2.SecretVersion:
        return await _changed(request, Action.DESTROY)


async def _changed(request: _ChangeRequest, action: Action) -> secret_versions_pb2.SecretVersion:
    call = current_call()
    secret, number = _version(request.name)
    if number is None:
        # Which one that is may change meanwhile, and what is destroyed is gone.
        raise NotFoundError(request.name)
    version = await service.change_version(
        call.tenant(), secret, number, action=action, etag=request.etag, now=datetime.now(UTC)
    )
    return version_to_proto(version, f"{call.tenant_name}/secrets/{secret}")


def _secret_id(name: str, *, field: str = "name") -> str:
    return names.parse(names.SECRET, name, field=field)["secret"]


def _version(name: str) -> tuple[str, int | None]:
    """Take a version's name apart; None is the latest."""
    parts = names.parse(names.SECRET_VERSION, name)
    if parts["version"] == LATEST:
        return parts["secret"], None
    number = version_number(parts["version"])
    if number is None:
        raise NotFoundError(name)
    return parts["secret"], number


def _settings(message: secrets_pb2.Secret) -> Settings:
    return Settings(description=message.description, labels=dict(message.labels))


def to_proto(secret: Secret, parent: str) -> secrets_pb2.Secret:
    """Show a secret of the tenant named `parent`, without its values."""
    message = secrets_pb2.Secret(
        name=f"{parent}/secrets/{secret.id}",
        uid=str(secret.uid),
        description=secret.settings.description,
        labels=secret.settings.labels,
        latest_version=secret.latest_version,
        etag=secret.etag,
    )
    message.create_time.FromDatetime(secret.create_time)
    message.update_time.FromDatetime(secret.update_time)
    return message


def version_to_proto(version: Version, parent: str) -> secret_versions_pb2.SecretVersion:
    """Show a version of the secret named `parent`, without its value."""
    message = secret_versions_pb2.SecretVersion(
        name=f"{parent}/versions/{version.number}",
        state=secret_versions_pb2.SecretVersion.State.Value(version.state),
        etag=version.etag,
    )
    message.create_time.FromDatetime(version.create_time)
    if version.destroy_time is not None:
        message.destroy_time.FromDatetime(version.destroy_time)
    return message
