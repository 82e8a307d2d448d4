-- The platform's own keys, wrapped; and what verifications have found, signed with one of them.

-- Nothing here opens without the vault. No row is ever changed: an old signature must be checked for ever.
CREATE TABLE csm_system.platform_keys (
  id uuid CONSTRAINT platform_keys_pkey PRIMARY KEY,
  purpose text NOT NULL,
  version integer NOT NULL,
  algorithm text NOT NULL,
  kek_version integer NOT NULL,
  wrapped bytea NOT NULL,
  public bytea NOT NULL,
  create_time timestamptz NOT NULL,
  CONSTRAINT platform_keys_version_key UNIQUE (purpose, version)
);
GRANT SELECT, INSERT ON csm_system.platform_keys TO csm_control;

-- Kept as they were signed. Of a cell, tenant_uid is NULL.
CREATE TABLE csm_system.attestations (
  id uuid CONSTRAINT attestations_pkey PRIMARY KEY,
  tenant_uid uuid,
  passed boolean NOT NULL,
  create_time timestamptz NOT NULL,
  payload bytea NOT NULL,
  signature bytea NOT NULL,
  key_id uuid NOT NULL CONSTRAINT attestations_key_id_fkey REFERENCES csm_system.platform_keys
);
CREATE INDEX attestations_tenant_uid_idx ON csm_system.attestations (tenant_uid, id);
GRANT SELECT, INSERT ON csm_system.attestations TO csm_control;

-- When each tenant is to be verified next. Whoever takes one puts it off first, so that no two take the same.
CREATE TABLE csm_system.verifications (
  tenant_uid uuid CONSTRAINT verifications_pkey PRIMARY KEY
    CONSTRAINT verifications_tenant_uid_fkey REFERENCES csm_system.tenants (uid) ON DELETE CASCADE,
  due_time timestamptz NOT NULL
);
CREATE INDEX verifications_due_time_idx ON csm_system.verifications (due_time);
GRANT SELECT, INSERT, UPDATE, DELETE ON csm_system.verifications TO csm_control;
