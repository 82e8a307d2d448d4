"""A tenant's policy of the use of its keys: who may use which key for what, why, when, and with whose consent.

Owns the policy, the changes of it that need two people, and the approvals of single uses. Does not own the keys, nor
the entry of a use, which whoever uses one writes in the transaction that `gate.py` gives it. Start reading at
`model.py`, then `decide.py` and `gate.py`.
"""
