"""TenantService over gRPC."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from google.longrunning import operations_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from typing_extensions import override

from bulkhead.v1 import deletions_pb2, key_settings_pb2, seals_pb2, tenant_requests_pb2, tenants_pb2, tenants_pb2_grpc
from control_plane.errors import HsmTierUnavailableError, NotFoundError, Violations
from control_plane.ids import TenantId
from control_plane.keys.service import TenantKeys
from control_plane.operations.plan import DeferJob, Plans
from control_plane.operations.servicer import to_proto as operation_to_proto
from control_plane.postgres.directory import MAXIMUM_AGE, Directory
from control_plane.postgres.placement import DEFAULT_CACHE_BYTES, ConnectionPooling
from control_plane.serving import names
from control_plane.serving.call import current_call
from control_plane.serving.fields import check_mask
from control_plane.serving.interception import Context
from control_plane.serving.paging import PageTokens
from control_plane.serving.time_zones import DEFAULT_ZONE
from control_plane.tenants import certificate_policies, service, store
from control_plane.tenants.model import (
    CERTIFICATE_POLICY_PATHS,
    DEDICATED_HSM,
    DEFAULT_BILLING_DAY,
    DEFAULT_POLICY_AGE,
    DEFAULT_WAITING,
    LONGEST_POLICY_AGE,
    LONGEST_WAITING,
    SHARED_HSM,
    STRICT,
    UPDATABLE,
    Action,
    Settings,
    Tenant,
    check_deletion,
    check_new,
    check_settings,
    given_reason_violation,
    reason_violation,
)
from control_plane.tenants.rates import RateLimit, Window
from control_plane.token_keys import TokenAlgorithm


class TenantServicer(tenants_pb2_grpc.TenantServiceServicer):
    """See tenants.proto."""

    def __init__(
        self, directory: Directory, page_tokens: PageTokens, plans: Plans, *, defer: DeferJob, keys: TenantKeys
    ) -> None:
        """Defer the jobs of provisioning with `defer`; tell the directory of every change; `keys` know the vault."""
        self._directory = directory
        self._page_tokens = page_tokens
        self._plans = plans
        self._defer = defer
        self._keys = keys

    @override
    async def CreateTenant(
        self, request: tenants_pb2.CreateTenantRequest, context: Context
    ) -> operations_pb2.Operation:
        call = current_call()
        creation = _creation(request, actor=call.actor, call_request_id=call.request_id)
        if creation.settings.hsm_tier == DEDICATED_HSM and not self._keys.offers_own_tokens:
            text = "the vault has no tokens of tenants' own: see docs/vault.md"
            name = names.tenant_name(creation.tenant_id)
            raise HsmTierUnavailableError(name, text)
        if request.validate_only:
            await service.check_available(call.system(), creation, now=datetime.now(UTC))
            return operations_pb2.Operation(done=True)
        operation = await service.create_tenant(call.system(), creation, defer=self._defer, now=datetime.now(UTC))
        return await operation_to_proto(operation, self._plans)

    @override
    async def GetTenant(self, request: tenant_requests_pb2.GetTenantRequest, context: Context) -> tenants_pb2.Tenant:
        tenant_id = names.tenant_of(request.name)
        tenant = await current_call().system().run(lambda tx: store.find(tx, tenant_id))
        if tenant is None:
            raise NotFoundError(request.name)
        return to_proto(tenant, hsm_backed=self._keys.hsm_backed)

    @override
    async def ListTenants(
        self, request: tenant_requests_pb2.ListTenantsRequest, context: Context
    ) -> tenants_pb2.ListTenantsResponse:
        call = current_call()
        page = self._page_tokens.page(request, method=call.method, parent="", now=datetime.now(UTC))
        tenants = await call.system().run(
            lambda tx: store.list_page(tx, after=page.after, limit=page.limit, with_purged=request.show_purged)
        )
        shown, next_page_token = page.cut(tenants, lambda tenant: tenant.id)
        return tenants_pb2.ListTenantsResponse(
            tenants=[to_proto(tenant, hsm_backed=self._keys.hsm_backed) for tenant in shown],
            next_page_token=next_page_token,
        )

    @override
    async def UpdateTenant(self, request: tenants_pb2.UpdateTenantRequest, context: Context) -> tenants_pb2.Tenant:
        now = datetime.now(UTC)
        violations = Violations()
        check_mask(request.update_mask, UPDATABLE, violations)
        violations.check()

        def change(tenant: Tenant) -> Tenant:
            tenant.check_etag(request.tenant.etag)
            return tenant.updated(_merged(tenant.settings, request.tenant, request.update_mask), now)

        tenant_id = names.tenant_of(request.tenant.name, field="tenant.name")
        tenant = await service.change_tenant(
            current_call().system(), tenant_id, change, validate_only=request.validate_only
        )
        return to_proto(tenant, hsm_backed=self._keys.hsm_backed)

    @override
    async def SuspendTenant(
        self, request: tenant_requests_pb2.SuspendTenantRequest, context: Context
    ) -> tenants_pb2.Tenant:
        violations = Violations()
        violations.add("reason", reason_violation(request.reason))
        violations.check()
        return await self._take(request.name, request.etag, Action.SUSPEND, reason=request.reason)

    @override
    async def ReactivateTenant(
        self, request: tenant_requests_pb2.ReactivateTenantRequest, context: Context
    ) -> tenants_pb2.Tenant:
        return await self._take(request.name, request.etag, Action.REACTIVATE)

    @override
    async def SealTenant(self, request: seals_pb2.SealTenantRequest, context: Context) -> tenants_pb2.Tenant:
        _check_given(request.reason)
        now, reason = datetime.now(UTC), request.reason
        return await self._shut(
            request.name, request.etag, lambda tenant: tenant.after(Action.SEAL, now, reason=reason)
        )

    @override
    async def UnsealTenant(self, request: seals_pb2.UnsealTenantRequest, context: Context) -> tenants_pb2.Tenant:
        _check_given(request.reason)
        unsealed = await self._take(request.name, request.etag, Action.UNSEAL, reason=request.reason)
        # By then no process remembers that it was sealed: what reactivates it next has its effect at once.
        await asyncio.sleep(MAXIMUM_AGE.total_seconds())
        return unsealed

    @override
    async def DeleteTenant(self, request: deletions_pb2.DeleteTenantRequest, context: Context) -> tenants_pb2.Tenant:
        now, reason, violations = datetime.now(UTC), request.reason, Violations()
        asked = request.HasField("waiting_period")
        waiting = _span(request.waiting_period, longest=LONGEST_WAITING) if asked else DEFAULT_WAITING
        tenant_id = names.tenant_of(request.name)
        check_deletion(tenant_id, violations, confirmation=request.confirmation, waiting=waiting)
        violations.add("reason", given_reason_violation(request.reason))
        violations.check()

        return await self._shut(
            request.name, request.etag, lambda tenant: tenant.deleted(now, reason=reason, waiting=waiting)
        )

    @override
    async def UndeleteTenant(
        self, request: deletions_pb2.UndeleteTenantRequest, context: Context
    ) -> tenants_pb2.Tenant:
        _check_given(request.reason)
        return await self._take(request.name, request.etag, Action.UNDELETE, reason=request.reason)

    async def _take(self, name: str, etag: str, action: Action, *, reason: str = "") -> tenants_pb2.Tenant:
        now = datetime.now(UTC)
        return await self._change(name, etag, lambda tenant: tenant.after(action, now, reason=reason))

    async def _shut(self, name: str, etag: str, change: Callable[[Tenant], Tenant]) -> tenants_pb2.Tenant:
        """Make a change after which the tenant is sealed, and answer once that holds."""
        shut = await self._change(name, etag, change)
        call = current_call()
        await service.await_seal(call.system(), call.require_placement())
        return shut

    async def _change(self, name: str, etag: str, change: Callable[[Tenant], Tenant]) -> tenants_pb2.Tenant:
        def checked(tenant: Tenant) -> Tenant:
            tenant.check_etag(etag)
            return change(tenant)

        tenant_id = names.tenant_of(name)
        tenant = await service.change_tenant(current_call().system(), tenant_id, checked)
        self._directory.forget(tenant_id)
        return to_proto(tenant, hsm_backed=self._keys.hsm_backed)


def _check_given(reason: str) -> None:
    violations = Violations()
    violations.add("reason", given_reason_violation(reason))
    violations.check()


def _creation(request: tenants_pb2.CreateTenantRequest, *, actor: str, call_request_id: str) -> service.Creation:
    """Check the whole request; list everything that is wrong with it at once."""
    violations = Violations()
    settings = _settings(request.tenant, before=Settings(display_name=request.tenant_id))
    certificate_policy = certificate_policies.read_new(request.tenant.certificate_policy)
    settings = replace(settings, certificate_policy=certificate_policy)
    check_new(request.tenant_id, settings, violations)
    _check_pooling(request.tenant.connection_pooling, settings, violations)
    certificate_policies.check(request.tenant.certificate_policy, certificate_policy, violations)
    if request.tenant.name not in {"", names.tenant_name(request.tenant_id)}:
        violations.add("tenant.name", "must be empty, or name the tenant_id")
    request_id = None
    if request.request_id:
        try:
            request_id = UUID(request.request_id)
        except ValueError:
            violations.add("request_id", "must be a UUID", reason="REQUEST_ID")
    violations.check()
    return service.Creation(
        tenant_id=TenantId(request.tenant_id),
        settings=settings,
        actor=actor,
        call_request_id=call_request_id,
        request_id=request_id,
        request_hash=hashlib.sha256(request.SerializeToString(deterministic=True)).digest(),
    )


def _merged(settings: Settings, message: tenants_pb2.Tenant, mask: FieldMask) -> Settings:
    asked = _settings(message, before=settings)
    named = {path: getattr(asked, path) for path in mask.paths if path not in CERTIFICATE_POLICY_PATHS}
    wanted = certificate_policies.changed(settings.certificate_policy, message.certificate_policy, mask.paths)
    merged = replace(settings, **named, certificate_policy=wanted)
    violations = Violations()
    check_settings(merged, violations, prefix="tenant.")
    if "connection_pooling" in mask.paths:
        _check_pooling(message.connection_pooling, merged, violations)
    if set(CERTIFICATE_POLICY_PATHS) & set(mask.paths):
        certificate_policies.check(message.certificate_policy, merged.certificate_policy, violations)
    violations.check()
    return merged


def _settings(message: tenants_pb2.Tenant, *, before: Settings) -> Settings:
    return Settings(
        display_name=message.display_name or before.display_name[:100],
        tier=message.tier or "standard",
        isolation=_isolation(message),
        cell=message.cell or "local",
        hsm_tier=_hsm_tier(message),
        labels=dict(message.labels),
        admin_email=message.admin_email,
        requests_per_minute=message.requests_per_minute,
        domains=tuple(message.domains),
        max_policy_age=_span(message.max_policy_age, longest=LONGEST_POLICY_AGE) or DEFAULT_POLICY_AGE,
        connection_pooling=_pooling(message.connection_pooling, before=before.connection_pooling),
        cache_bytes=message.cache_bytes or DEFAULT_CACHE_BYTES,
        rate_limits=_rate_limits(message),
        billing_day=message.billing_day or DEFAULT_BILLING_DAY,
        time_zone=message.time_zone or DEFAULT_ZONE,
        certificate_policy=before.certificate_policy,
        token_algorithm=_token_algorithm(message),
    )


def _rate_limits(message: tenants_pb2.Tenant) -> tuple[RateLimit, ...]:
    # An open enum, as below.
    windows = {tenants_pb2.Tenant.RateLimit.Window.Value(window): window for window in Window}
    return tuple(RateLimit(window=windows.get(limit.window, ""), units=limit.units) for limit in message.rate_limits)


def _isolation(message: tenants_pb2.Tenant) -> str:
    # Open enums carry numbers that this version does not know; they have no name, and the model refuses that.
    levels = {number: name for name, number in tenants_pb2.Tenant.IsolationLevel.items()}
    asked_for_pool = message.connection_pooling.pool_per_tenant
    levels[tenants_pb2.Tenant.ISOLATION_LEVEL_UNSPECIFIED] = STRICT if asked_for_pool else "POOLED"
    return levels.get(message.isolation_level, "")


def _hsm_tier(message: tenants_pb2.Tenant) -> str:
    tiers = {number: name for name, number in key_settings_pb2.HsmTier.items()}
    tiers[key_settings_pb2.HSM_TIER_UNSPECIFIED] = SHARED_HSM
    return tiers.get(message.hsm_tier, "")


def _token_algorithm(message: tenants_pb2.Tenant) -> str:
    algorithms = {number: name for name, number in key_settings_pb2.TokenAlgorithm.items()}
    algorithms[key_settings_pb2.TOKEN_ALGORITHM_UNSPECIFIED] = TokenAlgorithm.EDDSA
    return algorithms.get(message.token_algorithm, "")


def _pooling(message: tenants_pb2.Tenant.ConnectionPooling, *, before: ConnectionPooling) -> ConnectionPooling:
    named = {name: getattr(message, name) for name in ("min_connections", "max_connections") if message.HasField(name)}
    if message.isolation_level:
        named["is_serializable"] = message.isolation_level == tenants_pb2.Tenant.ConnectionPooling.SERIALIZABLE
    return replace(before, **named)


def _check_pooling(message: tenants_pb2.Tenant.ConnectionPooling, settings: Settings, violations: Violations) -> None:
    """Note what of the message the settings cannot say."""
    prefix = "tenant.connection_pooling."
    if message.HasField("pool_per_tenant") and message.pool_per_tenant != (settings.isolation == STRICT):
        violations.add(f"{prefix}pool_per_tenant", "must be true for STRICT and false for POOLED", reason="CONNECTIONS")
    if message.isolation_level not in tenants_pb2.Tenant.ConnectionPooling.TransactionIsolation.values():
        violations.add(f"{prefix}isolation_level", "must be AS_DECLARED or SERIALIZABLE", reason="UNKNOWN")


def _span(duration: Duration, *, longest: timedelta) -> timedelta:
    # A Duration holds more than Python's: whatever is far too long is too long by a second.
    seconds = max(-1, min(duration.seconds, longest // timedelta(seconds=1) + 1))
    return timedelta(seconds=seconds, microseconds=duration.nanos // 1000)


def to_proto(tenant: Tenant, *, hsm_backed: bool) -> tenants_pb2.Tenant:
    """Render the tenant."""
    settings = tenant.settings
    message = tenants_pb2.Tenant(
        name=tenant.name,
        uid=str(tenant.uid),
        display_name=settings.display_name,
        state=tenants_pb2.Tenant.State.Value(tenant.state),
        tier=settings.tier,
        isolation_level=tenants_pb2.Tenant.IsolationLevel.Value(settings.isolation),
        cell=settings.cell,
        dns_label=tenant.dns_label,
        schema=tenant.schema,
        labels=settings.labels,
        admin_email=settings.admin_email,
        hsm_backed=hsm_backed,
        hsm_tier=key_settings_pb2.HsmTier.Value(settings.hsm_tier),
        suspend_reason=tenant.suspend_reason,
        requests_per_minute=settings.requests_per_minute,
        domains=settings.domains,
        edge_revision=tenant.edge_revision,
        connection_pooling=_pooling_to_proto(settings),
        cache_bytes=settings.cache_bytes,
        rate_limits=[
            tenants_pb2.Tenant.RateLimit(
                window=tenants_pb2.Tenant.RateLimit.Window.Value(limit.window), units=limit.units
            )
            for limit in settings.rate_limits
        ],
        billing_day=settings.billing_day,
        time_zone=settings.time_zone,
        certificate_policy=certificate_policies.to_proto(settings.certificate_policy),
        token_algorithm=key_settings_pb2.TokenAlgorithm.Value(settings.token_algorithm),
        etag=tenant.etag,
    )
    message.max_policy_age.FromTimedelta(settings.max_policy_age)
    message.create_time.FromDatetime(tenant.create_time)
    message.update_time.FromDatetime(tenant.update_time)
    if tenant.delete_time is not None and tenant.purge_time is not None:
        message.delete_time.FromDatetime(tenant.delete_time)
        message.purge_time.FromDatetime(tenant.purge_time)
    return message


def _pooling_to_proto(settings: Settings) -> tenants_pb2.Tenant.ConnectionPooling:
    return tenants_pb2.Tenant.ConnectionPooling(
        pool_per_tenant=settings.isolation == STRICT,
        min_connections=settings.connection_pooling.min_connections,
        max_connections=settings.connection_pooling.max_connections,
        isolation_level=(
            tenants_pb2.Tenant.ConnectionPooling.SERIALIZABLE
            if settings.connection_pooling.is_serializable
            else tenants_pb2.Tenant.ConnectionPooling.AS_DECLARED
        ),
    )
