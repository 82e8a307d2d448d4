-- How many of a tenant's transactions that began before `begun` have not ended: what they have read of its key policy may
-- have been replaced since. A transaction of the tenant's is known by the lock that `csm_session.admit` has taken, and
-- one that has not taken it yet by what it is just doing. See `control_plane/key_policies`.
CREATE FUNCTION csm_system.open_transactions(tenant bigint, begun timestamptz) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT count(*)
    FROM pg_stat_activity AS a
   WHERE a.datname = current_database() AND a.xact_start <= begun AND a.pid <> pg_backend_pid()
     AND ((a.state = 'active' AND a.query = format('SELECT csm_session.admit(%s)', tenant))
          OR a.pid IN (
               SELECT l.pid FROM pg_locks AS l
                WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
                  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                  AND l.classid = 1936024940 AND l.objid = tenant::oid))
$$;
GRANT EXECUTE ON FUNCTION csm_system.open_transactions(bigint, timestamptz) TO csm_control;
