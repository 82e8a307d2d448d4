-- What has an effect at the edge, by revision. Each row carries the revision of its last change, and whoever follows
-- reads the rows whose revision is greater than its own. Triggers number the changes, so no code can forget to.

CREATE SEQUENCE csm_system.edge_revisions;
GRANT USAGE ON SEQUENCE csm_system.edge_revisions TO csm_control, csm_publisher;

-- From the first call on no other transaction gets a number until this one has ended, and PostgreSQL shows what was
-- committed before it lets go of the lock. Whoever sees a revision sees all smaller ones, too, or they are gone.
CREATE FUNCTION csm_system.next_edge_revision() RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  revision bigint;
BEGIN
  PERFORM pg_advisory_xact_lock(1701078885, 1);  -- "edge" as a number; two of them share no space with one
  revision := nextval('csm_system.edge_revisions');
  PERFORM pg_notify('bulkhead_revision', revision::text);  -- heard once the transaction is committed
  RETURN revision;
END
$$;
GRANT EXECUTE ON FUNCTION csm_system.next_edge_revision() TO csm_control, csm_publisher;
GRANT EXECUTE ON FUNCTION
  pg_catalog.pg_advisory_xact_lock(integer, integer), pg_catalog.nextval(regclass), pg_catalog.pg_notify(text, text)
  TO csm_publisher;
GRANT USAGE ON SCHEMA csm_system TO csm_publisher;

-- Names the history that the revisions belong to. Whoever puts the database back to an earlier time gives it another.
CREATE TABLE csm_system.edge_feed (
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  one boolean CONSTRAINT edge_feed_pkey PRIMARY KEY DEFAULT true CONSTRAINT edge_feed_one_check CHECK (one)
);
INSERT INTO csm_system.edge_feed DEFAULT VALUES;
GRANT SELECT ON csm_system.edge_feed TO csm_control;

ALTER TABLE csm_system.tenants
  -- 0 while the edge knows nothing of the tenant.
  ADD COLUMN edge_revision bigint NOT NULL DEFAULT 0,
  -- 0 is what its tier has.
  ADD COLUMN requests_per_minute integer NOT NULL DEFAULT 0
    CONSTRAINT tenants_requests_per_minute_check CHECK (requests_per_minute BETWEEN 0 AND 1000000),
  ADD COLUMN domains text[] NOT NULL DEFAULT '{}'
    CONSTRAINT tenants_domains_check CHECK (cardinality(domains) <= 16 AND array_position(domains, NULL) IS NULL),
  ADD COLUMN max_policy_age interval NOT NULL DEFAULT '15 minutes'
    CONSTRAINT tenants_max_policy_age_check CHECK (max_policy_age BETWEEN '1 second' AND '24 hours');
CREATE INDEX tenants_edge_revision_idx ON csm_system.tenants (edge_revision);
GRANT UPDATE (requests_per_minute, domains, max_policy_age) ON csm_system.tenants TO csm_control;
-- What is written there asks for a revision: the trigger puts the next one in its place.
GRANT UPDATE (edge_revision) ON csm_system.tenants TO csm_control;

CREATE FUNCTION csm_system.number_tenant() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NEW.state = 'PROVISIONING' THEN
    IF TG_OP = 'UPDATE' AND OLD.state <> 'PROVISIONING' THEN
      RAISE check_violation USING MESSAGE = 'a tenant that the edge knows is never provisioned again';
    END IF;
    NEW.edge_revision := 0;
  ELSIF TG_OP = 'INSERT' THEN
    NEW.edge_revision := csm_system.next_edge_revision();
  ELSIF (
    NEW.state, NEW.tier, NEW.isolation, NEW.dns_label, NEW.requests_per_minute, NEW.domains, NEW.max_policy_age,
    NEW.edge_revision
  ) IS DISTINCT FROM (
    OLD.state, OLD.tier, OLD.isolation, OLD.dns_label, OLD.requests_per_minute, OLD.domains, OLD.max_policy_age,
    OLD.edge_revision
  ) THEN
    NEW.edge_revision := csm_system.next_edge_revision();
  END IF;
  RETURN NEW;
END
$$;
CREATE TRIGGER number_tenant BEFORE INSERT OR UPDATE ON csm_system.tenants
  FOR EACH ROW EXECUTE FUNCTION csm_system.number_tenant();

-- A tenant's own host names, kept from tenants.domains, so that each belongs to one tenant.
CREATE TABLE csm_system.tenant_domains (
  domain text CONSTRAINT tenant_domains_pkey PRIMARY KEY,
  tenant_uid uuid NOT NULL
    CONSTRAINT tenant_domains_tenant_uid_fkey REFERENCES csm_system.tenants (uid) ON DELETE CASCADE
);
CREATE INDEX tenant_domains_tenant_uid_idx ON csm_system.tenant_domains (tenant_uid);
GRANT SELECT ON csm_system.tenant_domains TO csm_control;
GRANT SELECT, INSERT, DELETE ON csm_system.tenant_domains TO csm_publisher;

CREATE FUNCTION csm_system.keep_domains() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  DELETE FROM csm_system.tenant_domains WHERE tenant_uid = NEW.uid AND domain <> ALL (NEW.domains);
  -- In one order for all, so that two transactions wait for each other in turn.
  INSERT INTO csm_system.tenant_domains (domain, tenant_uid)
  SELECT domain, NEW.uid FROM unnest(NEW.domains) AS domain
  EXCEPT SELECT domain, tenant_uid FROM csm_system.tenant_domains WHERE tenant_uid = NEW.uid
  ORDER BY 1;
  RETURN NULL;
