"""The walls that `make leaks` takes away, one at a time.

A mutation is one line of isolation code as a hurried engineer could leave it: a check that was forgotten, a condition
that is always true, a right too many. For each, some test has to fail; where none does, the test is missing, and not
the mutation too many. To add one, write five lines beside its like in `walls/`::

    Mutation(
        name="a suspended tenant is served",
        file="control_plane/serving/authorization.py",
        before='if entry.state == "SUSPENDED" and not rule.serves_suspended:',
        after='if entry.state == "SUSPENDED" and rule.serves_suspended:',
        noticed_by=("tests/unit/serving/test_authorization.py::test_a_suspended_tenant_is_served_only_where_…",),
    )

and try it with `make leaks ONLY='suspended tenant is served'`.

* `before` is in the file exactly once, or the run says so: so much of the line as that takes, or some of the lines
  around it. `after` leaves a program that somebody could ship: it is imported, and lacks no name. Where a condition
  goes, put one that is never true and still reads what it read, so that nothing else is different.
* `file` may be Python, SQL, Lua or a proto, from which the generated code is then made anew.
* `noticed_by` has the quickest test that notices it, and no more of a file than that: unit and architecture tests take
  half a second, PostgreSQL and a real Envoy one or two, a whole stack ten. One that waits for what never comes is no
  good; a mutation whose tests may do so all the same says `may_hang=True`.

A new area gets a module of its own in `walls/`, and a line below. `model.py` says what counts as caught, `gate.py` how
they are tried, `copies.py` and `nursery.py` where.
"""

from typing import Final

from tests.leaks.model import Mutation
from tests.leaks.walls import (
    audit,
    authorities,
    budgets,
    caches,
    callers,
    connections,
    contexts,
    decisions,
    devices,
    enrolment,
    escrows,
    key_policies,
    keys,
    leases,
    markers,
    objects,
    own_keys,
    policies,
    proxy,
    purges,
    requests,
    resealing,
    rotations,
    routes,
    rules,
    seals,
    secrets,
    signatures,
    tables,
    tokens,
)

MUTATIONS: Final[tuple[Mutation, ...]] = (
    # The database.
    *connections.WALLS,
    *tables.WALLS,
    # What is sealed.
    *keys.WALLS,
    *key_policies.WALLS,
    *rotations.WALLS,
    *authorities.WALLS,
    *enrolment.WALLS,
    *resealing.WALLS,
    *own_keys.WALLS,
    *devices.WALLS,
    *escrows.WALLS,
    *objects.WALLS,
    *secrets.WALLS,
    *signatures.WALLS,
    *caches.WALLS,
    *seals.WALLS,
    *purges.WALLS,
    # The platform's own doors.
    *rules.WALLS,
    *callers.WALLS,
    *contexts.WALLS,
    *tokens.WALLS,
    *audit.WALLS,
    # What notices that one of them is gone.
    *markers.WALLS,
    # The edge.
    *policies.WALLS,
    *requests.WALLS,
    *decisions.WALLS,
    *budgets.WALLS,
    *leases.WALLS,
    *proxy.WALLS,
    *routes.WALLS,
)
