"""The enforcement agent beside each Envoy: decides each request, and tells Envoy where to send it.

Speaks both of Envoy's protocols, Check and delta ADS, from one index of all policies at one revision. Has no database
rights and no key of a tenant. Start reading at `agent.py`.
"""