END
$$;
ALTER FUNCTION csm_system.keep_domains() OWNER TO csm_publisher;
CREATE TRIGGER keep_domains AFTER INSERT OR UPDATE OF domains ON csm_system.tenants
  FOR EACH ROW EXECUTE FUNCTION csm_system.keep_domains();

-- The keys that the edge verifies tokens with are a part of their tenant's policy.
CREATE FUNCTION csm_system.number_token_key() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF TG_OP = 'UPDATE' AND (OLD.id, OLD.tenant_uid, OLD.purpose, OLD.public, OLD.state)
    IS NOT DISTINCT FROM (NEW.id, NEW.tenant_uid, NEW.purpose, NEW.public, NEW.state) THEN
    RETURN NULL;
  END IF;
  IF 'tokens' IN (OLD.purpose, NEW.purpose) THEN
    UPDATE csm_system.tenants SET edge_revision = edge_revision + 1
    WHERE uid IN (OLD.tenant_uid, NEW.tenant_uid) AND state <> 'PROVISIONING';
  END IF;
  RETURN NULL;
END
$$;
CREATE TRIGGER number_token_key AFTER INSERT OR UPDATE OR DELETE ON csm_system.tenant_keys
  FOR EACH ROW EXECUTE FUNCTION csm_system.number_token_key();

-- Tokens that are refused although they have not expired; a row is of no use once its token has.
CREATE TABLE csm_system.edge_revocations (
  token_id uuid NOT NULL,
  tenant_uid uuid NOT NULL,
  expire_time timestamptz NOT NULL,
  revision bigint NOT NULL CONSTRAINT edge_revocations_revision_key UNIQUE,
  -- Of both: whatever a tenant publishes is in nobody else's way.
  CONSTRAINT edge_revocations_pkey PRIMARY KEY (token_id, tenant_uid)
);
CREATE INDEX edge_revocations_expire_time_idx ON csm_system.edge_revocations (expire_time);
GRANT SELECT, DELETE ON csm_system.edge_revocations TO csm_control;
GRANT SELECT, INSERT, UPDATE (revision) ON csm_system.edge_revocations TO csm_publisher;
GRANT SELECT (uid, role_name) ON csm_system.tenants TO csm_publisher;

-- What a tenant's role may call; csm_system itself stays closed to it.
CREATE SCHEMA csm_edge;
GRANT USAGE ON SCHEMA csm_edge TO csm_tenant;

-- Whose token it is, is said by the role that the transaction has taken on, and the context must say the same. Returns
-- the revision: the first one, however often it is called; 0 for a token that has expired.
CREATE FUNCTION csm_edge.publish_revocation(token uuid, expires timestamptz) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  caller uuid;
  published bigint;
BEGIN
  SELECT t.uid INTO caller FROM csm_system.tenants AS t
  WHERE t.role_name = current_setting('role') AND t.uid::text = current_setting('app.tenant_id', true);
  IF caller IS NULL THEN
    RAISE insufficient_privilege USING MESSAGE = 'only a tenant can revoke its tokens';
  END IF;
  IF expires <= clock_timestamp() THEN
    RETURN 0;
  END IF;
  -- No look before the insertion: under SERIALIZABLE a look at what is not there yet conflicts with all insertions
  -- nearby, and other tenants' would make this one fail.
  INSERT INTO csm_system.edge_revocations AS known (token_id, tenant_uid, expire_time, revision)
  VALUES (token, caller, expires, csm_system.next_edge_revision())
  ON CONFLICT ON CONSTRAINT edge_revocations_pkey DO UPDATE SET revision = known.revision
  RETURNING known.revision INTO published;
  RETURN published;
END
$$;
ALTER FUNCTION csm_edge.publish_revocation(uuid, timestamptz) OWNER TO csm_publisher;
GRANT EXECUTE ON FUNCTION csm_edge.publish_revocation(uuid, timestamptz) TO csm_tenant;

-- What there was before: tenants get a revision each, and so do revocations, which until now each tenant knew alone.
UPDATE csm_system.tenants SET edge_revision = 1 WHERE state <> 'PROVISIONING';
DO $$
DECLARE
  tenant record;
  tokens uuid[];
  expiries timestamptz[];
BEGIN
  FOR tenant IN SELECT uid, schema_name FROM csm_system.tenants LOOP
    CONTINUE WHEN to_regclass(format('%I.tokens', tenant.schema_name)) IS NULL;
    BEGIN
      EXECUTE format(
        'SELECT array_agg(id), array_agg(expire_time) FROM %I.tokens'
        ' WHERE revoke_time IS NOT NULL AND expire_time > now()',
        tenant.schema_name
      ) INTO tokens, expiries;
      -- Taken back for its locks alone: those of all tenants' tables would be more than the server has room for.
      RAISE SQLSTATE 'BH001';
    EXCEPTION WHEN SQLSTATE 'BH001' THEN
      NULL;
    END;
    INSERT INTO csm_system.edge_revocations (token_id, tenant_uid, expire_time, revision)
    SELECT revoked.token_id, tenant.uid, revoked.expire_time, csm_system.next_edge_revision()
    FROM unnest(tokens, expiries) AS revoked (token_id, expire_time);
  END LOOP;
END
$$;
