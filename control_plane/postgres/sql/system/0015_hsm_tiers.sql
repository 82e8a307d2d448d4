-- Where in the vault a tenant's KEKs are: among others', or in a token that has nobody else's.

ALTER TABLE csm_system.tenants
  ADD COLUMN hsm_tier text NOT NULL DEFAULT 'SHARED'
    CONSTRAINT tenants_hsm_tier_check CHECK (hsm_tier IN ('SHARED', 'DEDICATED'));
