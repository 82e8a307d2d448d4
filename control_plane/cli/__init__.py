"""The command `bulkhead`: every verb is one RPC, or brings the embedded stack up and down.

Owns arguments, output, exit codes and the calls to the API. Does not own any rule of the product, and imports neither
gRPC nor the servers before a command needs them. Start reading at `program.py`.
"""

import sys


def main() -> None:
    """Run the command line of this process, and exit with its code."""
    from control_plane.cli.program import run  # noqa: PLC0415 whoever imports a module of this package needs no typer

    sys.exit(run(sys.argv[1:]))
