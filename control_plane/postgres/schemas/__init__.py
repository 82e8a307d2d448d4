"""The database's own shape: the platform's schemas, the tenants', and what the catalogue must say of them.

Owns every statement that makes, changes or judges a table, a role or a right. Does not own the rows in them.
Start reading at `migrations.py`, then `tenancy.py`; the SQL is in `../sql`.
"""
