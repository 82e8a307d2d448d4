"""The registry of tenants: which there are, in what state, and how one comes to be.

Owns csm_system.tenants and the plan of provisioning. Does not own what belongs to a tenant: its keys, its schema and
its tokens are other contexts', which provisioning calls. Start reading at `model.py`.
"""
