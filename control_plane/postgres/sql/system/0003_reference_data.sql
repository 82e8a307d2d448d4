-- csm_shared_readonly: what is the same for every tenant, and no tenant can write.

CREATE SCHEMA csm_shared_readonly;
GRANT USAGE ON SCHEMA csm_shared_readonly TO csm_tenant, csm_control, csm_directory;

CREATE TABLE csm_shared_readonly.certificate_profiles (
  name text PRIMARY KEY,
  default_validity interval NOT NULL,
  maximum_validity interval NOT NULL,
  minimum_rsa_bits integer NOT NULL,
  curves text[] NOT NULL,
  ed25519 boolean NOT NULL
);
INSERT INTO csm_shared_readonly.certificate_profiles
  (name, default_validity, maximum_validity, minimum_rsa_bits, curves, ed25519)
VALUES ('private', '90 days', '365 days', 2048, '{secp256r1,secp384r1}', true);
GRANT SELECT ON csm_shared_readonly.certificate_profiles TO csm_tenant, csm_control, csm_directory;
