-- Tenants that are deleted, and what is left of those that are purged. See docs/adr/0038-a-tenant-is-deleted-by-its-keys.md.

-- A deleted tenant is a sealed one, to the end of all days: whatever holds for a seal holds for it, in every process,
-- whichever step of its purge is the last that was done.
ALTER TABLE csm_system.tenants
  ADD COLUMN deletion text
    CONSTRAINT tenants_deletion_check CHECK (deletion IN ('PENDING_DELETION', 'PURGING', 'PURGED')),
  ADD COLUMN delete_time timestamptz,
  ADD COLUMN purge_time timestamptz,
  ADD CONSTRAINT tenants_deletion_sealed_check CHECK (deletion IS NULL OR state = 'SEALED'),
  ADD CONSTRAINT tenants_deletion_times_check
    CHECK ((deletion IS NULL) = (delete_time IS NULL) AND (deletion IS NULL) = (purge_time IS NULL));
CREATE INDEX tenants_purge_time_idx ON csm_system.tenants (purge_time) WHERE deletion IN ('PENDING_DELETION', 'PURGING');
GRANT UPDATE (deletion, delete_time, purge_time) ON csm_system.tenants TO csm_control;

-- Nobody comes back from a purge.
CREATE FUNCTION csm_system.keep_deletion() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF OLD.deletion IS NOT NULL AND TG_OP = 'DELETE'
    OR OLD.deletion IN ('PURGING', 'PURGED') AND NEW.deletion IS DISTINCT FROM OLD.deletion
       AND NOT (OLD.deletion = 'PURGING' AND NEW.deletion IS NOT DISTINCT FROM 'PURGED') THEN
    RAISE check_violation USING MESSAGE = 'what is purged does not come back';
  END IF;
  RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END
$$;
CREATE TRIGGER keep_deletion BEFORE UPDATE OF deletion OR DELETE ON csm_system.tenants
  FOR EACH ROW EXECUTE FUNCTION csm_system.keep_deletion();

-- The tables that keep rows of a purged tenant: the proofs of what was destroyed and of what is in its audit log, and the
-- operation that did it. Of every other one that names a tenant by `tenant_uid`, also of those to come, its rows are deleted.
CREATE FUNCTION csm_system.purged_tables() RETURNS SETOF regclass
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT c.oid::regclass
    FROM pg_class AS c
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'tenant_uid' AND NOT a.attisdropped
   WHERE c.relnamespace = 'csm_system'::regnamespace AND c.relkind IN ('r', 'p')
     AND c.relname NOT IN ('attestations', 'audit_keys', 'key_destructions', 'key_shreddings', 'operations')
   ORDER BY c.relname
$$;

CREATE FUNCTION csm_system.purge_rows(tenant uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  name regclass;
BEGIN
  PERFORM FROM csm_system.tenants WHERE uid = tenant AND deletion = 'PURGING' FOR SHARE;
  IF NOT FOUND THEN
    RAISE insufficient_privilege USING MESSAGE = 'only of a tenant that is being purged rows are deleted';
  END IF;
  FOR name IN SELECT csm_system.purged_tables() LOOP
    EXECUTE format('DELETE FROM %s WHERE tenant_uid = $1', name) USING tenant;
  END LOOP;
  DELETE FROM csm_system.operations WHERE tenant_uid = tenant AND kind <> 'tenants.purge';
END
$$;
REVOKE ALL ON FUNCTION csm_system.purge_rows(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION csm_system.purge_rows(uuid) TO csm_control;

-- What is left in the database of a tenant that ought to be gone: tables of the platform's with rows of it, objects in its
-- schema that are not its audit log, and its role. The log is what its sealer reads.
CREATE FUNCTION csm_system.residue(tenant uuid) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  name regclass;
  is_there boolean;
BEGIN
  FOR name IN SELECT csm_system.purged_tables() LOOP
    EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE tenant_uid = $1)', name) INTO is_there USING tenant;
    IF is_there THEN
      RETURN NEXT format('rows of %s', name);
    END IF;
  END LOOP;
  RETURN QUERY
    SELECT format('the table %s', c.oid::regclass)
      FROM csm_system.tenants AS t
      JOIN pg_namespace AS n ON n.nspname = t.schema_name
      JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
     WHERE t.uid = tenant AND NOT has_table_privilege('csm_sealer', c.oid, 'SELECT');
  RETURN QUERY
    SELECT format('the role %I', r.rolname)
      FROM csm_system.tenants AS t JOIN pg_roles AS r ON r.rolname = t.role_name
     WHERE t.uid = tenant;
END
$$;
REVOKE ALL ON FUNCTION csm_system.residue(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION csm_system.residue(uuid) TO csm_control;
