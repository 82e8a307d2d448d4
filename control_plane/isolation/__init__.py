"""Whether tenants are kept apart: asked of every wall, on demand and each day, and told under a signature.

Owns the probes and the attestations. Does not own the walls, nor the looking out for breaches (`canary.py`,
`postgres/watch.py`, `serving/interceptors/outgoing.py`), nor the events of those (`breaches`). Start reading at
`service.py`.
"""
