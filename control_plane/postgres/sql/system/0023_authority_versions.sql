-- Of a version of a tenant's certificate authority: its key's certificate by the version before it, in DER, for those who
-- trust that one alone. See control_plane/keys/authorities.py.

ALTER TABLE csm_system.tenant_keys ADD COLUMN cross_certificate bytea
  CONSTRAINT tenant_keys_cross_certificate_check CHECK (cross_certificate IS NULL OR purpose = 'authority');
