"""Tenants' objects, each version sealed for its tenant and its path, under `/storage/{tenant_id}/`.

Owns what a path may be, the buckets that bytes are kept in, and that no byte gets there in the clear. Does not own what
the objects mean, nor the keys. Start reading at `store.py`, then `paths.py` and `bucket.py`.
"""
