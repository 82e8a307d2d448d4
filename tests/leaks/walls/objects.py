"""Where an object may lie, and which files are looked into."""

from typing import Final

from tests.leaks.model import Mutation

PATHS: Final = "control_plane/objects/paths.py"
BUCKET: Final = "control_plane/objects/bucket_local.py"
DIRECTORIES: Final = "control_plane/objects/directories.py"
STAGING: Final = "control_plane/objects/staging.py"
OBSTORE: Final = "control_plane/objects/bucket_obstore.py"
OBSTORE_TESTS: Final = "tests/unit/objects/test_bucket_obstore.py"
PRIVATE: Final = "control_plane/private_file.py"
PATH_TESTS: Final = "tests/unit/objects/test_paths.py"
BUCKET_TESTS: Final = "tests/unit/objects/test_bucket_local.py"
PRIVATE_TESTS: Final = "tests/unit/test_private_file.py"

WALLS: Final = (
    Mutation(
        name="every path of an object is accepted",
        file=PATHS,
        before='    segments = path.split("/")\n',
        after="    return None\n",
        noticed_by=(f"{PATH_TESTS}::test_a_path_of_any_other_form_is_refused",),
    ),
    Mutation(
        name="a path of an object is looked at in part",
        file=PATHS,
        before="_SEGMENT.fullmatch(segment)",
        after="_SEGMENT.match(segment)",
        noticed_by=(f"{PATH_TESTS}::test_a_path_of_any_other_form_is_refused",),
    ),
    Mutation(
        name="an object's path is not checked",
        file=PATHS,
        before='        ("path", path_violation(path)),\n',
        after="",
        noticed_by=(f"{PATH_TESTS}::test_a_path_of_any_other_form_is_refused",),
    ),
    Mutation(
        name="a folder's tenant is not checked",
        file=PATHS,
        before='    _refuse(("tenant", tenant_id_violation(tenant_id)))\n',
        after="",
        noticed_by=(f"{PATH_TESTS}::test_no_path_is_made_from_what_is_no_tenants_id",),
    ),
    Mutation(
        name="an object's tenant is not checked",
        file=PATHS,
        before='        ("tenant", tenant_id_violation(tenant_id)),\n',
        after="",
        noticed_by=(f"{PATH_TESTS}::test_no_path_is_made_from_what_is_no_tenants_id",),
    ),
    Mutation(
        name="a key of another tenant's is listed as an object",
        file=PATHS,
        before="        return name if object_key(tenant_id, name.path, version=name.version) == key else None\n",
        after="        return name\n",
        noticed_by=(f"{PATH_TESTS}::test_a_key_that_is_never_given_a_tenant_is_no_object_of_its_own",),
    ),
    Mutation(
        name="a folder of objects that is a link is followed",
        file=DIRECTORIES,
        before="_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW |",
        after="_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY |",
        noticed_by=(f"{BUCKET_TESTS}::test_a_link_on_the_way_is_refused_and_nothing_is_written_through_it",),
    ),
    Mutation(
        name="an object that becomes a link is followed",
        file=DIRECTORIES,
        before="_READ: Final = os.O_RDONLY | os.O_NOFOLLOW |",
        after="_READ: Final = os.O_RDONLY |",
        noticed_by=(f"{BUCKET_TESTS}::test_what_becomes_no_file_while_it_is_opened_is_refused",),
    ),
    Mutation(
        name="what is no object is opened",
        file=DIRECTORIES,
        before="    refuse_all_but_a_file(name, directory=directory)\n    descriptor",
        after="    descriptor",
        noticed_by=(f"{BUCKET_TESTS}::test_what_is_no_file_is_refused_and_never_waited_for",),
    ),
    Mutation(
        name="an object is written in a link's place",
        file=STAGING,
        before="                refuse_all_but_a_file(self._name, directory=way[-1])\n",
        after="",
        noticed_by=(f"{BUCKET_TESTS}::test_what_comes_into_an_objects_place_while_it_is_written_is_left_there",),
    ),
    Mutation(
        name="an object that was written meanwhile is replaced by what is made of the older one",
        file=STAGING,
        before="        if not os.path.samestat(found, os.fstat(file)):\n",
        after="        if not found:\n",
        noticed_by=("tests/contracts/test_bucket.py::test_a_write_that_comes_while_an_object_is_replaced_stays",),
    ),
    Mutation(
        name="an object is replaced while others change it",
        file=STAGING,
        before="fcntl.LOCK_EX if alone else fcntl.LOCK_SH",
        after="fcntl.LOCK_SH if alone else fcntl.LOCK_SH",
        noticed_by=(f"{BUCKET_TESTS}::test_nobody_changes_an_object_between_the_last_look_at_it_and_its_replacement",),
    ),
    Mutation(
        name="an object is written while another is looked at for the last time",
        file=STAGING,
        before="            with changing(way[-1], alone=instead_of is not None):\n",
        after="            with ExitStack():\n",
        noticed_by=(f"{BUCKET_TESTS}::test_nobody_changes_an_object_between_the_last_look_at_it_and_its_replacement",),
    ),
    Mutation(
        name="an object is deleted while another is looked at for the last time",
        file=BUCKET,
        before="            with changing(way[-1]):\n",
        after="            with ExitStack():\n",
        noticed_by=(f"{BUCKET_TESTS}::test_nobody_changes_an_object_between_the_last_look_at_it_and_its_replacement",),
    ),
    Mutation(
        name="a bucket is believed to know conditions",
        file=OBSTORE,
        before="        if not all(refused):\n",
        after="        if not refused:\n",
        noticed_by=(f"{OBSTORE_TESTS}::test_a_service_that_knows_no_conditions_replaces_nothing",),
    ),
    Mutation(
        name="a listing follows links",
        file=BUCKET,
        before="return entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)",
        after="return entry.is_file() or entry.is_dir()",
        noticed_by=(f"{BUCKET_TESTS}::test_a_listing_shows_no_links_and_does_not_follow_them",),
    ),
    Mutation(
        name="a key that others may read is used",
        file=PRIVATE,
        before="        if mode & _OTHERS:\n",
        after="        if not mode:\n",
        noticed_by=(f"{PRIVATE_TESTS}::test_a_file_that_is_open_to_others_is_refused_with_what_to_do",),
    ),
    Mutation(
        name="a key that is a link is used",
        file=PRIVATE,
        before="flags = os.O_RDONLY | os.O_NOFOLLOW |",
        after="flags = os.O_RDONLY |",
        noticed_by=(f"{PRIVATE_TESTS}::test_a_link_a_pipe_or_a_folder_in_the_files_place_is_refused",),
    ),
    Mutation(
        name="a key is written for others to read",
        file=PRIVATE,
        before="os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)",
        after="os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)",
        noticed_by=(f"{PRIVATE_TESTS}::test_a_created_file_is_read_back_and_is_its_owners_only",),
    ),
)
