"""What each process is made of: one straight function each, settings in, a running server out.

Owns the wiring, and nothing that could be decided. Start reading at `control_plane.py`, then `process.py`.
"""
