"""What the database's own catalogue must say about isolation, asked at every start and after every tenant's DDL."""

from typing import Final, LiteralString

from control_plane.postgres.pools import Connection

# Each query returns one sentence a weakness, in a column `weakness`.
_UNPROTECTED: Final[LiteralString] = """
SELECT c.oid::regclass || ' has no forced row-level security by tenant' AS weakness
FROM pg_catalog.pg_class AS c
WHERE c.relkind IN ('r', 'p', 'f', 'm')
  AND NOT (
    c.relrowsecurity
    AND c.relforcerowsecurity
    -- One policy and no other: permissive ones add up.
    AND (SELECT count(*) FROM pg_catalog.pg_policy AS p WHERE p.polrelid = c.oid) = 1
    AND EXISTS (
      SELECT FROM pg_catalog.pg_policy AS p
      WHERE p.polrelid = c.oid
        AND p.polcmd = '*'
        AND p.polroles = '{0}'
        AND pg_catalog.pg_get_expr(p.polqual, p.polrelid) = pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid)
        AND pg_catalog.pg_get_expr(p.polqual, p.polrelid)
          = '(tenant_id = (NULLIF(current_setting(''app.tenant_id''::text, true), ''''::text))::uuid)'
    )
  )
"""
_OF_ONE_SCHEMA: Final[LiteralString] = """
  -- By way of the dependencies, since pg_class has no index on its schemas.
  AND c.oid IN (
    SELECT d.objid FROM pg_catalog.pg_depend AS d
    WHERE d.classid = 'pg_catalog.pg_class'::regclass
      AND d.refclassid = 'pg_catalog.pg_namespace'::regclass
      AND d.refobjid = (SELECT n.oid FROM pg_catalog.pg_namespace AS n WHERE n.nspname = %(schema)s)
  )
"""
_OF_ALL_TENANTS: Final[LiteralString] = """
  AND c.relnamespace IN (SELECT n.oid FROM pg_catalog.pg_namespace AS n WHERE n.nspname LIKE 'tenant\\_%')
"""
_POWERFUL_ROLES: Final[LiteralString] = """
SELECT r.rolname || ' may bypass row-level security' AS weakness
FROM pg_catalog.pg_roles AS r
WHERE (r.rolsuper OR r.rolbypassrls) AND r.oid <> 10  -- the one that initdb made
"""
_PUBLIC_RIGHTS: Final[LiteralString] = """
SELECT 'PUBLIC has rights on ' || pg_catalog.pg_describe_object(classid, oid, part) AS weakness
FROM (
  SELECT 'pg_catalog.pg_class'::regclass::oid AS classid, oid, 0 AS part, relacl AS acl FROM pg_catalog.pg_class
  UNION ALL
  SELECT 'pg_catalog.pg_class'::regclass, attrelid, attnum, attacl FROM pg_catalog.pg_attribute
  UNION ALL
  SELECT 'pg_catalog.pg_namespace'::regclass, oid, 0, nspacl FROM pg_catalog.pg_namespace WHERE nspname <> 'pg_catalog'
  UNION ALL
  SELECT 'pg_catalog.pg_language'::regclass, oid, 0, coalesce(lanacl, pg_catalog.acldefault('l', lanowner))
  FROM pg_catalog.pg_language WHERE lanpltrusted
  UNION ALL
  SELECT 'pg_catalog.pg_database'::regclass, oid, 0, coalesce(datacl, pg_catalog.acldefault('d', datdba))
  FROM pg_catalog.pg_database WHERE datname IN (pg_catalog.current_database(), 'postgres', 'template1')
  UNION ALL
  SELECT 'pg_catalog.pg_proc'::regclass, oid, 0, coalesce(proacl, pg_catalog.acldefault('f', proowner))
  FROM pg_catalog.pg_proc
  WHERE pronamespace <> ALL (ARRAY['pg_catalog', 'information_schema']::regnamespace[])
    OR (
      provolatile = 'v'
      AND proname <> ALL (ARRAY['clock_timestamp', 'gen_random_uuid', 'random', 'uuidv4', 'uuidv7'])
    )
) AS object
WHERE EXISTS (SELECT FROM pg_catalog.aclexplode(object.acl) AS granted WHERE granted.grantee = 0)
"""
_CARELESS_FUNCTIONS: Final[LiteralString] = """
SELECT p.oid::regprocedure || ' runs as its owner with its caller''s search path' AS weakness
FROM pg_catalog.pg_proc AS p
WHERE p.prosecdef
  AND NOT EXISTS (SELECT FROM unnest(p.proconfig) AS setting WHERE setting LIKE 'search\\_path=%')
"""
_CARELESS_VIEWS: Final[LiteralString] = """
SELECT c.oid::regclass || ' reads with its owner''s rights' AS weakness
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'v'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND NOT coalesce('security_invoker=true' = ANY (c.reloptions), false)
"""

_UNKNOWN_EXTENSIONS: Final[LiteralString] = """
SELECT 'nobody has reviewed the extension ' || e.extname AS weakness
FROM pg_catalog.pg_extension AS e
WHERE e.extname <> 'plpgsql'
"""


async def find_weaknesses(connection: Connection) -> list[str]:
    """Say everything in the database that weakens the isolation of tenants. Reads whole catalogues; for a superuser."""
    found: list[str] = []
    for query in (
        _UNPROTECTED + _OF_ALL_TENANTS,
        _POWERFUL_ROLES,
        _PUBLIC_RIGHTS,
        _CARELESS_FUNCTIONS,
        _CARELESS_VIEWS,
        _UNKNOWN_EXTENSIONS,
    ):
        cursor = await connection.execute(query)
        found += [row["weakness"] for row in await cursor.fetchall()]
    return found


async def find_unprotected(connection: Connection, schema: str) -> list[str]:
    """Say which tables of one tenant's schema row-level security does not guard. Costs the same with 10,000 tenants."""
    cursor = await connection.execute(_UNPROTECTED + _OF_ONE_SCHEMA, {"schema": schema})
    return [row["weakness"] for row in await cursor.fetchall()]
