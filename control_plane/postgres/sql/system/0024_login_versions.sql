-- Of which version of the tenant's key the password of its own database role is derived; NULL where it has none. Written in
-- one transaction with the password, by whoever changes that.

ALTER TABLE csm_system.tenant_schemas ADD COLUMN login_version integer;
UPDATE csm_system.tenant_schemas SET login_version = 1
 WHERE tenant_uid IN (SELECT uid FROM csm_system.tenants WHERE isolation = 'STRICT');
GRANT SELECT (login_version) ON csm_system.tenant_schemas TO csm_directory;
