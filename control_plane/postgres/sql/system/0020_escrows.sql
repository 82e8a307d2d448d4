-- Escrow of tenants' keys: copies that only the recipients whom a tenant has named can open, enough of them together. A
-- tenant without an escrow has no row in any of these tables. See docs/adr/0035-keys-are-escrowed-as-copies.md.

CREATE TABLE csm_system.tenant_escrows (
  tenant_uid uuid CONSTRAINT tenant_escrows_pkey PRIMARY KEY,
  -- Never used twice: what is sealed for one escrow is of no use to another.
  id uuid NOT NULL CONSTRAINT tenant_escrows_id_key UNIQUE,
  -- What copies are sealed to. The private half was split into shares and forgotten.
  public bytea NOT NULL,
  threshold integer NOT NULL,
  -- Whether the platform's administrator may begin a recovery.
  platform_may_begin boolean NOT NULL,
  -- By these it is seen that all this, the recipients and each copy are as we made them: see keys/escrow.py.
  terms_digest bytea NOT NULL,
  check_key_id uuid NOT NULL,
  root_check bytea NOT NULL,
  voucher bytea NOT NULL,
  create_time timestamptz NOT NULL,
  CONSTRAINT tenant_escrows_threshold_check CHECK (threshold BETWEEN 2 AND 16)
);

CREATE TABLE csm_system.escrow_shares (
  escrow_id uuid NOT NULL
    CONSTRAINT escrow_shares_escrow_id_fkey REFERENCES csm_system.tenant_escrows (id) ON DELETE CASCADE,
  recipient text NOT NULL,
  position integer NOT NULL,
  -- The recipient's, to which the share is sealed.
  public bytea NOT NULL,
  sealed bytea NOT NULL,
  digest bytea NOT NULL,
  CONSTRAINT escrow_shares_pkey PRIMARY KEY (escrow_id, recipient)
);

CREATE TABLE csm_system.escrow_copies (
  key_id uuid CONSTRAINT escrow_copies_pkey PRIMARY KEY
    CONSTRAINT escrow_copies_key_id_fkey REFERENCES csm_system.tenant_keys (id) ON DELETE CASCADE,
  tenant_uid uuid NOT NULL,
  escrow_id uuid NOT NULL
    CONSTRAINT escrow_copies_escrow_id_fkey REFERENCES csm_system.tenant_escrows (id) ON DELETE CASCADE,
  sealed bytea NOT NULL,
  check_value bytea NOT NULL
);
CREATE INDEX escrow_copies_tenant_uid_idx ON csm_system.escrow_copies (tenant_uid);

-- What one administrator of a tenant has proposed, and another has not confirmed yet.
CREATE TABLE csm_system.escrow_proposals (
  tenant_uid uuid CONSTRAINT escrow_proposals_pkey PRIMARY KEY,
  id uuid NOT NULL,
  recipients jsonb NOT NULL,
  threshold integer NOT NULL,
  platform_may_begin boolean NOT NULL,
  proposer text NOT NULL,
  create_time timestamptz NOT NULL,
  expire_time timestamptz NOT NULL
);

CREATE TABLE csm_system.key_recoveries (
  id uuid CONSTRAINT key_recoveries_pkey PRIMARY KEY,
  tenant_uid uuid NOT NULL,
  escrow_id uuid NOT NULL,
  -- The version of the KEK that the keys will be under; it wraps the session's private half until then.
  kek_version integer NOT NULL,
  state text NOT NULL CONSTRAINT key_recoveries_state_check
    CHECK (state IN ('OPEN', 'RECOVERING', 'SUCCEEDED', 'FAILED', 'CANCELLED', 'EXPIRED')),
  session bytea,
  beginner text NOT NULL,
  reason text NOT NULL,
  afterwards text NOT NULL CONSTRAINT key_recoveries_afterwards_check CHECK (afterwards IN ('REKEY', 'DISABLE')),
  operation_id uuid,
  create_time timestamptz NOT NULL,
  expire_time timestamptz NOT NULL,
  end_time timestamptz,
  -- When it has ended, nothing is left that opens what recipients gave.
  CONSTRAINT key_recoveries_session_check CHECK ((state IN ('OPEN', 'RECOVERING')) = (session IS NOT NULL))
);
CREATE UNIQUE INDEX key_recoveries_tenant_uid_key ON csm_system.key_recoveries (tenant_uid) WHERE session IS NOT NULL;

-- Shares that recipients gave, sealed to the session. Gone when it has ended.
CREATE TABLE csm_system.recovery_approvals (
  recovery_id uuid NOT NULL
    CONSTRAINT recovery_approvals_recovery_id_fkey REFERENCES csm_system.key_recoveries ON DELETE CASCADE,
  recipient text NOT NULL,
  sealed bytea NOT NULL,
  create_time timestamptz NOT NULL,
  CONSTRAINT recovery_approvals_pkey PRIMARY KEY (recovery_id, recipient)
);

GRANT SELECT, INSERT, DELETE ON csm_system.tenant_escrows, csm_system.escrow_shares, csm_system.escrow_copies,
  csm_system.escrow_proposals, csm_system.recovery_approvals TO csm_control;
GRANT SELECT, INSERT, DELETE, UPDATE (state, session, operation_id, end_time) ON csm_system.key_recoveries TO csm_control;

-- While a tenant's keys are in escrow, each is: whoever stores one without its copy, or takes a copy away, is refused when
-- the transaction ends.
CREATE FUNCTION csm_system.check_escrowed() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  uid uuid := CASE TG_OP WHEN 'DELETE' THEN OLD.tenant_uid ELSE NEW.tenant_uid END;
BEGIN
  IF EXISTS (
    SELECT FROM csm_system.tenant_escrows AS e
      JOIN csm_system.tenant_keys AS k ON k.tenant_uid = e.tenant_uid
     WHERE e.tenant_uid = uid AND NOT EXISTS (
           SELECT FROM csm_system.escrow_copies AS c WHERE c.key_id = k.id AND c.escrow_id = e.id)
  ) THEN
    RAISE integrity_constraint_violation
      USING MESSAGE = 'a key of a tenant in escrow has no copy there', CONSTRAINT = 'tenant_keys_escrowed';
  END IF;
  RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION csm_system.check_escrowed() FROM PUBLIC;
CREATE CONSTRAINT TRIGGER tenant_keys_escrowed AFTER INSERT ON csm_system.tenant_keys
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION csm_system.check_escrowed();
CREATE CONSTRAINT TRIGGER tenant_keys_escrowed AFTER INSERT ON csm_system.tenant_escrows
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION csm_system.check_escrowed();
CREATE CONSTRAINT TRIGGER tenant_keys_escrowed AFTER DELETE ON csm_system.escrow_copies
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION csm_system.check_escrowed();
