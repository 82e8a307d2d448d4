"""What every test may ask for."""

from hypothesis import settings

pytest_plugins = [
    "tests.fixtures.postgres",
    "tests.fixtures.canaries",
    "tests.fixtures.stack",
    "tests.fixtures.curl",
    "tests.fixtures.edge",
    "tests.fixtures.edge_mirror",
    "tests.fixtures.s3",
    "tests.fixtures.softhsm",
]

# No example has a time limit: how busy the machine is says nothing about the code. A failure prints how to repeat it.
settings.register_profile("bulkhead", deadline=None, print_blob=True)
settings.load_profile("bulkhead")
