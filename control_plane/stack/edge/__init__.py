"""The edge of the embedded stack: what the agent and Envoy are told, who they are, and how they are run.

Owns no part of what they decide: that is `ext_authz`, which the stack starts and does not import.
Start reading at `programs.py`.
"""
