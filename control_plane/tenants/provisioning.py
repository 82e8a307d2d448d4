"""How a tenant comes to be: the plan of `CreateTenant`.

Each step may be killed at any instruction and is run again from its beginning, so each is idempotent. Only the last one
makes the tenant usable; until then every door answers that it is not ready. When a step fails for good, everything is
taken back in the opposite order and the id is free again.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

import structlog

from bulkhead.v1 import creations_pb2, tenants_pb2
from control_plane.audit.recorder import Touched, operation_recorder
from control_plane.cache.users import CacheUsers
from control_plane.errors import PreconditionError, UnavailableError
from control_plane.keys.service import TenantKeys
from control_plane.operations.model import Operation
from control_plane.operations.plan import Step
from control_plane.operations.servicer import steps_to_proto
from control_plane.postgres.database import Database, Isolation, SystemTransaction
from control_plane.postgres.directory import Directory
from control_plane.postgres.effects import Effect
from control_plane.postgres.placement import Placement
from control_plane.postgres.schemas.tenancy import create_tenant_schema, drop_tenant_schema, find_tenant_weaknesses
from control_plane.tenants import service, store
from control_plane.tenants.model import DEDICATED_HSM, Action, Tenant
from control_plane.tenants.servicer import to_proto
from control_plane.token_keys import TokenAlgorithm
from control_plane.tokens.service import invite_administrator

_CREATE_METHOD: Final = "/bulkhead.v1.TenantService/CreateTenant"
_PROBE: Final = b"provisioning probe"

_log: Final = structlog.get_logger("tenants.provisioning")


class TenantCreation:
    """The steps from a registered tenant to an active one; an `operations.plan.Plan`."""

    kind = service.KIND

    def __init__(
        self,
        database: Database,
        directory: Directory,
        keys: TenantKeys,
        *,
        cache_users: CacheUsers,
        touched: Touched,
        cache_doubted: Callable[[], None],
    ) -> None:
        """Make keys with `keys`, schemas in `database`, and `cache_users`; tell `touched` whose audit log grows.

        Tell `cache_doubted` that there may be a user in the cache whose tenant is gone.
        """
        self._touched = touched
        self._cache_users = cache_users
        self._cache_doubted = cache_doubted
        self._database = database
        self._directory = directory
        self._keys = keys
        runs = (
            self._create_keys,
            self._create_schema,
            self._create_cache,
            self._invite_administrator,
            self._verify,
            self._activate,
        )
        self.steps: Sequence[Step] = [Step(name, run) for name, run in zip(service.LATER_STEPS, runs, strict=True)]

    async def undo(self, operation: Operation) -> None:
        """Take back the keys, the schema, the cache and the registration, whatever there is of them."""
        placement = await self._placement(operation)
        if placement is None:
            return
        await self._keys.destroy(placement)
        await drop_tenant_schema(self._database, placement)
        await self._cache_users.remove(placement)
        await self._database.system().run(lambda tx: store.delete_unfinished(tx, operation.tenant_id))
        self._directory.forget(operation.tenant_id)
        # Whoever read the registry a moment ago may have made the user once more.
        self._cache_doubted()

    def metadata(self, operation: Operation) -> creations_pb2.CreateTenantMetadata:
        """Show the steps."""
        tenant = f"tenants/{operation.tenant_id}"
        message = creations_pb2.CreateTenantMetadata(tenant=tenant, steps=steps_to_proto(operation))
        message.create_time.FromDatetime(operation.create_time)
        return message

    async def response(self, operation: Operation) -> tenants_pb2.Tenant:
        """Show the tenant as it is now; only its names where it is gone."""
        tenant = await self._database.system().run(lambda tx: store.find(tx, operation.tenant_id))
        if tenant is None or tenant.uid != operation.tenant_uid:
            return tenants_pb2.Tenant(name=f"tenants/{operation.tenant_id}", uid=str(operation.tenant_uid))
        return to_proto(tenant, hsm_backed=self._keys.hsm_backed)

    async def _create_keys(self, operation: Operation) -> None:
        tenant, placement = await self._load(operation)
        await self._keys.create(
            placement,
            now=datetime.now(UTC),
            display_name=tenant.settings.display_name,
            authority_algorithm=tenant.settings.certificate_policy.authority,
            token_algorithm=TokenAlgorithm(tenant.settings.token_algorithm),
            own_token=tenant.settings.hsm_tier == DEDICATED_HSM,
        )

    async def _create_schema(self, operation: Operation) -> None:
        _, placement = await self._load(operation)
        login = await self._keys.login(placement) if placement.is_strict else None
        await create_tenant_schema(self._database, placement, login=login)

    async def _create_cache(self, operation: Operation) -> None:
        _, placement = await self._load(operation)
        try:
            await self._cache_users.make(placement)
        except UnavailableError:
            # The cache is never needed. Once Valkey is found again, all who are registered are let in.
            _log.warning("cache_postponed", tenant=operation.tenant_id)

    async def _invite_administrator(self, operation: Operation) -> None:
        tenant, placement = await self._load(operation)
        handle = self._database.tenant(placement, isolation=Isolation.SERIALIZABLE)
        await handle.run(lambda tx: invite_administrator(tx, tenant.settings.admin_email, now=datetime.now(UTC)))

    async def _verify(self, operation: Operation) -> None:
        """See through the tenant's own eyes that what was made works, and is closed to others."""
        _, placement = await self._load(operation)
        handle = self._database.tenant(placement, isolation=Isolation.SERIALIZABLE)
        name = f"tenants/{operation.tenant_id}"

        weaknesses = await find_tenant_weaknesses(self._database, placement)
        administrators = await handle.run(store.administrators)
        sealed = await self._keys.encrypt(placement, _PROBE, object_name="probe")
        opened = await self._keys.decrypt(placement, sealed, object_name="probe")
        if weaknesses or administrators != 1 or opened != _PROBE:
            raise PreconditionError(name, f"{name} did not pass its verification", reason="VERIFICATION_FAILED")

    async def _activate(self, operation: Operation) -> None:
        recorder = operation_recorder(
            actor=operation.actor,
            request_id=operation.call_request_id,
            method=_CREATE_METHOD,
            touched=self._touched,
        )

        async def work(tx: SystemTransaction) -> None:
            before = await store.find_for_update(tx, operation.tenant_id)
            placement = await store.find_placement(tx, operation.tenant_id)
            if before is None or placement is None:
                message = f"{operation.name} activates a tenant that is gone"
                raise RuntimeError(message)
            after = before.after(Action.ACTIVATE, datetime.now(UTC))
            if after == before:
                tx.unchanged()
                return
            await store.update(tx, after)
            details = {"display_name": after.settings.display_name, "tier": after.settings.tier}
            tx.record(Effect(resource=after.name, placement=placement, details=details))

        await self._database.system(before_commit=recorder).run(work)
        self._directory.forget(operation.tenant_id)

    async def _load(self, operation: Operation) -> tuple[Tenant, Placement]:
        tenant = await self._database.system().run(lambda tx: store.find(tx, operation.tenant_id))
        placement = await self._placement(operation)
        if tenant is None or placement is None:
            message = f"{operation.name} provisions a tenant that is gone"
            raise RuntimeError(message)
        return tenant, placement

    async def _placement(self, operation: Operation) -> Placement | None:
        placement = await self._database.system().run(lambda tx: store.find_placement(tx, operation.tenant_id))
        return placement if placement is not None and placement.uid == operation.tenant_uid else None
