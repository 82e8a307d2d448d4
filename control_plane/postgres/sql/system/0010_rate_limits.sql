-- What a tenant's callers may cost in a second, a minute, an hour, a day and a month; NULL is no limit. Its days begin at
-- its own midnight, its months with its billing day.

ALTER TABLE csm_system.tenants
  ADD COLUMN units_per_second bigint
    CONSTRAINT tenants_units_per_second_check CHECK (units_per_second BETWEEN 1 AND 9007199254740992),
  ADD COLUMN units_per_minute bigint
    CONSTRAINT tenants_units_per_minute_check CHECK (units_per_minute BETWEEN 1 AND 9007199254740992),
  ADD COLUMN units_per_hour bigint
    CONSTRAINT tenants_units_per_hour_check CHECK (units_per_hour BETWEEN 1 AND 9007199254740992),
  ADD COLUMN units_per_day bigint
    CONSTRAINT tenants_units_per_day_check CHECK (units_per_day BETWEEN 1 AND 9007199254740992),
  ADD COLUMN units_per_month bigint
    CONSTRAINT tenants_units_per_month_check CHECK (units_per_month BETWEEN 1 AND 9007199254740992),
  ADD COLUMN billing_day smallint NOT NULL DEFAULT 1
    CONSTRAINT tenants_billing_day_check CHECK (billing_day BETWEEN 1 AND 31),
  -- Which names there are, is known to whoever writes it.
  ADD COLUMN time_zone text NOT NULL DEFAULT 'UTC'
    CONSTRAINT tenants_time_zone_check CHECK (time_zone ~ '^[A-Za-z][A-Za-z0-9_+/-]{0,63}$');
GRANT UPDATE (
  units_per_second, units_per_minute, units_per_hour, units_per_day, units_per_month, billing_day, time_zone
) ON csm_system.tenants TO csm_control;

CREATE OR REPLACE FUNCTION csm_system.number_tenant() RETURNS trigger
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
    NEW.units_per_second, NEW.units_per_minute, NEW.units_per_hour, NEW.units_per_day, NEW.units_per_month,
    NEW.billing_day, NEW.time_zone, NEW.edge_revision
  ) IS DISTINCT FROM (
    OLD.state, OLD.tier, OLD.isolation, OLD.dns_label, OLD.requests_per_minute, OLD.domains, OLD.max_policy_age,
    OLD.units_per_second, OLD.units_per_minute, OLD.units_per_hour, OLD.units_per_day, OLD.units_per_month,
    OLD.billing_day, OLD.time_zone, OLD.edge_revision
  ) THEN
    NEW.edge_revision := csm_system.next_edge_revision();
  END IF;
  RETURN NEW;
END
$$;
