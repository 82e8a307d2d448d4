"""What a tenant's rates have left.

Owns the counts in Valkey and the functions by which they change, and what a worker has reserved of them. Does not own
the rates (`policies`), nor what is answered where one is used up (`authz`). Start reading at `reserves.py`.
"""
