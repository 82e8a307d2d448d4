"""What is asked of an audit log beyond its entries."""

from typing import Final

from control_plane.audit import store
from control_plane.audit.model import Chain, Verification
from control_plane.postgres.database import TenantTransaction

# Hashing is Python: larger pages would hold up the other calls.
_PAGE: Final = 200


async def verify_log(tx: TenantTransaction) -> Verification:
    """Recompute the chain over all sealed entries. Costs some 50 µs for each; `tx` sees one state of the log."""
    last = await store.last_seal(tx)
    return Verification(
        sealed=last.sequence if last else 0,
        unsealed=await store.count_unsealed(tx),
        head=last.hash if last else b"",
        first_broken=await _first_broken(tx),
    )


async def _first_broken(tx: TenantTransaction) -> int:
    overtaken = await store.first_overtaken(tx)
    wrong = await _first_wrong(tx)
    return min((found for found in (overtaken, wrong) if found), default=0)


async def _first_wrong(tx: TenantTransaction) -> int:
    chain = Chain(tx.placement.uid)
    while page := await store.sealed_page(tx, chain.sequence, limit=_PAGE):
        for seal, record in page:
            expected = chain.sequence + 1
            if not chain.accepts(seal, record):
                return expected
    return 0
