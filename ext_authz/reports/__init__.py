"""What was decided, counted and handed in.

Owns: the tallies of refused and of admitted requests between two reports, and the reports' delivery, each counted once.
Does not own: decisions (`authz`), audit entries and bills (the control plane's).
Start reading at `model.py`, then `tally.py`.
"""
