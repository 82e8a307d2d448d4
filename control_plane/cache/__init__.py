"""Each tenant's part of Valkey: small values that are quicker found than made again.

Owns the handle that is the only way in (`handles.py`), the ledger by which a tenant's part is bounded (`cache.lua`),
who may do what in Valkey (`acl.py`), and that each tenant has its user there (`reconciler.py`). Does not own what is
kept, nor the edge's counters, which are in the same server: `ext_authz/budgets`. Start reading at `handles.py`.

The cache is never needed. A Valkey that is away, slow, full or empty is a miss, and nothing else.
"""
