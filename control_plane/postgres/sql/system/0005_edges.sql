-- How far the edges are, and what they have counted. The control plane alone writes here, in the edges' names.

-- One row an edge, written once a second and after each change: room on the page, so that no index grows.
CREATE TABLE csm_system.edges (
  name text CONSTRAINT edges_pkey PRIMARY KEY,
  -- The history that the revision belongs to.
  feed text NOT NULL,
  revision bigint NOT NULL,
  last_seen timestamptz NOT NULL,
  -- How its proxies are, as a serialized bulkhead.v1.Edge: nothing here looks inside.
  proxies bytea NOT NULL
) WITH (fillfactor = 50);
GRANT SELECT, INSERT, UPDATE, DELETE ON csm_system.edges TO csm_control;

-- The last report of each reporter that was counted: what comes again up to there is not counted again.
CREATE TABLE csm_system.edge_reports (
  reporter uuid CONSTRAINT edge_reports_pkey PRIMARY KEY,
  sequence bigint NOT NULL,
  last_time timestamptz NOT NULL
) WITH (fillfactor = 50);
GRANT SELECT, INSERT, UPDATE, DELETE ON csm_system.edge_reports TO csm_control;

-- What each tenant has used, by minute.
CREATE TABLE csm_system.edge_usage (
  tenant_uid uuid NOT NULL,
  method text NOT NULL,
  minute timestamptz NOT NULL,
  -- Requests that were let through, those that were refused for the tenant's own rate, and the cost of the former.
  admitted bigint NOT NULL,
  limited bigint NOT NULL,
  cost bigint NOT NULL,
  CONSTRAINT edge_usage_pkey PRIMARY KEY (tenant_uid, method, minute)
);
GRANT SELECT, INSERT, UPDATE ON csm_system.edge_usage TO csm_control;
