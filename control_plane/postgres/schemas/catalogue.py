"""What the database's own catalogue must say about isolation, asked at every start and after every tenant's DDL."""

from typing import Final, LiteralString

from control_plane.postgres.pools import Connection
from control_plane.postgres.schemas.lint import find_all_faults

# Each query returns one sentence a weakness, in a column `weakness`.
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
_SHARED_WRITES: Final[LiteralString] = """
SELECT DISTINCT pg_catalog.pg_get_userbyid(granted.grantee) || ' may do more than read ' || c.oid::regclass AS weakness
FROM pg_catalog.pg_class AS c
CROSS JOIN LATERAL (
  SELECT c.relacl AS acl
  UNION ALL
  SELECT a.attacl FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = c.oid AND a.attacl IS NOT NULL
) AS object
CROSS JOIN LATERAL pg_catalog.aclexplode(object.acl) AS granted
WHERE c.relnamespace = 'csm_shared_readonly'::regnamespace
  AND granted.grantee NOT IN (0, c.relowner)
  AND granted.privilege_type <> 'SELECT'
"""
_SHARED_TENANTS: Final[LiteralString] = """
SELECT c.oid::regclass || ' names tenants, and all of them read it' AS weakness
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid
WHERE c.relnamespace = 'csm_shared_readonly'::regnamespace AND a.attname LIKE '%tenant%'
"""
_UNKNOWN_EXTENSIONS: Final[LiteralString] = """
SELECT 'nobody has reviewed the extension ' || e.extname AS weakness
FROM pg_catalog.pg_extension AS e
WHERE e.extname <> 'plpgsql'
"""


async def find_weaknesses(connection: Connection) -> list[str]:
    """Say everything in the database that weakens the isolation of tenants. Reads whole catalogues; for a superuser."""
    found = await find_all_faults(connection)
    for query in (
        _POWERFUL_ROLES,
        _PUBLIC_RIGHTS,
        _SHARED_WRITES,
        _SHARED_TENANTS,
        _CARELESS_FUNCTIONS,
        _CARELESS_VIEWS,
        _UNKNOWN_EXTENSIONS,
    ):
        cursor = await connection.execute(query)
        found += [row["weakness"] for row in await cursor.fetchall()]
    # A right of everybody's on a tenant's table is found by both.
    return list(dict.fromkeys(found))
