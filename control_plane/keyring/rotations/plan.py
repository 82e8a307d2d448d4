"""What the plans of all rotations have: what they are made with, and how they show and record what they do."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from typing_extensions import override

from bulkhead.v1 import key_requests_pb2, keys_pb2
from control_plane.audit.recorder import Touched, operation_recorder
from control_plane.errors import NotFoundError, PreconditionError
from control_plane.keyring import store
from control_plane.keyring.model import NAMED_STEPS, STEPS
from control_plane.keyring.service import KIND, get_key
from control_plane.keyring.servicer import key_to_proto
from control_plane.keys import store as keys_store
from control_plane.keys.model import Purpose
from control_plane.keys.platform import PlatformKeys
from control_plane.keys.service import TenantKeys
from control_plane.keys.vault import KeyVault
from control_plane.keys.wrapping import Wrapping
from control_plane.objects.store import ObjectStore
from control_plane.operations.model import Operation
from control_plane.operations.plan import Step, StepRun
from control_plane.operations.servicer import steps_to_proto
from control_plane.postgres.database import Database, SystemHandle
from control_plane.postgres.directory import Directory
from control_plane.postgres.effects import Effect, JsonValue
from control_plane.postgres.placement import Placement
from control_plane.tenants.store import find_placement

_ROTATE_METHOD: Final = "/bulkhead.v1.KeyService/RotateKey"

LaggingEdges = Callable[[int], Awaitable[Sequence[str]]]
"""Waits a while for the edges to apply a revision, and names those that have not. MUST NOT take longer than seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What rotations are made with."""

    database: Database
    directory: Directory
    keys: TenantKeys
    objects: ObjectStore
    vault: KeyVault
    platform_keys: PlatformKeys
    """Sign for what is destroyed."""
    lagging_edges: LaggingEdges
    touched: Touched
    """Told whose audit log grows."""
    settling: timedelta = timedelta(seconds=2)
    """How long a process may go on sealing with the version from before; see `TenantKeys`."""


class KeyRotation:
    """What the plans of all rotations have; each is an `operations.plan.Plan`."""

    def __init__(self, means: Means, *, key_id: str) -> None:
        """Rotate the key of that id."""
        self.kind = f"{KIND}{key_id}"
        self.steps: Sequence[Step] = [Step(name, self.runs[name]) for name in STEPS.get(key_id, NAMED_STEPS)]
        self._key_id = key_id
        self._touched = means.touched
        self._database = means.database
        self._keys = means.keys
        self._wrapping = Wrapping(means.vault)

    @property
    def runs(self) -> Mapping[str, StepRun]:
        """What each step does."""
        raise NotImplementedError

    async def undo(self, operation: Operation) -> None:
        """Take back what was made and is not used, and let others begin."""
        await self._take_back(operation, await self._version(operation))
        await self._database.system().run(lambda tx: store.end_rotation(tx, operation.id, now=datetime.now(UTC)))

    def metadata(self, operation: Operation) -> key_requests_pb2.RotateKeyMetadata:
        """Show the steps."""
        tenant = f"tenants/{operation.tenant_id}"
        message = key_requests_pb2.RotateKeyMetadata(
            tenant=tenant, key=f"{tenant}/keys/{self._id(operation)}", steps=steps_to_proto(operation)
        )
        message.create_time.FromDatetime(operation.create_time)
        return message

    async def response(self, operation: Operation) -> keys_pb2.Key:
        """Show the key as it is now; only its name where the tenant is gone."""
        placement = await self._find(operation)
        try:
            if placement is not None:
                key = await self._database.system().run(lambda tx: get_key(tx, placement, self._id(operation)))
                return key_to_proto(key, self._keys.root_of_trust(placement.uid))
        except NotFoundError:
            pass
        return keys_pb2.Key(name=f"tenants/{operation.tenant_id}/keys/{self._id(operation)}")

    def _id(self, operation: Operation) -> str:  # noqa: ARG002 most plans are for one key
        return self._key_id

    async def _take_back(self, operation: Operation, version: int) -> None:
        raise NotImplementedError

    async def _version(self, operation: Operation) -> int:
        return await self._database.system().run(lambda tx: store.rotated_version(tx, operation.id))

    async def _placement(self, operation: Operation) -> Placement:
        placement = await self._find(operation)
        if placement is None:
            name = f"tenants/{operation.tenant_id}"
            raise PreconditionError(name, f"{name} is gone", reason="TENANT_GONE")
        # What is sealed is opened by nobody: a rotation that meets a seal is given up, and is asked for again.
        await self._database.system().run(lambda tx: keys_store.check_unsealed(tx, placement.uid))
        return placement

    async def _find(self, operation: Operation) -> Placement | None:
        placement = await self._database.system().run(lambda tx: find_placement(tx, operation.tenant_id))
        return placement if placement is not None and placement.uid == operation.tenant_uid else None

    async def _new_version(
        self, placement: Placement, purpose: Purpose, *, version: int, now: datetime
    ) -> keys_store.StoredKey:
        system = self._database.system()
        beside = await system.run(lambda tx: keys_store.siblings(tx, placement.uid))
        algorithm = await system.run(lambda tx: keys_store.token_algorithm(tx, placement.uid))
        return await self._wrapping.new_version(
            placement, purpose, version=version, beside=beside, now=now, token_algorithm=algorithm
        )

    def _recorded(self, operation: Operation) -> SystemHandle:
        recorder = operation_recorder(
            actor=operation.actor, request_id=operation.call_request_id, method=_ROTATE_METHOD, touched=self._touched
        )
        return self._database.system(before_commit=recorder)

    def _effect(self, placement: Placement, version: int, **details: JsonValue) -> Effect:
        name = f"tenants/{placement.tenant_id}/keys/{self._key_id}/versions/{version}"
        return Effect(resource=name, placement=placement, details=details)


class RotationAtOnce(KeyRotation):
    """A new version that is used from its making on: one step, and nothing to be taken back."""

    @property
    @override
    def runs(self) -> Mapping[str, StepRun]:
        return {"version": self._make}

    @override
    async def _take_back(self, operation: Operation, version: int) -> None:
        """Leave it: there is a version, used from its making on, or there is none."""

    async def _make(self, operation: Operation) -> None:
        raise NotImplementedError
