-- Which credential was let through how often, by minute and by class of RPCs (empty: of none that may be leased). The
-- credentials with the most requests stand apart; all others of a tenant are the credential of zeros. Kept for a week:
-- bills are made of edge_usage.
CREATE TABLE csm_system.edge_accesses (
  tenant_uid uuid NOT NULL,
  credential uuid NOT NULL,
  lease_class text NOT NULL,
  minute timestamptz NOT NULL,
  admitted bigint NOT NULL,
  CONSTRAINT edge_accesses_pkey PRIMARY KEY (tenant_uid, minute, credential, lease_class)
);
CREATE INDEX edge_accesses_minute_idx ON csm_system.edge_accesses (minute);
GRANT SELECT, INSERT, UPDATE, DELETE ON csm_system.edge_accesses TO csm_control;
