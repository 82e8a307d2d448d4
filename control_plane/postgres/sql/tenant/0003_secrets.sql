-- A tenant's secrets. `sealed` is all that there is of a value: an envelope under the tenant's storage key, bound to the
-- secret's id and the version's number (`control_plane/secrets`). Nothing here is made of a value without a key, no hash
-- either: short values would be guessed by it.

CREATE TABLE secrets (
  tenant_id uuid NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), '')::uuid,
  id uuid NOT NULL,
  secret_id text NOT NULL,
  description text NOT NULL DEFAULT '',
  labels jsonb NOT NULL DEFAULT jsonb_build_object(),
  revision bigint NOT NULL DEFAULT 1,
  latest_version bigint NOT NULL DEFAULT 0,
  create_time timestamptz NOT NULL DEFAULT now(),
  update_time timestamptz NOT NULL DEFAULT now(),
  request_id uuid,
  request_hash bytea,
  PRIMARY KEY (tenant_id, id),
  CONSTRAINT secrets_secret_id_key UNIQUE (secret_id, tenant_id),
  CONSTRAINT secrets_request_id_key UNIQUE (request_id, tenant_id)
);

CREATE TABLE secret_versions (
  tenant_id uuid NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), '')::uuid,
  secret_uid uuid NOT NULL,
  number bigint NOT NULL CONSTRAINT secret_versions_number_check CHECK (number > 0),
  state text NOT NULL
    CONSTRAINT secret_versions_state_check CHECK (state IN ('ENABLED', 'DISABLED', 'DESTROYED')),
  -- External: what is sealed does not become smaller, and an attempt costs.
  sealed bytea STORAGE EXTERNAL,
  create_time timestamptz NOT NULL DEFAULT now(),
  destroy_time timestamptz,
  request_id uuid,
  request_hash bytea,
  PRIMARY KEY (tenant_id, secret_uid, number),
  CONSTRAINT secret_versions_secret_uid_fkey FOREIGN KEY (tenant_id, secret_uid) REFERENCES secrets (tenant_id, id),
  CONSTRAINT secret_versions_request_id_key UNIQUE (request_id, tenant_id),
  CONSTRAINT secret_versions_sealed_check CHECK ((state = 'DESTROYED') = (sealed IS NULL))
);

ALTER TABLE secrets ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON secrets
  USING (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)
  WITH CHECK (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);
ALTER TABLE secret_versions ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON secret_versions
  USING (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)
  WITH CHECK (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);

GRANT SELECT, INSERT, UPDATE, DELETE ON secrets, secret_versions TO {role};
