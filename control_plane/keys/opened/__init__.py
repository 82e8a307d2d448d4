"""Tenants' keys that this process has opened: which versions there are, and for how long it keeps what of them.

Owns what is in memory alone. Does not own the rows (`keys/store.py`), nor what keys are used for (`keys/service.py`).
"""
