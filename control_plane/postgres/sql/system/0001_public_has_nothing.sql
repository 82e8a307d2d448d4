-- Take from PUBLIC what PostgreSQL gives to everybody. Whatever SQL is smuggled into a tenant's statement then finds
-- nothing to call: no set_config to choose another role, no large objects or notifications to pass data through, no
-- locks to block others with, no query_to_xml to run text as SQL.

REVOKE ALL ON SCHEMA public FROM PUBLIC;
REVOKE USAGE ON LANGUAGE plpgsql, sql FROM PUBLIC;
GRANT USAGE ON LANGUAGE plpgsql, sql TO csm_platform;

-- Functions with effects. What PUBLIC keeps only tells the time or makes random values.
DO $$
DECLARE
  routine record;
BEGIN
  FOR routine IN
    SELECT p.oid::regprocedure AS signature, p.proname
    FROM pg_catalog.pg_proc AS p
    WHERE p.pronamespace = 'pg_catalog'::regnamespace
      AND p.provolatile = 'v'
      AND p.proname <> ALL (ARRAY['clock_timestamp', 'gen_random_uuid', 'random', 'uuidv4', 'uuidv7'])
      AND EXISTS (
        SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS granted WHERE granted.grantee = 0
      )
  LOOP
    EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', routine.signature);
    -- The job queue notifies and numbers; the platform's own DDL takes its turns by advisory locks.
    IF routine.proname IN ('pg_notify', 'nextval', 'currval', 'lastval') OR routine.proname LIKE 'pg\_%advisory\_%' THEN
      EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO csm_platform', routine.signature);
    END IF;
  END LOOP;
END
$$;

-- The catalogues tell the names and sizes of other tenants' tables, and pg_settings can be written to.
DO $$
DECLARE
  relation regclass;
BEGIN
  FOR relation IN
    SELECT c.oid::regclass
    FROM pg_catalog.pg_class AS c
    WHERE c.relnamespace IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
      AND (
        EXISTS (SELECT FROM aclexplode(c.relacl) AS granted WHERE granted.grantee = 0)
        OR EXISTS (
          SELECT FROM pg_catalog.pg_attribute AS a, aclexplode(a.attacl) AS granted
          WHERE a.attrelid = c.oid AND granted.grantee = 0
        )
      )
  LOOP
    EXECUTE format('REVOKE ALL ON %s FROM PUBLIC', relation);
    EXECUTE format('GRANT SELECT ON %s TO csm_platform', relation);
  END LOOP;
END
$$;
REVOKE ALL ON SCHEMA information_schema FROM PUBLIC;

-- What will be made later starts with nothing, too.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON ROUTINES FROM PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE USAGE ON TYPES FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE csm_owner, csm_control REVOKE EXECUTE ON ROUTINES FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE csm_owner, csm_control REVOKE USAGE ON TYPES FROM PUBLIC;
