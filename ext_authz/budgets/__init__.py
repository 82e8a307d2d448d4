"""What a tenant's rate has left.

Owns the counters in Valkey, and the one atomic function by which they change. Does not own the rates (`policies`), nor
what is answered where one is used up (`authz`). Start reading at `limiter.py`, beside `minute.lua`.
"""
