"""A tenant's limit is its limit, whoever is killed while its callers ask for as much as they can."""

import http.client
import threading
import time
from collections import Counter
from typing import Final, Self

import pytest

from tests.e2e.edge_faults.conftest import Broken, await_a_new_minute
from tests.fixtures.edge import EdgeTenant
from tests.fixtures.edge_faults import wait_for

LIMIT: Final = 2_000
CALLERS: Final = 4
KILLED: Final = ("workers", "valkey", "agent", "valkey")
PAUSE_S: Final = 1.0
# As a rule, with what it takes until everybody is back.
TAKES_S: Final = 25.0


class Callers:
    """Some who ask again as soon as they are answered, each over a connection of its own."""

    def __init__(self, broken: Broken, tenant: EdgeTenant) -> None:
        self._world = broken.world
        self._tenant = tenant
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CALLERS)]
        self._lock = threading.Lock()
        self.answers: Counter[int] = Counter()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        headers = {**self._tenant.bearer, "host": self._world.authority}
        connection = http.client.HTTPConnection(self._world.http, timeout=10)
        while not self._enough.is_set():
            connection.request("GET", self._tenant.certificates, headers=headers)
            answer = connection.getresponse()
            answer.read()
            with self._lock:
                self.answers[answer.status] += 1
        connection.close()


@pytest.mark.behaviour("S3.4", "S3.12", "T-V7")
@pytest.mark.timeout(300)
def test_whoever_is_killed_no_more_than_the_limit_is_admitted(broken: Broken) -> None:
    tenant = broken.world.founder.found("theta", requests_per_minute=LIMIT)
    broken.world.founder.applied()
    await_a_new_minute(TAKES_S)
    begun = time.time() // 60
    with Callers(broken, tenant) as callers:
        for part in KILLED:
            time.sleep(PAUSE_S)
            wait_for(lambda: "agent" in broken.world.stack.pids())
            broken.breaker.kill(part)
        wait_for(lambda: callers.answers[429] > 0)
    minutes = time.time() // 60 - begun + 1
    broken.world.founder.suspend(tenant.tenant_id)

    assert LIMIT / 4 < callers.answers[200] <= LIMIT * minutes
    assert callers.answers.keys() <= {200, 429, 503}
