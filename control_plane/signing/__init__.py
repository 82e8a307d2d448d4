"""Signatures by keys that a tenant has made for it: SigningService.

Owns what may be signed, and that each use is in the tenant's audit log. Does not own the keys, which are `keys`', nor
whether one may be used at this moment, which `encryption.uses` says of all. Start reading at `service.py`.
"""
