"""What is told of a tenant's keys, and what becomes of them: KeyService and KeyImportService.

Owns the rotations, how tenants' own keys come and go, and the names under which keys are shown. Does not own the keys:
they are kept and used in `keys`, and no RPC gives one out. Start reading at `rotations/`, then `named_keys.py` and
`disposal.py`.
"""
