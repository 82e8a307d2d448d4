"""Every tenant's keys: how they are made, kept, found, used and destroyed.

Owns the vault, the table `csm_system.tenant_keys` and the envelope that sealed data is kept in. Does not own what is
sealed: objects, tokens and certificates are their contexts'. Start reading at `service.py`, then `vault.py` and
`sealing/segments.py`; keys that tenants make themselves are in `named/`.

root of trust (never leaves the vault) → KEK of a tenant (never leaves the vault) → its keys by purpose (wrapped, in the
database) → data. A copy of the database and of the object store opens nothing without the vault.
"""
