"""Commands about the edge: what a proxy is told of a tenant, and what the edge does, shown on a running stack.

Owns nothing of how it is decided. Tenants' requests go through the edge as anybody's would; what an administrator does
goes to the control plane. Start reading at `demo.py`.
"""
