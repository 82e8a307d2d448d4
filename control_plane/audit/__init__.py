"""What happened to a tenant, and who did it.

Owns the audit log: its entries, the chain of hashes over them, and the count of denied calls. Does not own what an
effect is: whoever makes one says so with `tx.record`. Start reading at `model.py`, then `recorder.py` and `sealer.py`.
"""
