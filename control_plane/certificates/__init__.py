"""Certificates: the platform's service that tenants use. Runs as a process of its own (`bulkhead serve certificates`).

Owns what may be certified, the certificates that were issued, their rows in the tenant's schema and their objects under
`/storage/{tenant_id}/certificates/`. Does not own the authorities' keys (`keys/`), nor who may call (`serving/`).
Start reading at `service.py`; `signing_request.py` says what is refused, `signing.py` what a certificate says.
"""
