-- Which version of the tenant's authority has signed a certificate: until now there was one.

ALTER TABLE certificates ADD COLUMN authority_version integer NOT NULL DEFAULT 1;
