"""What is enforced: every tenant's policy, at one revision.

Owns the index, the feed that keeps it current, and its last-good copy on disk. Does not own any decision.
Start reading at `model.py`.
"""
