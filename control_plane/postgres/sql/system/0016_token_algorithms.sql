-- What the next key for a tenant's tokens signs with.

ALTER TABLE csm_system.tenants
  ADD COLUMN token_algorithm text NOT NULL DEFAULT 'EDDSA'
    CONSTRAINT tenants_token_algorithm_check CHECK (token_algorithm IN ('EDDSA', 'ES256', 'ML_DSA_65'));
GRANT UPDATE (token_algorithm) ON csm_system.tenants TO csm_control;
GRANT SELECT (token_algorithm) ON csm_system.tenants TO csm_directory;
