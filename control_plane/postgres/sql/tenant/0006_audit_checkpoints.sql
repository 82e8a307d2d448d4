-- How far the audit log was signed, and what its head was: see control_plane/proofs/audit_log.py. Kept as they were signed.
CREATE TABLE audit_checkpoints (
  tenant_id uuid NOT NULL DEFAULT nullif(current_setting('app.tenant_id', true), '')::uuid,
  sequence bigint NOT NULL,
  payload bytea NOT NULL,
  signature bytea NOT NULL,
  PRIMARY KEY (tenant_id, sequence)
);
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_checkpoints
  FOR EACH STATEMENT EXECUTE FUNCTION csm_system.refuse_change();
ALTER TABLE audit_checkpoints ENABLE ALWAYS TRIGGER refuse_change;

ALTER TABLE audit_checkpoints ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON audit_checkpoints
  USING (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)
  WITH CHECK (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);

GRANT SELECT ON audit_checkpoints TO {role};
GRANT SELECT, INSERT ON audit_checkpoints TO csm_sealer;
