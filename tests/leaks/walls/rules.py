"""Whom the rules in the protos let in."""

from typing import Final

from tests.leaks.model import Mutation

PROTO: Final = "proto/bulkhead/edge/v1/policies.proto"
CERTIFICATES: Final = "proto/bulkhead/v1/certificates.proto"
TOKENS: Final = "proto/bulkhead/v1/tokens.proto"
RULES: Final = "tests/architecture/test_rules.py"
BOUNDS: Final = "tests/architecture/test_rule_bounds.py"
AUDIT: Final = "proto/bulkhead/v1/audit.proto"

WALLS: Final = (
    Mutation(
        name="others than edges follow the policies",
        file=PROTO,
        before=(
            "  rpc FollowPolicies(FollowPoliciesRequest) returns (stream FollowPoliciesResponse) {\n"
            "    option (bulkhead.v1.rule) = {\n"
            "      roles: [ROLE_EDGE]\n"
        ),
        after=(
            "  rpc FollowPolicies(FollowPoliciesRequest) returns (stream FollowPoliciesResponse) {\n"
            "    option (bulkhead.v1.rule) = {\n"
            "      roles: [ROLE_EDGE, ROLE_TENANT_ADMIN]\n"
        ),
        noticed_by=(f"{RULES}::test_the_rule_of_an_rpc_has_no_oversight",),
    ),
    Mutation(
        name="an RPC names no tenant",
        file=CERTIFICATES,
        before=(
            'certificates"};\n'
            '    option (google.api.method_signature) = "parent";\n'
            "    option (rule) = {\n"
            '      tenant: "parent"\n'
        ),
        after='certificates"};\n    option (google.api.method_signature) = "parent";\n    option (rule) = {\n',
        noticed_by=(f"{RULES}::test_the_rule_of_an_rpc_has_no_oversight",),
    ),
    Mutation(
        name="certificates are listed without a scope",
        file=CERTIFICATES,
        before='      scope: "certificates.read"\n      cost: 2\n',
        after="      cost: 2\n",
        noticed_by=(f"{BOUNDS}::test_a_rule_lets_in_nobody_whom_none_may",),
    ),
    Mutation(
        name="a suspended tenant's certificates are issued",
        file=CERTIFICATES,
        before="      cost: 10\n",
        after="      cost: 10\n      serves_suspended: true\n",
        noticed_by=(f"{BOUNDS}::test_a_rule_lets_in_nobody_whom_none_may",),
    ),
    Mutation(
        name="a provider reads tenants' audit logs",
        file=AUDIT,
        before=(
            'auditEntries"};\n'
            '    option (google.api.method_signature) = "parent";\n'
            "    option (rule) = {\n"
            '      tenant: "parent"\n'
            "      roles: [\n"
        ),
        after=(
            'auditEntries"};\n'
            '    option (google.api.method_signature) = "parent";\n'
            "    option (rule) = {\n"
            '      tenant: "parent"\n'
            "      roles: [\n"
            "        ROLE_PROVIDER_OPERATOR,\n"
        ),
        noticed_by=(f"{BOUNDS}::test_a_rule_lets_in_nobody_whom_none_may",),
    ),
    Mutation(
        name="members issue tokens",
        file=TOKENS,
        before=(
            'tokens:issue"\n      body: "*"\n    };\n    option (rule) = {\n      tenant: "parent"\n      roles: [\n'
        ),
        after=(
            'tokens:issue"\n'
            '      body: "*"\n'
            "    };\n"
            "    option (rule) = {\n"
            '      tenant: "parent"\n'
            "      roles: [\n"
            "        ROLE_TENANT_MEMBER,\n"
        ),
        noticed_by=(f"{BOUNDS}::test_a_rule_lets_in_nobody_whom_none_may",),
    ),
)
