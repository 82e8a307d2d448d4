-- The tenant's policy of the use of its keys, one row at most, and the consent to uses that need a second person's.
-- See `control_plane/key_policies`. A use that an administrator has approved takes one off `uses_left` in the
-- transaction that says so in the audit log.

CREATE TABLE key_policies (
  tenant_id uuid NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), '')::uuid,
  enforced boolean NOT NULL DEFAULT false,
  rules jsonb NOT NULL DEFAULT jsonb_build_array(),
  locked boolean NOT NULL DEFAULT false,
  revision bigint NOT NULL DEFAULT 0,
  update_time timestamptz,
  proposal jsonb,
  PRIMARY KEY (tenant_id)
);

CREATE TABLE key_use_approvals (
  tenant_id uuid NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), '')::uuid,
  id uuid NOT NULL,
  principal text NOT NULL,
  key_id text NOT NULL,
  operation text NOT NULL,
  reason_code text NOT NULL DEFAULT '',
  reason text NOT NULL DEFAULT '',
  state text NOT NULL
    CONSTRAINT key_use_approvals_state_check CHECK (state IN ('PENDING', 'APPROVED', 'DENIED')),
  uses_left bigint NOT NULL DEFAULT 0 CONSTRAINT key_use_approvals_uses_left_check CHECK (uses_left >= 0),
  create_time timestamptz NOT NULL DEFAULT now(),
  expire_time timestamptz NOT NULL,
  behind text[] NOT NULL,
  decider text NOT NULL DEFAULT '',
  decide_time timestamptz,
  PRIMARY KEY (tenant_id, id),
  CONSTRAINT key_use_approvals_use_key UNIQUE (principal, key_id, operation, reason_code, tenant_id)
);

-- All who stand behind a token: who issued it, who issued theirs, and so on. NULL is unknown, as of those from before.
ALTER TABLE tokens ADD COLUMN issuers text[];

ALTER TABLE key_policies ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON key_policies
  USING (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)
  WITH CHECK (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);
ALTER TABLE key_use_approvals ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON key_use_approvals
  USING (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)
  WITH CHECK (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);

GRANT SELECT, INSERT, UPDATE ON key_policies TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON key_use_approvals TO {role};
