-- Keys that tenants make themselves, beside those that each has for a purpose. They lie where all lie, so that whatever is
-- done to a tenant's keys (a new KEK, a seal, a destruction) is done to them.

ALTER TABLE csm_system.tenant_keys
  -- What the key is called within its tenant. What every tenant has is called as its purpose.
  ADD COLUMN key_id text;
UPDATE csm_system.tenant_keys SET key_id = purpose;
ALTER TABLE csm_system.tenant_keys
  ALTER COLUMN key_id SET NOT NULL,
  DROP CONSTRAINT tenant_keys_version_key,
  ADD CONSTRAINT tenant_keys_version_key UNIQUE (tenant_uid, key_id, version);

-- What is known of such a key, whichever version. Of one that is destroyed the row stays: its id is not given again.
CREATE TABLE csm_system.named_keys (
  tenant_uid uuid NOT NULL,
  key_id text NOT NULL CONSTRAINT named_keys_key_id_check CHECK (key_id ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
  purpose text NOT NULL CONSTRAINT named_keys_purpose_check CHECK (purpose IN ('encryption', 'signing')),
  algorithm text NOT NULL,
  origin text NOT NULL CONSTRAINT named_keys_origin_check CHECK (origin IN ('GENERATED', 'IMPORTED')),
  state text NOT NULL
    CONSTRAINT named_keys_state_check CHECK (state IN ('ENABLED', 'DESTROY_SCHEDULED', 'DESTROYED')),
  create_time timestamptz NOT NULL,
  -- When it will be destroyed, or was.
  destroy_time timestamptz
    CONSTRAINT named_keys_destroy_time_check CHECK ((destroy_time IS NULL) = (state = 'ENABLED')),
  -- Who has asked for it, so that the same request gets the same key.
  actor text NOT NULL,
  request_id uuid,
  request_hash bytea NOT NULL,
  CONSTRAINT named_keys_pkey PRIMARY KEY (tenant_uid, key_id),
  CONSTRAINT named_keys_request_key UNIQUE (tenant_uid, actor, request_id)
);
CREATE INDEX named_keys_due_idx ON csm_system.named_keys (destroy_time) WHERE state = 'DESTROY_SCHEDULED';
GRANT SELECT, INSERT, DELETE, UPDATE (state, destroy_time) ON csm_system.named_keys TO csm_control;

-- The versions of keys that are destroyed: what the receipt of the KEK that they were wrapped under lists, and, until that
-- KEK is destroyed, that it has to be.
CREATE TABLE csm_system.destroyed_key_versions (
  tenant_uid uuid NOT NULL,
  key_id text NOT NULL,
  version integer NOT NULL,
  algorithm text NOT NULL,
  kek_version integer NOT NULL,
  create_time timestamptz NOT NULL,
  destroy_time timestamptz NOT NULL,
  CONSTRAINT destroyed_key_versions_pkey PRIMARY KEY (tenant_uid, key_id, version)
);
CREATE INDEX destroyed_key_versions_kek_idx ON csm_system.destroyed_key_versions (tenant_uid, kek_version);
GRANT SELECT, INSERT, DELETE ON csm_system.destroyed_key_versions TO csm_control;

-- What a key may be brought along under. The private half is in tenant_keys, wrapped like all, until it was used or is late.
CREATE TABLE csm_system.key_imports (
  id uuid CONSTRAINT key_imports_pkey PRIMARY KEY,
  tenant_uid uuid NOT NULL,
  key_id text NOT NULL,
  purpose text NOT NULL,
  algorithm text NOT NULL,
  method text NOT NULL,
  create_time timestamptz NOT NULL,
  expire_time timestamptz NOT NULL,
  -- Of what came in, as it came; nothing while nothing has.
  wrapped_sha256 bytea
);
CREATE INDEX key_imports_tenant_uid_idx ON csm_system.key_imports (tenant_uid);
CREATE INDEX key_imports_expire_time_idx ON csm_system.key_imports (expire_time);
GRANT SELECT, INSERT, DELETE, UPDATE (wrapped_sha256) ON csm_system.key_imports TO csm_control;

-- Tenants' own keys are rotated like the others.
ALTER TABLE csm_system.key_rotations
  DROP CONSTRAINT key_rotations_key_check,
  ADD CONSTRAINT key_rotations_key_check CHECK (key ~ '^[a-z0-9][a-z0-9_-]{0,62}$');
