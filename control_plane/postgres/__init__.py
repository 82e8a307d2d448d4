"""PostgreSQL: connections, tenant-bound transactions, and who may do what in the database.

Owns: every connection and role, the handles that other packages run their SQL through, the schemas and their
migrations. Does not own: the SQL of a context, which is in that context's `store.py`.
Start reading at `database.py`, then `sql/system/roles.sql`.
"""
