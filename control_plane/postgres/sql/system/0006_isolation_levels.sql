-- Tenants with a login role of their own, each tenant's share of the connections, and tenants that may only read.

ALTER TABLE csm_system.tenants
  DROP CONSTRAINT tenants_state_check,
  ADD CONSTRAINT tenants_state_check CHECK (state IN ('PROVISIONING', 'ACTIVE', 'SUSPENDED', 'READ_ONLY')),
  DROP CONSTRAINT tenants_isolation_check,
  ADD CONSTRAINT tenants_isolation_check CHECK (isolation IN ('POOLED', 'STRICT')),
  ADD COLUMN min_connections integer NOT NULL DEFAULT 2
    CONSTRAINT tenants_min_connections_check CHECK (min_connections BETWEEN 0 AND 16),
  ADD COLUMN max_connections integer NOT NULL DEFAULT 50
    CONSTRAINT tenants_max_connections_check CHECK (max_connections BETWEEN 1 AND 200),
  ADD CONSTRAINT tenants_connections_check CHECK (min_connections <= max_connections);
-- Who connects as the tenant's own role can become nobody else: there is nothing that it is a member of.
ALTER TABLE csm_system.tenants ALTER COLUMN login_role SET EXPRESSION AS (
  CASE WHEN isolation = 'STRICT' THEN 'csm_t_' || number ELSE 'csm_pool_' || number / 200 END
);
GRANT UPDATE (min_connections, max_connections) ON csm_system.tenants TO csm_control;
GRANT SELECT (min_connections, max_connections) ON csm_system.tenants TO csm_directory, csm_sealer;
