-- Sealed tenants: nothing of theirs is opened, whoever asks. See docs/adr/0030-a-seal-is-a-state-and-a-fence.md.

ALTER TABLE csm_system.tenants
  DROP CONSTRAINT tenants_state_check,
  ADD CONSTRAINT tenants_state_check
    CHECK (state IN ('PROVISIONING', 'ACTIVE', 'SUSPENDED', 'READ_ONLY', 'SEALED'));
-- Each transaction of a tenant looks here for its own number, and each process twice a second for whose keys it has.
CREATE INDEX tenants_sealed_idx ON csm_system.tenants (number, uid) WHERE state = 'SEALED';

CREATE FUNCTION csm_session.refuse_sealed() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RAISE SQLSTATE 'BH002' USING MESSAGE = 'the tenant is sealed';
END
$$;

-- How each transaction of a tenant begins, before it takes on the tenant's role: one that sees the tenant sealed goes no
-- further. The lock keeps nobody out. It says whose transaction this is to who seals, and nobody gives it back early.
-- Who asks for a tenant that it does not log in for learns nothing. One expression, parsed beforehand: sessions forget
-- their plans after each transaction.
CREATE FUNCTION csm_session.admit(tenant integer) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT CASE
    WHEN pg_try_advisory_xact_lock_shared(1936024940, tenant)  -- "seal" as a number
      AND EXISTS (
        SELECT FROM csm_system.tenants
        WHERE tenants.number = tenant AND tenants.state = 'SEALED' AND tenants.login_role = session_user
      )
    THEN csm_session.refuse_sealed()
  END;
END;
GRANT EXECUTE ON FUNCTION csm_session.admit(integer) TO csm_login;

-- Ends the transactions of a sealed tenant that began before `begun`, and says how many there were: they may have seen
-- it as it was. One that has its snapshot but not yet its lock is known by what it is just doing.
CREATE FUNCTION csm_system.end_transactions(tenant bigint, begun timestamptz) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT count(pg_terminate_backend(a.pid))
    FROM pg_stat_activity AS a
    JOIN csm_system.tenants AS t ON t.number = tenant AND t.state = 'SEALED'
   WHERE a.datname = current_database() AND a.xact_start <= begun AND a.pid <> pg_backend_pid()
     AND ((a.state = 'active' AND a.query = format('SELECT csm_session.admit(%s)', tenant))
          OR a.pid IN (
               SELECT l.pid FROM pg_locks AS l
                WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
                  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                  AND l.classid = 1936024940 AND l.objid = tenant::oid))
$$;
GRANT EXECUTE ON FUNCTION csm_system.end_transactions(bigint, timestamptz) TO csm_control;
