"""Owns what Envoy is told: which resources there are at one moment, and which Envoy has which of them.

Speaks delta discovery over one aggregated stream, and nothing else. Does not own what the resources say: that is
`resources`. Start reading at `hub.py`.
"""
