"""Whatever is done to a tenant's own keys, in whatever order: they are as a model says, and open what it says."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from typing_extensions import override

from bulkhead.v1 import key_requests_pb2
from control_plane.encryption.model import Purpose
from control_plane.encryption.service import Encryption
from control_plane.errors import AlreadyExistsError, DomainError, PreconditionError
from control_plane.key_policies.gate import KeyGate
from control_plane.key_policies.model import KeyUse, Operation
from control_plane.operations.model import OperationState
from control_plane.postgres.database import Isolation, TenantHandle
from control_plane.postgres.placement import Placement
from tests.fixtures.keyring import Ring

IDS: Final = st.sampled_from(["first", "second", "third"])
WAIT: Final = timedelta(days=7)
Lifecycle = key_requests_pb2.KeyLifecycle
_tenants = count(1)


@dataclass(slots=True)
class Modelled:
    """What a key has to be like."""

    versions: int = 1
    state: str = "ENABLED"
    due: timedelta | None = None
    sealed: list[bytes] = field(default_factory=list)


class Keys(RuleBasedStateMachine):
    """Works on a ring, in the loop that it belongs to, from another thread."""

    ring: Ring
    loop: asyncio.AbstractEventLoop
    tenant: Placement
    handle: TenantHandle

    def __init__(self) -> None:
        super().__init__()
        self.keys: dict[str, Modelled] = {}
        self.keks = 1
        self.encryption = Encryption(self.ring.cell.keys, KeyGate())

    def done(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Do it, and return what came of it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=60)

    @initialize()
    def found(self) -> None:
        self.tenant = self.done(self.ring.cell.tenant(f"org_{next(_tenants)}"))
        self.handle = self.ring.cell.database.tenant(self.tenant, isolation=Isolation.READ_COMMITTED)

    @rule(key_id=IDS)
    def create(self, key_id: str) -> None:
        if key_id in self.keys:
            with pytest.raises(AlreadyExistsError):
                self.done(self.ring.create(self.tenant, key_id, "ENCRYPTION"))
            return
        self.done(self.ring.create(self.tenant, key_id, "ENCRYPTION"))
        self.keys[key_id] = Modelled()

    @precondition(lambda self: self.keys)
    @rule(key_id=IDS)
    def rotate(self, key_id: str) -> None:
        key = self.keys.get(key_id)
        if key is None:
            return
        if key.state != "ENABLED":
            with pytest.raises(PreconditionError):
                self.done(self.ring.rotate(self.tenant, key_id))
            return
        self.done(self.ring.rotated(self.tenant, key_id))
        key.versions += 1

    @rule()
    def rotate_kek(self) -> None:
        self.done(self.ring.rotated(self.tenant, "kek"))
        self.keks += 1

    @precondition(lambda self: self.keys)
    @rule(key_id=IDS)
    def schedule(self, key_id: str) -> None:
        key = self.keys.get(key_id)
        if key is None:
            return
        if key.state != "ENABLED":
            with pytest.raises(PreconditionError):
                self.done(self.ring.schedule(self.tenant, key_id))
            return
        self.done(self.ring.schedule(self.tenant, key_id))
        # The disposal's clock is ahead of the service's.
        key.state, key.due = "DESTROY_SCHEDULED", WAIT

    @precondition(lambda self: self.keys)
    @rule(key_id=IDS)
    def restore(self, key_id: str) -> None:
        key = self.keys.get(key_id)
        if key is None:
            return
        if key.state != "DESTROY_SCHEDULED":
            with pytest.raises(PreconditionError):
                self.done(self.ring.restore(self.tenant, key_id))
            return
        self.done(self.ring.restore(self.tenant, key_id))
        key.state, key.due = "ENABLED", None

    @rule(later=st.sampled_from([timedelta(), timedelta(days=3), timedelta(days=8)]))
    def look(self, later: timedelta) -> None:
        """The disposal looks; a day, or a week, after the last destruction was announced."""
        self.ring.later = later
        self.done(self.ring.disposal.look())
        self.ring.later = timedelta()
        gone = [key for key in self.keys.values() if key.due is not None and key.due <= later]
        for key in gone:
            key.state, key.due = "DESTROYED", None
        for operation_id in self.ring.deferred:
            self.done(self.ring.runner.run(operation_id))
            assert self.done(self.ring.operation(operation_id)).state is OperationState.SUCCEEDED
        self.ring.deferred.clear()
        self.keks += bool(gone)

    @precondition(lambda self: self.keys)
    @rule(key_id=IDS, content=st.binary(min_size=1, max_size=16))
    def seal(self, key_id: str, content: bytes) -> None:
        key = self.keys.get(key_id)
        if key is None:
            return
        use = KeyUse(key=key_id, operation=Operation.ENCRYPT, principal="service:machine")
        try:
            sealed = self.done(self.encryption.seal(content, Purpose(), self.handle, use=use))
        except PreconditionError:
            assert key.state != "ENABLED"
            return
        assert (key.state, sealed.version) == ("ENABLED", key.versions)
        key.sealed.append(sealed.ciphertext)

    @invariant()
    def everything_opens_that_should_and_nothing_else(self) -> None:
        for key_id, key in self.keys.items():
            use = KeyUse(key=key_id, operation=Operation.DECRYPT, principal="service:machine")
            for ciphertext in key.sealed:
                try:
                    self.done(self.encryption.open(ciphertext, Purpose(), self.handle, use=use))
                except DomainError as error:
                    assert error.code == {  # noqa: PT017 which error it is depends on the model
                        "DESTROY_SCHEDULED": "KEY_DESTROY_SCHEDULED",
                        "DESTROYED": "KEY_DESTROYED",
                    }.get(key.state)
                else:
                    assert key.state == "ENABLED"

    @invariant()
    def the_keys_are_as_the_model_says(self) -> None:
        for key_id, key in self.keys.items():
            shown = self.done(self.ring.key(self.tenant, key_id))
            assert Lifecycle.State.Name(shown.lifecycle.state) == key.state
            assert (shown.version_count, shown.lifecycle.HasField("destroy_time")) == (
                key.versions,
                key.state != "ENABLED",
            )

    @override
    def teardown(self) -> None:
        """See that of each key that is gone a receipt tells, and that one KEK is left."""
        if not hasattr(self, "tenant"):
            return
        versions = self.done(self.ring.versions(self.tenant, "kek"))
        assert [version.name.rsplit("/", 1)[1] for version in versions] == [str(n) for n in range(self.keks, 0, -1)]
        alive = [kek for kek in self.done(self.ring.keks()) if kek.tenant_uid == self.tenant.uid]
        assert [kek.version for kek in alive] == [self.keks]


@pytest.mark.behaviour("S2.5", "S2.16")
@pytest.mark.timeout(300)
async def test_a_tenants_keys_are_what_was_done_to_them(ring: Ring) -> None:
    machine = type("Keys", (Keys,), {"ring": ring, "loop": asyncio.get_running_loop()})
    few = settings(max_examples=12, stateful_step_count=14, deadline=None, suppress_health_check=list(HealthCheck))
    await asyncio.to_thread(run_state_machine_as_test, machine, settings=few)
