"""Owns what is decided about one request, and how Envoy is told; everything that it needs to know is in memory.

Does not own the policies (`policies`), nor how much of its rate a tenant has used (`budgets`). Start at `servicer.py`;
what a request is let through by is in `decide.py`.
"""
