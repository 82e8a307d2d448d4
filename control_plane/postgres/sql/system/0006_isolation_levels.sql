-- Tenants with a login role of their own, each tenant's part of connections and cache, and tenants that may only read.

ALTER TABLE csm_system.tenants
  DROP CONSTRAINT tenants_state_check,
  ADD CONSTRAINT tenants_state_check CHECK (state IN ('PROVISIONING', 'ACTIVE', 'SUSPENDED', 'READ_ONLY')),
  DROP CONSTRAINT tenants_isolation_check,
  ADD CONSTRAINT tenants_isolation_check CHECK (isolation IN ('POOLED', 'STRICT')),
  ADD COLUMN min_connections integer NOT NULL DEFAULT 2
    CONSTRAINT tenants_min_connections_check CHECK (min_connections BETWEEN 0 AND 16),
  ADD COLUMN max_connections integer NOT NULL DEFAULT 50
    CONSTRAINT tenants_max_connections_check CHECK (max_connections BETWEEN 1 AND 200),
  ADD CONSTRAINT tenants_connections_check CHECK (min_connections <= max_connections),
  ADD COLUMN is_serializable boolean NOT NULL DEFAULT false,
  ADD COLUMN cache_bytes bigint NOT NULL DEFAULT 4194304
    CONSTRAINT tenants_cache_bytes_check CHECK (cache_bytes BETWEEN 65536 AND 1073741824);
-- Who connects as the tenant's own role can become nobody else: there is nothing that it is a member of.
ALTER TABLE csm_system.tenants ALTER COLUMN login_role SET EXPRESSION AS (
  CASE WHEN isolation = 'STRICT' THEN 'csm_t_' || number ELSE 'csm_pool_' || number / 200 END
);
GRANT UPDATE (min_connections, max_connections, is_serializable, cache_bytes) ON csm_system.tenants TO csm_control;
GRANT SELECT (min_connections, max_connections, is_serializable, cache_bytes)
  ON csm_system.tenants TO csm_directory, csm_sealer;
-- So that who makes a schema can see whose role has rights on it.
GRANT SELECT (schema_name, role_name) ON csm_system.tenants TO csm_ddl;

-- What a session takes in memory, for who keeps it: a backend never gives back what it learned about a tenant's tables.
CREATE SCHEMA csm_session;
GRANT USAGE ON SCHEMA csm_session TO csm_login;
CREATE FUNCTION csm_session.memory_bytes() RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'SELECT sum(total_bytes)::bigint FROM pg_backend_memory_contexts';
GRANT EXECUTE ON FUNCTION csm_session.memory_bytes() TO csm_login;
