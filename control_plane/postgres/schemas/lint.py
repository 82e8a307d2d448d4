"""What a tenant's tables must be like, asked of the catalogue after every migration; else nothing of it was done.

Each table has the tenant in every row, an index that finds a tenant's rows by it, and forced row-level security by it.
Nobody but the tenant's own role and the three of the platform's has a right on anything, and there is nothing else.
"""

from typing import Final, LiteralString

from control_plane.postgres.pools import Connection

# Each query looks at the relations `c`, which are found before it begins: to look at a table is to lock it, and nobody
# is to wait for one that another tenant's migration is changing. Each returns one sentence a weakness.
_UNPROTECTED: Final[LiteralString] = """
SELECT c.oid::regclass || ' has no forced row-level security by tenant' AS weakness
FROM c
WHERE c.relkind IN ('r', 'p', 'f', 'm')
  AND NOT (
    c.relrowsecurity
    AND c.relforcerowsecurity
    -- One policy and no other: permissive ones add up.
    AND (
      SELECT count(*) = 1 AND bool_and(
        p.polcmd = '*'
        AND p.polroles = '{0}'
        AND pg_catalog.pg_get_expr(p.polqual, p.polrelid) = pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid)
        AND pg_catalog.pg_get_expr(p.polqual, p.polrelid)
          = '(tenant_id = (NULLIF(current_setting(''app.tenant_id''::text, true), ''''::text))::uuid)'
      ) IS TRUE
      FROM pg_catalog.pg_policy AS p WHERE p.polrelid = c.oid
    )
  )
"""
_NO_TENANT: Final[LiteralString] = """
SELECT c.oid::regclass || ' has rows that name no tenant' AS weakness
FROM c
WHERE c.relkind IN ('r', 'p', 'f')
  AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND a.atttypid = 'uuid'::regtype AND a.attnotnull
  )
"""
_NO_INDEX: Final[LiteralString] = """
SELECT c.oid::regclass || ' has no index that begins with tenant_id' AS weakness
FROM c
WHERE c.relkind IN ('r', 'p')
  AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_index AS i
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL AND a.attname = 'tenant_id'
  )
"""
_OF_NO_USE: Final[LiteralString] = """
SELECT c.oid::regclass || ' is a sequence, which stays behind when the tenant moves' AS weakness
FROM c
WHERE c.relkind = 'S'
"""
_RIGHTS: Final[LiteralString] = """
SELECT DISTINCT
  CASE WHEN granted.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.pg_get_userbyid(granted.grantee) END
    || ' has rights on ' || pg_catalog.pg_describe_object('pg_catalog.pg_class'::regclass, c.oid, part) AS weakness
FROM c
CROSS JOIN LATERAL (
  SELECT 0 AS part, c.relacl AS acl
  UNION ALL
  SELECT a.attnum, a.attacl FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = c.oid AND a.attacl IS NOT NULL
) AS object
CROSS JOIN LATERAL pg_catalog.aclexplode(object.acl) AS granted
WHERE granted.grantee NOT IN (c.relowner, 'csm_control'::regrole, 'csm_sealer'::regrole)
  AND NOT EXISTS (
    SELECT FROM csm_system.tenants AS t
    JOIN pg_catalog.pg_namespace AS n ON n.nspname = t.schema_name
    WHERE n.oid = c.relnamespace AND t.role_name = pg_catalog.pg_get_userbyid(granted.grantee)
  )
"""
_QUERIES: Final = (_UNPROTECTED, _NO_TENANT, _NO_INDEX, _OF_NO_USE, _RIGHTS)

_OF_ONE_SCHEMA: Final[LiteralString] = """
WITH c AS MATERIALIZED (
  SELECT class.* FROM pg_catalog.pg_class AS class
  -- By way of the dependencies, since pg_class has no index on its schemas.
  WHERE class.oid IN (
    SELECT d.objid FROM pg_catalog.pg_depend AS d
    WHERE d.classid = 'pg_catalog.pg_class'::regclass
      AND d.refclassid = 'pg_catalog.pg_namespace'::regclass
      AND d.refobjid = (SELECT n.oid FROM pg_catalog.pg_namespace AS n WHERE n.nspname = %(schema)s)
  )
)
"""
_OF_ALL_TENANTS: Final[LiteralString] = """
WITH c AS MATERIALIZED (
  SELECT class.* FROM pg_catalog.pg_class AS class
  WHERE class.relnamespace IN (SELECT n.oid FROM pg_catalog.pg_namespace AS n WHERE n.nspname LIKE 'tenant\\_%')
)
"""


async def find_faults(connection: Connection, schema: str) -> list[str]:
    """Say what is wrong with the tables of one tenant's schema. Costs the same with 10,000 tenants."""
    found: list[str] = []
    for query in _QUERIES:
        cursor = await connection.execute(_OF_ONE_SCHEMA + query, {"schema": schema})
        found += [row["weakness"] for row in await cursor.fetchall()]
    return found


async def find_all_faults(connection: Connection) -> list[str]:
    """Say what is wrong with any tenant's tables. Reads whole catalogues."""
    found: list[str] = []
    for query in _QUERIES:
        cursor = await connection.execute(_OF_ALL_TENANTS + query)
        found += [row["weakness"] for row in await cursor.fetchall()]
    return found
