"""How the edge learns whose keys, hosts and revocations are whose, and what edges may tell."""

from typing import Final

from tests.leaks.model import Mutation

MODEL: Final = "ext_authz/policies/model.py"
MESSAGES: Final = "ext_authz/policies/messages.py"
COPY: Final = "ext_authz/policies/last_good.py"
SOCKETS: Final = "ext_authz/sockets.py"
FEED: Final = "control_plane/policies/store.py"
SERVICER: Final = "control_plane/policies/servicer.py"
WIRE: Final = "control_plane/policies/wire.py"
MODEL_TESTS: Final = "tests/unit/ext_authz/policies/test_model.py"
MESSAGE_TESTS: Final = "tests/unit/ext_authz/policies/test_messages.py"
COPY_TESTS: Final = "tests/unit/ext_authz/policies/test_last_good.py"
FEED_TESTS: Final = "tests/integration/policies/test_feed.py"
SERVICER_TESTS: Final = "tests/unit/policies/test_servicer.py"
RELAY: Final = "tests/integration/ext_authz/relay/test_relay.py"

WALLS: Final = (
    Mutation(
        name="a host that moved leads to its former tenant",
        file=MODEL,
        before="                _remove(gone, gone.hosts(self.domain), by_host)\n",
        after="",
        noticed_by=(f"{MODEL_TESTS}::test_a_host_and_a_key_that_were_given_up_lead_nowhere",),
    ),
    Mutation(
        name="a key that was taken from a tenant verifies its tokens",
        file=MODEL,
        before="                _remove(gone, gone.token_keys, by_kid)\n",
        after="",
        noticed_by=(f"{MODEL_TESTS}::test_a_host_and_a_key_that_were_given_up_lead_nowhere",),
    ),
    Mutation(
        name="a host that moved is taken from its new tenant",
        file=MODEL,
        before="        if index.get(key) is policy:\n",
        after="        if index.get(key):\n",
        noticed_by=(f"{MODEL_TESTS}::test_a_host_that_moves_leads_to_its_new_tenant_whichever_comes_first",),
    ),
    Mutation(
        name="the policies of the past come back",
        file=MODEL,
        before="        if change.revision < self.revision:\n",
        after="        if not change.revision:\n",
        noticed_by=(f"{MODEL_TESTS}::test_a_change_that_goes_back_is_refused",),
    ),
    Mutation(
        name="a snapshot keeps what is gone",
        file=MODEL,
        before="before = Index(domain=self.domain) if change.snapshot else self",
        after="before = self",
        noticed_by=(f"{MODEL_TESTS}::test_a_snapshot_forgets_what_it_does_not_hold",),
    ),
    Mutation(
        name="a tenant revokes another's token of the same id",
        file=MESSAGES,
        before="token = TenantToken(UUID(revocation.tenant_uid), UUID(revocation.token_id))",
        after="token = TenantToken(UUID(int=0), UUID(revocation.token_id))",
        noticed_by=(f"{MESSAGE_TESTS}::test_one_that_cannot_be_read_keeps_no_other_back",),
    ),
    Mutation(
        name="a policy may grow old without end",
        file=MESSAGES,
        before='    _demand(message.HasField("max_policy_age"), "it may grow old without end")\n',
        after="",
        noticed_by=(f"{MESSAGE_TESTS}::test_what_cannot_be_enforced_is_refused",),
    ),
    Mutation(
        name="the signature of a copy is not compared",
        file=COPY,
        before="        if not hmac.compare_digest(mac, hmac.digest(self._key, kind + content, _DIGEST)):\n",
        after="        if not mac:\n",
        noticed_by=(f"{COPY_TESTS}::test_a_copy_of_another_key_or_a_file_in_the_others_place_is_refused",),
    ),
    Mutation(
        name="a part of the policies passes for all",
        file=COPY,
        before="        if change is None or not change.snapshot:\n",
        after="        if change is None:\n",
        noticed_by=(f"{COPY_TESTS}::test_a_signed_file_without_all_policies_is_no_copy",),
    ),
    Mutation(
        name="others speak with the agent",
        file=SOCKETS,
        before="    path.chmod(_PRIVATE)\n",
        after="",
        noticed_by=(f"{RELAY}::test_the_socket_is_for_the_agents_own_user",),
    ),
    Mutation(
        name="others enter the folder of the sockets",
        file=SOCKETS,
        before="    path.chmod(_PRIVATE_FOLDER)\n",
        after="",
        noticed_by=(
            "tests/unit/ext_authz/test_sockets.py::test_a_folder_of_sockets_is_for_its_owner_also_where_it_was_not",
        ),
    ),
    Mutation(
        name="the edge is told all tenants' keys as each one's",
        file=FEED,
        before="WHERE tenant_uid = t.uid AND purpose",
        after="WHERE purpose",
        noticed_by=(f"{FEED_TESTS}::test_a_policy_has_its_own_tenants_keys_for_tokens_and_no_others",),
    ),
    Mutation(
        name="the edge is told keys of all purposes",
        file=FEED,
        before="AND purpose = %(purpose)s AND state = 'ENABLED' AND public",
        after="AND state = 'ENABLED' AND public",
        noticed_by=(f"{FEED_TESTS}::test_a_policy_has_its_own_tenants_keys_for_tokens_and_no_others",),
    ),
    Mutation(
        name="anybody speaks for an edge",
        file=SERVICER,
        before="    if principal is None or principal.role is not Role.EDGE:\n",
        after="    if principal is None:\n",
        noticed_by=(f"{SERVICER_TESTS}::test_nobody_else_speaks_for_an_edge",),
    ),
    Mutation(
        name="a suspended tenant is told as an active one",
        file=WIRE,
        before="Value(_EDGE_STATES.get(policy.state, policy.state))",
        after='Value("ACTIVE")',
        noticed_by=(f"{FEED_TESTS}::test_a_new_follower_gets_everything_and_then_each_change",),
    ),
)
