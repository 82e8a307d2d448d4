-- The public halves of the keys that sign tenants' audit logs, each as it was published: what is said of it, and who
-- vouches for that. Kept when the tenant, and its keys, are gone, since what they signed is to be verified for ever; so
-- nobody changes or deletes a row.
CREATE TABLE csm_system.audit_keys (
  tenant_uid uuid NOT NULL,
  version integer NOT NULL,
  payload bytea NOT NULL,
  -- By the platform's key, by the key itself, and by the version before it; of the first there is none.
  platform_key_id uuid NOT NULL CONSTRAINT audit_keys_platform_key_id_fkey REFERENCES csm_system.platform_keys,
  platform_signature bytea NOT NULL,
  own_key_id uuid NOT NULL,
  own_signature bytea NOT NULL,
  previous_key_id uuid,
  previous_signature bytea,
  CONSTRAINT audit_keys_previous_check CHECK (num_nonnulls(previous_key_id, previous_signature) IN (0, 2)),
  CONSTRAINT audit_keys_pkey PRIMARY KEY (tenant_uid, version)
);
GRANT SELECT, INSERT ON csm_system.audit_keys TO csm_control;
-- The certificate service signs, too, and publishes nothing.
GRANT SELECT ON csm_system.audit_keys TO csm_directory;
