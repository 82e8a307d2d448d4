"""How a gRPC call gets in: listeners, who calls, what it may do, and how errors go out.

Owns the interceptors and everything derived from the rules in the protos. Does not own any RPC.
Start reading at `listeners.py`.
"""
