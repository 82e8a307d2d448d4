"""What is asked of an audit log beyond its entries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from control_plane.audit import store
from control_plane.audit.model import Chain, Record, Seal, Verification
from control_plane.postgres.database import TenantTransaction
from control_plane.proofs.audit_log import LogKeys, Signatures, SignedCheckpoint

LARGEST_PART: Final = 200
"""Canonical forms and hashes are made in Python: more at once would hold up the other calls."""


async def verify_log(tx: TenantTransaction, keys: LogKeys | None = None) -> Verification:
    """Recompute the chain over all sealed entries, and compare it with what was signed; without keys, nothing was.

    Costs some 50 µs for each entry and 150 for each checkpoint; `tx` sees one state of the log.
    """
    keys = keys or LogKeys(tenant_uid=tx.placement.uid)
    signatures = Signatures(keys)
    last = await store.last_seal(tx)
    first_broken = await _first_broken(tx, signatures)
    return Verification(
        sealed=last.sequence if last else 0,
        unsealed=await store.count_unsealed(tx),
        head=last.hash if last else b"",
        first_broken=first_broken,
        last_signed=signatures.last,
        first_forged_checkpoint=signatures.first_forged,
        first_forged_key=keys.first_forged,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a log: sealed entries, as far as they are there, and what was signed of them."""

    entries: Sequence[tuple[Seal, Record | None]]
    checkpoints: Sequence[SignedCheckpoint]
    is_last: bool


async def read_part(tx: TenantTransaction, after: int, *, limit: int) -> Part:
    """Read on beyond the sequence number `after`; at the end, also checkpoints of entries that are gone."""
    # First: whatever is signed by now was sealed before, so it is among the entries, unless somebody took it out.
    signed = await store.checkpoints(tx, after, limit=limit) if await store.keeps_checkpoints(tx) else []
    entries = await store.sealed_page(tx, after, limit=limit)
    is_last = len(entries) < limit
    reached = entries[-1][0].sequence if entries else after
    return Part(
        entries=entries,
        checkpoints=[each for each in signed if is_last or each.sequence <= reached],
        is_last=is_last,
    )


async def _first_broken(tx: TenantTransaction, signatures: Signatures) -> int:
    overtaken = await store.first_overtaken(tx)
    wrong = await _first_wrong(tx, signatures)
    return min((found for found in (overtaken, wrong) if found), default=0)


async def _first_wrong(tx: TenantTransaction, signatures: Signatures) -> int:
    chain, is_last = Chain(tx.placement.uid), False
    while not is_last:
        part = await read_part(tx, chain.sequence, limit=LARGEST_PART)
        is_last, signed = part.is_last, {each.sequence: each for each in part.checkpoints}
        for seal, record in part.entries:
            expected = chain.sequence + 1
            if not chain.accepts(seal, record):
                return expected
            if not _holds(signatures, signed, chain):
                return signatures.sequence + 1
        if not all(signatures.hold(signed[sequence], head=b"") for sequence in signed if sequence > chain.sequence):
            return chain.sequence + 1
    return 0


def _holds(signatures: Signatures, signed: Mapping[int, SignedCheckpoint], chain: Chain) -> bool:
    checkpoint = signed.get(chain.sequence)
    return checkpoint is None or signatures.hold(checkpoint, head=chain.head)
