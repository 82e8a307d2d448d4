-- Tenants' tables are brought up to date one tenant at a time. One where that fails keeps nobody waiting, is tried again
-- later, and says why.

ALTER TABLE csm_system.tenant_schemas
  ADD COLUMN failure text NOT NULL DEFAULT '',
  ADD COLUMN failures integer NOT NULL DEFAULT 0,
  ADD COLUMN retry_time timestamptz NOT NULL DEFAULT '-infinity';
-- Where all are up to date, this is all that is looked at.
CREATE INDEX tenant_schemas_version_idx ON csm_system.tenant_schemas (version, retry_time);
GRANT SELECT (tenant_uid, version) ON csm_system.tenant_schemas TO csm_directory;
GRANT UPDATE (failure, failures, retry_time) ON csm_system.tenant_schemas TO csm_control;
