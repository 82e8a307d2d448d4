"""How a deleted tenant goes: when its waiting period is over, everything of it is destroyed but its audit log.

To delete it, and to take that back, is `control_plane/tenants`: until its purge begins nothing happens to it.
"""
