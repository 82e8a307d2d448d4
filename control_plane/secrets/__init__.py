"""Secrets: a tenant's own values, such as the credentials of its integrations, in versions and sealed by its key.

Owns how many there may be, their states and their rows. Does not own the key that seals them, which is in `keys`, nor
who may call, which the rules say. A value is in memory while it is sealed or given out, and nowhere else: in no log, no
error, no cache, no `repr`. Start reading at `model.py`, then `service.py`.
"""
