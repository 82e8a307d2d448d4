"""What every test may ask for."""

pytest_plugins = ["tests.fixtures.postgres", "tests.fixtures.canaries", "tests.fixtures.stack"]
