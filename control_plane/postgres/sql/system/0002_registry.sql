-- csm_system: the registry of tenants, and the platform's own records.

CREATE SCHEMA csm_system;
GRANT USAGE ON SCHEMA csm_system TO csm_control, csm_directory, csm_sealer, csm_ddl;

-- The job queue's own schema; its library makes the tables.
CREATE SCHEMA csm_jobs AUTHORIZATION csm_control;

CREATE TABLE csm_system.schema_migrations (
  version integer PRIMARY KEY,
  name text NOT NULL,
  checksum bytea NOT NULL,
  apply_time timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT ON csm_system.schema_migrations TO csm_control, csm_directory, csm_sealer, csm_ddl;

CREATE TABLE csm_system.tenants (
  -- Names the roles; never used again, also where a creation failed.
  number bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT tenants_number_key UNIQUE,
  id text CONSTRAINT tenants_pkey PRIMARY KEY
    CONSTRAINT tenants_id_check CHECK (id ~ '^[a-z][a-z0-9]*(_[a-z0-9]+)*$' AND length(id) BETWEEN 3 AND 41),
  uid uuid NOT NULL CONSTRAINT tenants_uid_key UNIQUE,
  display_name text NOT NULL,
  state text NOT NULL CONSTRAINT tenants_state_check CHECK (state IN ('PROVISIONING', 'ACTIVE', 'SUSPENDED')),
  tier text NOT NULL,
  isolation text NOT NULL DEFAULT 'POOLED' CONSTRAINT tenants_isolation_check CHECK (isolation IN ('POOLED')),
  cell text NOT NULL DEFAULT 'local',
  -- Short enough that PostgreSQL cuts nothing off, or two tenants could meet in one schema.
  schema_name text NOT NULL CONSTRAINT tenants_schema_name_key UNIQUE
    CONSTRAINT tenants_schema_name_check CHECK (schema_name ~ '^tenant_[a-z0-9_]{1,56}$'),
  role_name text GENERATED ALWAYS AS ('csm_t_' || number) STORED CONSTRAINT tenants_role_name_key UNIQUE,
  login_role text GENERATED ALWAYS AS ('csm_pool_' || number / 200) STORED,
  dns_label text NOT NULL CONSTRAINT tenants_dns_label_key UNIQUE
    CONSTRAINT tenants_dns_label_check CHECK (dns_label ~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'),
  labels jsonb NOT NULL DEFAULT '{}',
  admin_email text,
  suspend_reason text NOT NULL DEFAULT '',
  revision bigint NOT NULL DEFAULT 1,
  create_time timestamptz NOT NULL DEFAULT now(),
  update_time timestamptz NOT NULL DEFAULT now()
);
-- No UPDATE of what says where a tenant's rows are: nothing can point a tenant at another one's schema.
GRANT SELECT, INSERT, DELETE ON csm_system.tenants TO csm_control;
GRANT UPDATE (display_name, state, tier, labels, admin_email, suspend_reason, revision, update_time)
  ON csm_system.tenants TO csm_control;
-- Who finds a tenant needs no address of its administrator.
GRANT SELECT (number, id, uid, display_name, state, tier, isolation, cell, schema_name, role_name, login_role, dns_label)
  ON csm_system.tenants TO csm_directory, csm_sealer;

-- Which version of the tenants' tables a schema has; no row where there is no schema.
CREATE TABLE csm_system.tenant_schemas (
  tenant_uid uuid PRIMARY KEY,
  version integer NOT NULL,
  migrate_time timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT, INSERT, UPDATE, DELETE ON csm_system.tenant_schemas TO csm_ddl;
GRANT SELECT ON csm_system.tenant_schemas TO csm_control;

-- Long-running operations, and their steps in order.
CREATE TABLE csm_system.operations (
  id uuid PRIMARY KEY,
  kind text NOT NULL,
  tenant_id text NOT NULL,
  tenant_uid uuid NOT NULL,
  actor text NOT NULL,
  call_request_id text NOT NULL,
  request_id uuid,
  request_hash bytea NOT NULL,
  state text NOT NULL CONSTRAINT operations_state_check CHECK (state IN ('RUNNING', 'SUCCEEDED', 'FAILED')),
  error_code integer,
  error_reason text,
  error_message text,
  create_time timestamptz NOT NULL DEFAULT now(),
  update_time timestamptz NOT NULL DEFAULT now(),
  end_time timestamptz,
  CONSTRAINT operations_request_id_key UNIQUE (kind, actor, request_id)
);
CREATE INDEX operations_tenant_id_idx ON csm_system.operations (tenant_id, id);
CREATE TABLE csm_system.operation_steps (
  operation_id uuid NOT NULL REFERENCES csm_system.operations ON DELETE CASCADE,
  position integer NOT NULL,
  name text NOT NULL,
  state text NOT NULL CONSTRAINT operation_steps_state_check CHECK (state IN ('PENDING', 'RUNNING', 'DONE', 'FAILED')),
  attempts integer NOT NULL DEFAULT 0,
  start_time timestamptz,
  end_time timestamptz,
  PRIMARY KEY (operation_id, position)
);
GRANT SELECT, INSERT, UPDATE ON csm_system.operations, csm_system.operation_steps TO csm_control;

-- The tenants' keys, wrapped: nothing here opens without the vault.
CREATE TABLE csm_system.tenant_keys (
  id uuid PRIMARY KEY,
  tenant_uid uuid NOT NULL,
  purpose text NOT NULL,
  version integer NOT NULL,
  algorithm text NOT NULL,
  kek_version integer NOT NULL,
  wrapped bytea NOT NULL,
  public bytea,
  state text NOT NULL CONSTRAINT tenant_keys_state_check CHECK (state IN ('ENABLED', 'RETIRED')),
  create_time timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT tenant_keys_version_key UNIQUE (tenant_uid, purpose, version)
);
GRANT SELECT, INSERT, UPDATE, DELETE ON csm_system.tenant_keys TO csm_control;
GRANT SELECT ON csm_system.tenant_keys TO csm_directory;

-- Refused calls that belong to no tenant's audit log, since nobody vouched for who called.
CREATE TABLE csm_system.denied_calls (
  id uuid PRIMARY KEY,
  first_time timestamptz NOT NULL,
  last_time timestamptz NOT NULL,
  actor text NOT NULL,
  method text NOT NULL,
  reason text NOT NULL,
  peer text NOT NULL,
  count bigint NOT NULL,
  request_id text NOT NULL
);
GRANT SELECT, INSERT, UPDATE ON csm_system.denied_calls TO csm_control, csm_directory;

-- For the tenants' audit tables: INSERT is all that there is, for everybody, the owner and the superuser included.
CREATE FUNCTION csm_system.refuse_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
  RAISE insufficient_privilege USING MESSAGE = format('%s refuses %s: audit logs are never changed', TG_TABLE_NAME, TG_OP);
END
$$;
-- A trigger function needs no right to fire, only to be named by the owner's CREATE TRIGGER.
GRANT USAGE ON SCHEMA csm_system TO csm_owner;
GRANT EXECUTE ON FUNCTION csm_system.refuse_change() TO csm_owner;
