-- Keys have versions of which one is used for what is new; KEKs are known by name; and a key is rotated by one at a time.

-- Since when a version is used for what is new; NULL while it is published only, to verify what it will sign.
ALTER TABLE csm_system.tenant_keys ADD COLUMN use_time timestamptz DEFAULT now();

-- The tenants' KEKs. They themselves are in the vault and nowhere else; of a destroyed one this is what is left.
CREATE TABLE csm_system.tenant_keks (
  tenant_uid uuid NOT NULL,
  version integer NOT NULL,
  create_time timestamptz NOT NULL DEFAULT now(),
  -- Since when no key may be put under it any more; then what is there is wrapped anew, and it is destroyed.
  close_time timestamptz,
  destroy_time timestamptz,
  CONSTRAINT tenant_keks_destroyed_check CHECK (destroy_time IS NULL OR close_time IS NOT NULL),
  CONSTRAINT tenant_keks_pkey PRIMARY KEY (tenant_uid, version)
);
GRANT SELECT, INSERT, UPDATE, DELETE ON csm_system.tenant_keks TO csm_control;
INSERT INTO csm_system.tenant_keks (tenant_uid, version, create_time)
SELECT tenant_uid, kek_version, min(create_time) FROM csm_system.tenant_keys GROUP BY tenant_uid, kek_version;

-- A KEK and what it wraps must not both change at once: one rotation of a tenant at a time, whichever key it is of.
CREATE TABLE csm_system.key_rotations (
  operation_id uuid CONSTRAINT key_rotations_pkey PRIMARY KEY
    CONSTRAINT key_rotations_operation_id_fkey REFERENCES csm_system.operations ON DELETE CASCADE,
  tenant_uid uuid NOT NULL,
  key text NOT NULL CONSTRAINT key_rotations_key_check CHECK (key IN ('kek', 'storage', 'tokens', 'services')),
  -- The version that it makes.
  version integer NOT NULL,
  end_time timestamptz
);
CREATE UNIQUE INDEX key_rotations_tenant_uid_key ON csm_system.key_rotations (tenant_uid) WHERE end_time IS NULL;
GRANT SELECT, INSERT, UPDATE ON csm_system.key_rotations TO csm_control;

-- KEKs that were destroyed, and the proof of it, signed with a key of the platform's own.

-- Begun before a KEK is destroyed, with something that it wrapped; signed when that does not open any more. Nothing of it
-- is ever changed but for that.
CREATE TABLE csm_system.key_destructions (
  id uuid CONSTRAINT key_destructions_pkey PRIMARY KEY,
  tenant_uid uuid NOT NULL,
  kek_version integer NOT NULL,
  begin_time timestamptz NOT NULL,
  sample bytea NOT NULL,
  destroy_time timestamptz,
  payload bytea,
  signature bytea,
  key_id uuid CONSTRAINT key_destructions_key_id_fkey REFERENCES csm_system.platform_keys,
  CONSTRAINT key_destructions_kek_version_key UNIQUE (tenant_uid, kek_version),
  CONSTRAINT key_destructions_signed_check CHECK (num_nonnulls(destroy_time, payload, signature, key_id) IN (0, 4))
);
GRANT SELECT, INSERT, UPDATE (destroy_time, payload, signature, key_id) ON csm_system.key_destructions TO csm_control;
