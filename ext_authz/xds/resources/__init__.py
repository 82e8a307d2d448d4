"""Owns what Envoy's resources say: listeners, clusters, secrets, a tenant's scopes and routes, and the bootstrap.

Does not own when they are sent, or to whom: that is the package above. Start reading at `source.py`.
"""
