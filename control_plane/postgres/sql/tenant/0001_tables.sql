-- The tables of one tenant, made as csm_owner in the tenant's schema; {schema} and {role} are its own.
--
-- Every table has the tenant's uid in each row, filled in from the transaction's context and compared with it. Keys are
-- UUIDs made by the application: sequences are not carried along when a tenant moves.
-- Other keys than the primary one name tenant_id last: it is the same in all rows, and while a table has no statistics
-- the planner takes an index that begins with it for a query by id, reads every row, and under SERIALIZABLE conflicts
-- with everybody (of 50 updates at once, 7 failed after 5 attempts).
-- Tables are named one by one in grants: ON ALL TABLES IN SCHEMA reads all tenants' tables, 138 ms at 10,000 of them.

CREATE TABLE users (
  tenant_id uuid NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), '')::uuid,
  id uuid NOT NULL,
  subject text NOT NULL,
  email text,
  role text NOT NULL,
  state text NOT NULL CONSTRAINT users_state_check CHECK (state IN ('INVITED', 'ACTIVE')),
  create_time timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, id),
  CONSTRAINT users_subject_key UNIQUE (subject, tenant_id)
);

-- Invitations; the token itself is derived from the tenant's key and stored nowhere.
CREATE TABLE enrolments (
  tenant_id uuid NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), '')::uuid,
  id uuid NOT NULL,
  user_id uuid NOT NULL,
  expire_time timestamptz NOT NULL,
  redeem_time timestamptz,
  PRIMARY KEY (tenant_id, id),
  CONSTRAINT enrolments_user_id_fkey FOREIGN KEY (tenant_id, user_id) REFERENCES users (tenant_id, id)
);

-- Issued API tokens, by their claims.
CREATE TABLE tokens (
  tenant_id uuid NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), '')::uuid,
  id uuid NOT NULL,
  subject text NOT NULL,
  role text NOT NULL,
  scopes text[] NOT NULL,
  kid uuid NOT NULL,
  create_time timestamptz NOT NULL DEFAULT now(),
  expire_time timestamptz NOT NULL,
  revoke_time timestamptz,
  request_id uuid,
  request_hash bytea,
  PRIMARY KEY (tenant_id, id),
  CONSTRAINT tokens_request_id_key UNIQUE (request_id, tenant_id)
);

CREATE TABLE certificates (
  tenant_id uuid NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), '')::uuid,
  id uuid NOT NULL,
  state text NOT NULL CONSTRAINT certificates_state_check CHECK (state IN ('PENDING', 'ACTIVE', 'REVOKED')),
  serial_number text NOT NULL,
  subject text NOT NULL,
  dns_names text[] NOT NULL,
  profile text NOT NULL,
  object_path text NOT NULL,
  sha256 bytea,
  create_time timestamptz NOT NULL DEFAULT now(),
  expire_time timestamptz NOT NULL,
  revoke_time timestamptz,
  revoke_reason text NOT NULL DEFAULT '',
  request_id uuid,
  request_hash bytea,
  PRIMARY KEY (tenant_id, id),
  CONSTRAINT certificates_serial_number_key UNIQUE (serial_number, tenant_id),
  CONSTRAINT certificates_request_id_key UNIQUE (request_id, tenant_id)
);

-- What happened, written in the transaction that did it; chained afterwards, in the order (xact, id).
CREATE TABLE audit_entries (
  tenant_id uuid NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), '')::uuid,
  id uuid NOT NULL,
  xact xid8 NOT NULL DEFAULT pg_current_xact_id(),
  create_time timestamptz NOT NULL DEFAULT now(),
  actor text NOT NULL,
  method text NOT NULL,
  resource text NOT NULL,
  outcome text NOT NULL CONSTRAINT audit_entries_outcome_check CHECK (outcome IN ('EFFECT', 'DENIED')),
  reason text NOT NULL DEFAULT '',
  request_id text NOT NULL,
  count bigint NOT NULL DEFAULT 1,
  details jsonb NOT NULL DEFAULT jsonb_build_object(),
  PRIMARY KEY (tenant_id, id)
);
CREATE INDEX audit_entries_xact_idx ON audit_entries (tenant_id, xact, id);

CREATE TABLE audit_seals (
  tenant_id uuid NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), '')::uuid,
  sequence bigint NOT NULL,
  entry_id uuid NOT NULL,
  entry_xact xid8 NOT NULL,
  hash bytea NOT NULL,
  seal_time timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, sequence),
  CONSTRAINT audit_seals_entry_id_key UNIQUE (tenant_id, entry_id)
);

-- Statement triggers, so that what matches no row is refused as well; ALWAYS, so that replication settings do not help.
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_entries
  FOR EACH STATEMENT EXECUTE FUNCTION csm_system.refuse_change();
ALTER TABLE audit_entries ENABLE ALWAYS TRIGGER refuse_change;
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_seals
  FOR EACH STATEMENT EXECUTE FUNCTION csm_system.refuse_change();
ALTER TABLE audit_seals ENABLE ALWAYS TRIGGER refuse_change;

-- After a transaction with a tenant the setting is '' and not NULL: both mean nobody.
ALTER TABLE users ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON users
  USING (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)
  WITH CHECK (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);
ALTER TABLE enrolments ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON enrolments
  USING (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)
  WITH CHECK (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);
ALTER TABLE tokens ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON tokens
  USING (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)
  WITH CHECK (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);
ALTER TABLE certificates ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON certificates
  USING (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)
  WITH CHECK (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);
ALTER TABLE audit_entries ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON audit_entries
  USING (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)
  WITH CHECK (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);
ALTER TABLE audit_seals ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON audit_seals
  USING (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)
  WITH CHECK (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);

GRANT USAGE ON SCHEMA {schema} TO {role}, csm_control, csm_sealer;
GRANT SELECT, INSERT, UPDATE ON users, enrolments, tokens TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON certificates TO {role};
GRANT SELECT ON audit_entries TO {role};
-- All but xact: an entry's place in the chain is not for its writer to choose.
GRANT INSERT (tenant_id, id, create_time, actor, method, resource, outcome, reason, request_id, count, details)
  ON audit_entries TO {role}, csm_control;
GRANT SELECT ON audit_seals TO {role};
GRANT SELECT ON audit_entries TO csm_sealer;
GRANT SELECT, INSERT ON audit_seals TO csm_sealer;
