"""Whatever is done to an escrow in whatever order: what is refused, and what is stored after it."""

from collections.abc import Awaitable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulkhead.v1 import escrows_pb2, recoveries_pb2
from control_plane.errors import PolicyDeniedError, PreconditionError
from control_plane.keys.model import BUILT_IN
from control_plane.operations.model import OperationState
from control_plane.postgres.placement import Placement
from control_plane.serving.principal import Principal
from tests.fixtures.escrow import PEOPLE, Ceremony

EXAMPLES: Final = 25
_numbers: Final = count(1)
STEPS: Final = st.lists(
    st.sampled_from(
        [
            "propose",
            "confirm",
            "confirm alone",
            "disable",
            "begin",
            "cancel",
            "storage",
            "kek",
            "authority",
            "enrolment",
            *PEOPLE,
        ]
    ),
    max_size=14,
)
# Long enough for a recovery: by chance few of them come that far.
BEFORE: Final = st.sampled_from([[], ["propose", "confirm"], ["propose", "confirm", "begin", "ann"]])


@dataclass(slots=True, kw_only=True)
class History:
    """What was done to a tenant's escrow, and so what has to be."""

    ceremony: Ceremony
    tenant: Placement
    alice: Principal
    bob: Principal
    is_on: bool = False
    digest: str = ""
    recovery: recoveries_pb2.KeyRecovery | None = None
    approved: set[str] = field(default_factory=set)
    keys: int = len(BUILT_IN)
    kek: int = 1
    """The version that keys are under."""
    latest_kek: int = 1
    """The version that was last made."""

    async def step(self, what: str) -> None:
        """Do it, and compare what comes with what has to."""
        match what:
            case "propose":
                proposed = await self._refused_for(
                    "ESCROW_ON" if self.is_on else "", self.ceremony.propose(self.tenant, by=self.alice)
                )
                self.digest = proposed.proposal.digest if proposed else self.digest
            case "confirm" | "confirm alone":
                await self._confirm(by=self.alice if what == "confirm alone" else self.bob)
            case "disable":
                if await self._refused_for(self._in_recovery(), self.ceremony.disable(self.tenant)):
                    self.is_on, self.digest = False, ""
            case "begin":
                await self._begin()
            case "cancel" if self.recovery:
                await self.ceremony.cancel(self.tenant, self.recovery.name)
                self.recovery, self.approved = None, set()
            case "storage" | "kek" | "authority" | "enrolment":
                await self._rotate(what)
            case name if name in PEOPLE and self.recovery:
                await self._approve(name)

    async def check(self) -> None:
        """Compare what is stored with what has to be."""
        found, rows = await self.ceremony.get(self.tenant), await self.ceremony.rows(self.tenant)
        query = (
            f"SELECT count(*) AS n FROM csm_system.key_recoveries WHERE tenant_uid = '{self.tenant.uid}' AND session"
        )
        (open_recoveries,) = await self.ceremony.execute(f"{query} IS NOT NULL")
        approvals = await self.ceremony.execute(
            "SELECT recipient FROM csm_system.recovery_approvals AS a JOIN csm_system.key_recoveries AS r"
            f" ON r.id = a.recovery_id WHERE r.tenant_uid = '{self.tenant.uid}'"
        )
        keks = {kek.version for kek in await self.ceremony.keks(self.tenant)}

        assert found.state == (escrows_pb2.Escrow.ON if self.is_on else escrows_pb2.Escrow.OFF)
        assert (rows["tenant_escrows"], rows["escrow_copies"]) == ((1, self.keys) if self.is_on else (0, 0))
        assert found.HasField("proposal") is bool(self.digest)
        assert open_recoveries["n"] == (1 if self.recovery else 0)
        assert {row["recipient"] for row in approvals} == self.approved
        assert keks == {self.kek} | ({self.latest_kek} if self.recovery else set())
        assert await self.ceremony.ring.other_process().derive(self.tenant, b"label")

    async def _confirm(self, *, by: Principal) -> None:
        code = "ESCROW_ON" if self.is_on else "ESCROW_NOT_PROPOSED" if not self.digest else ""
        code = code or ("SECOND_PERSON_NEEDED" if by == self.alice else "")
        asked = self.ceremony.confirm(self.tenant, self.digest, by=by)
        if await self._refused_for(code, asked):
            self.is_on, self.digest = True, ""

    async def _begin(self) -> None:
        code = "ESCROW_OFF" if not self.is_on else self._in_recovery()
        begun = await self._refused_for(code, self.ceremony.begin(self.tenant))
        if begun:
            self.recovery, self.latest_kek = begun, self.latest_kek + 1

    async def _rotate(self, key: str) -> None:
        if not await self._refused_for(self._in_recovery(), self.ceremony.ring.rotated(self.tenant, key)):
            return
        if key == "kek":
            self.latest_kek += 1
            self.kek = self.latest_kek
        else:
            self.keys += 1

    async def _approve(self, name: str) -> None:
        assert self.recovery is not None
        code = "RECOVERY_APPROVED_BEFORE" if name in self.approved else ""
        if not await self._refused_for(code, self.ceremony.hand_in(self.tenant, self.recovery, name)):
            return
        self.approved.add(name)
        if len(self.approved) == self.recovery.threshold:
            operation = self.ceremony.deferred[-1]
            await self.ceremony.lose_keks_but(self.tenant, self.latest_kek)
            await self.ceremony.runner.run(operation)
            assert (await self.ceremony.ring.operation(operation)).state is OperationState.SUCCEEDED
            self.recovery, self.approved, self.kek = None, set(), self.latest_kek

    def _in_recovery(self) -> str:
        return "RECOVERY_IN_PROGRESS" if self.recovery else ""

    async def _refused_for(self, code: str, asked: Awaitable[Any]) -> Any:
        """Return what comes; None where it is refused, for what it has to be."""
        if not code:
            return await asked
        with pytest.raises((PolicyDeniedError, PreconditionError)) as refused:
            await asked
        assert refused.value.code == code
        return None


@pytest.mark.behaviour("S2.13")
@pytest.mark.timeout(240)
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(before=BEFORE, steps=STEPS)
async def test_whatever_is_done_to_an_escrow_it_is_whole_or_not_there(
    escrow: Ceremony, before: list[str], steps: list[str]
) -> None:
    tenant = await escrow.cell.tenant(f"org_{next(_numbers)}")
    alice, bob = [await escrow.administrator(tenant, subject) for subject in ("alice", "bob")]
    history = History(ceremony=escrow, tenant=tenant, alice=alice, bob=bob)
    for step in [*before, *steps]:
        await history.step(step)
        await history.check()
