"""Escrow of tenants' keys, and recovery from it: EscrowService.

Owns who has shares, what is proposed, and recoveries. Does not own the copies of keys: they are made where keys are
made and stored, in `keys`. Start reading at `model.py`, then `recovering.py`; docs/escrow.md has it as people walk it.

A tenant's keys are copied for the public half of a key pair whose private half was split among the tenant's recipients
and forgotten. Off by default, and then there is no row that says otherwise.
"""
