"""What is sealed for a tenant, under a key that only the tenant has.

Owns what may be asked for, whether a key may be used at this moment, and that each use is in the tenant's audit log.
Does not own the key, which is `keys`', nor what is sealed, which services keep where they like. Start reading at
`model.py`, then `uses.py`.
"""
