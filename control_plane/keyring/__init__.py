"""What is told of a tenant's keys, and their rotation: KeyService.

Owns the rotations and the names under which keys are shown. Does not own the keys: they are made, kept and used in
`keys`, and no RPC gives one out. Start reading at `rotation.py`.
"""
