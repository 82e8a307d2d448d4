-- With which algorithms a tenant's certificates are made. Which of them go together is known to whoever writes it.

ALTER TABLE csm_system.tenants
  ADD COLUMN authority_algorithm text NOT NULL DEFAULT 'EC_P256'
    CONSTRAINT tenants_authority_algorithm_check CHECK (authority_algorithm IN (
      'RSA_3072', 'RSA_4096', 'EC_P256', 'EC_P384', 'ED25519', 'ML_DSA_44', 'ML_DSA_65', 'ML_DSA_87'
    )),
  ADD COLUMN key_algorithms text[] NOT NULL DEFAULT '{}'
    CONSTRAINT tenants_key_algorithms_check CHECK (key_algorithms <@ ARRAY[
      'RSA_2048', 'RSA_3072', 'RSA_4096', 'EC_P256', 'EC_P384', 'ED25519', 'ML_DSA_44', 'ML_DSA_65', 'ML_DSA_87'
    ]),
  ADD COLUMN post_quantum text NOT NULL DEFAULT 'OFF'
    CONSTRAINT tenants_post_quantum_check CHECK (post_quantum IN ('OFF', 'HYBRID', 'REQUIRED'));
-- The algorithm of an authority is its key's, and stays.
GRANT UPDATE (key_algorithms, post_quantum) ON csm_system.tenants TO csm_control;
GRANT SELECT (authority_algorithm, key_algorithms, post_quantum) ON csm_system.tenants TO csm_directory;
