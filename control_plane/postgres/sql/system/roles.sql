-- Who there is. Applied as superuser at every start, since roles belong to the cluster and its databases' rights are
-- not part of a database's own content: each statement may run again.
--
--   csm_owner       owns the tenants' schemas; nobody logs in as it
--   csm_ddl         makes and drops tenants' schemas and roles, and becomes csm_owner for that
--   csm_control     the control plane: the registry; of a tenant's schema only INSERT into its audit log
--   csm_directory   the certificate service: finds tenants and their keys
--   csm_sealer      reads the tenants' audit logs and seals them
--   csm_publisher   owns the functions that publish to the edge in others' names; nobody logs in as it
--   csm_t_<n>       one a tenant: rights on its schema only; nobody logs in as it
--   csm_pool_<k>    log in, have no rights, and may become the csm_t of up to 200 tenants
--   csm_platform, csm_login, csm_tenant     groups, so that a new role is one membership and not many grants

DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY[
    'csm_platform', 'csm_login', 'csm_tenant', 'csm_owner', 'csm_ddl', 'csm_control', 'csm_directory', 'csm_sealer',
    'csm_publisher'
  ] LOOP
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = name) THEN
      EXECUTE format('CREATE ROLE %I', name);
    END IF;
    EXECUTE format('ALTER ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION', name);
  END LOOP;
END
$$;

ALTER ROLE csm_ddl LOGIN CREATEROLE;
ALTER ROLE csm_control LOGIN;
ALTER ROLE csm_directory LOGIN;
ALTER ROLE csm_sealer LOGIN;

GRANT csm_platform TO csm_owner, csm_ddl, csm_control, csm_directory, csm_sealer WITH INHERIT TRUE, SET FALSE;
GRANT csm_owner TO csm_ddl WITH INHERIT FALSE, SET TRUE;
GRANT csm_login, csm_tenant TO csm_ddl WITH ADMIN TRUE, INHERIT FALSE, SET FALSE;

-- A transaction that hangs must not hold its locks, or its connection, for ever.
ALTER ROLE csm_control SET statement_timeout = '10s';
ALTER ROLE csm_control SET lock_timeout = '5s';
ALTER ROLE csm_control SET idle_in_transaction_session_timeout = '30s';
ALTER ROLE csm_control SET search_path = pg_catalog, csm_system, csm_jobs, pg_temp;
ALTER ROLE csm_directory SET statement_timeout = '5s';
ALTER ROLE csm_directory SET lock_timeout = '2s';
ALTER ROLE csm_directory SET idle_in_transaction_session_timeout = '30s';
ALTER ROLE csm_directory SET search_path = pg_catalog, csm_system, pg_temp;
ALTER ROLE csm_sealer SET statement_timeout = '30s';
ALTER ROLE csm_sealer SET lock_timeout = '5s';
ALTER ROLE csm_sealer SET idle_in_transaction_session_timeout = '30s';
ALTER ROLE csm_sealer SET search_path = pg_catalog, csm_system, pg_temp;
-- Dropping a schema waits for whoever uses it; better to give up and come again than to let all others queue behind.
ALTER ROLE csm_ddl SET statement_timeout = '60s';
ALTER ROLE csm_ddl SET lock_timeout = '3s';
ALTER ROLE csm_ddl SET idle_in_transaction_session_timeout = '60s';
ALTER ROLE csm_ddl SET search_path = pg_catalog, csm_system, pg_temp;

DO $$
BEGIN
  EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
  EXECUTE format('GRANT CONNECT ON DATABASE %I TO csm_login, csm_platform', current_database());
  EXECUTE format('GRANT CREATE ON DATABASE %I TO csm_owner', current_database());
END
$$;
-- Nor may a tenant's login role look around in the databases that every cluster has.
REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC;
