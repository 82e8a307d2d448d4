-- Old versions of keys come to an end: an operation may work for hours, in many parts, and says how far it is.

-- What the plan of an operation keeps between its parts, and shows: in its own words.
ALTER TABLE csm_system.operations ADD COLUMN progress jsonb NOT NULL DEFAULT jsonb_build_object();

-- Tenants all of whose KEKs were destroyed, and the proof of it. Kept when the tenant, and its keys, are gone. Begun with
-- the list of what goes with them; signed when none of it opens any more.
CREATE TABLE csm_system.key_shreddings (
  id uuid CONSTRAINT key_shreddings_pkey PRIMARY KEY,
  tenant_uid uuid NOT NULL CONSTRAINT key_shreddings_tenant_uid_key UNIQUE,
  begin_time timestamptz NOT NULL,
  keys jsonb NOT NULL,
  destroy_time timestamptz,
  payload bytea,
  signature bytea,
  key_id uuid CONSTRAINT key_shreddings_key_id_fkey REFERENCES csm_system.platform_keys,
  CONSTRAINT key_shreddings_signed_check CHECK (num_nonnulls(destroy_time, payload, signature, key_id) IN (0, 4))
);
GRANT SELECT, INSERT, UPDATE (destroy_time, payload, signature, key_id) ON csm_system.key_shreddings TO csm_control;

-- Of one KEK, or of all that a tenant had (0).
CREATE VIEW csm_system.destruction_receipts WITH (security_invoker = true) AS
SELECT id, tenant_uid, kek_version, destroy_time, payload, signature, key_id FROM csm_system.key_destructions
UNION ALL
SELECT id, tenant_uid, 0, destroy_time, payload, signature, key_id FROM csm_system.key_shreddings;
GRANT SELECT ON csm_system.destruction_receipts TO csm_control;
