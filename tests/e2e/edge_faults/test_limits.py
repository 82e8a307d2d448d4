"""A tenant's limit is its limit, whoever is killed while its callers ask for as much as they can."""

import time
from collections import Counter
from typing import Final

import pytest

from tests.e2e.edge_faults.conftest import Broken, await_a_new_minute
from tests.fixtures.edge_faults import counted, reading, wait_for

LIMIT: Final = 2_000
CALLERS: Final = 4
KILLED: Final = ("workers", "valkey", "agent", "valkey")
PAUSE_S: Final = 1.0
# As a rule, with what it takes until everybody is back.
TAKES_S: Final = 25.0


@pytest.mark.behaviour("S3.4", "S3.12", "T-V7")
@pytest.mark.timeout(300)
def test_whoever_is_killed_no_more_than_the_limit_is_admitted(broken: Broken) -> None:
    tenant = broken.world.founder.found("theta", requests_per_minute=LIMIT)
    broken.world.founder.applied()
    await_a_new_minute(TAKES_S)
    begun = time.time() // 60
    callers = [broken.asks_for(tenant) for _ in range(CALLERS)]
    with reading(callers, pause_s=0):
        for part in KILLED:
            time.sleep(PAUSE_S)
            wait_for(lambda: "agent" in broken.world.stack.pids())
            broken.breaker.kill(part)
        wait_for(lambda: any(caller.told[-1].said.startswith("429") for caller in callers))
    minutes = time.time() // 60 - begun + 1
    broken.world.founder.suspend(tenant.tenant_id)
    answers: Counter[str] = Counter()
    for said, times in counted(callers, 0).items():
        answers[said.partition(" ")[0]] += times

    assert LIMIT / 4 < answers["200"] <= LIMIT * minutes
    assert answers.keys() <= {"200", "429", "503"}
