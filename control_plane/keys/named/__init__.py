"""Keys that a tenant makes itself: what they may be, how they come in, and where they are in their lives.

Owns the tables `named_keys`, `destroyed_key_versions` and `key_imports`. Does not own the wrapped keys, which are in
`csm_system.tenant_keys` with all others, nor how they are used. Start reading at `model.py`.
"""
