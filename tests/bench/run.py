"""Measure what the product promises to be quick at. Prints a table and writes `build/bench.json`.

Everything runs against a stack of its own in a temporary folder, on this machine, for a minute or two. Figures of
different machines, or of a busy one, do not compare: each comes with a baseline of the same run.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from tests.bench import cache, calls, crowd, edge, leases, rotating, sealing, starting, switching, vaults
from tests.bench.measure import Figure, table, write
from tests.bench.system import System

ROOT: Final = Path(__file__).parents[2]
# Stable names, for --cases. Each takes the running system and yields its figures.
CASES: Final[dict[str, Callable[[System], AsyncIterator[Figure]]]] = {
    "command_line": starting.command_line,
    "start_up": starting.start_up,
    "create_tenant": calls.create_tenant,
    "tenant_switch": switching.tenant_switch,
    "certificate": calls.certificate,
    "certificate_algorithms": calls.certificate_algorithms,
    "seal": sealing.seal,
    "cache": cache.handles,
    "cache_users": cache.users,
    "edge_check": edge.check,
    "edge_lease": leases.lease,
    "edge_real_rpc": leases.real_rpc,
    "edge_neighbours": leases.neighbours,
    "edge_apply": edge.apply,
    "vault": vaults.operations,
    "vault_cold": vaults.cold_start,
    "vault_rotation": rotating.rotation_of_all,
    "crowd": crowd.crowd,
}
# Only when named: they take many minutes.
LONG: Final = {"crowd", "vault_cold", "vault_rotation"}


async def measure(names: list[str]) -> list[Figure]:
    """Run the cases, in the order in which each leaves the system ready for the next."""
    report: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="bulkhead-bench-") as folder:
        async with System.running(Path(folder)) as system:
            for name in names:
                sys.stderr.write(f"measuring {name} …\n")
                async for figure in CASES[name](system):
                    report.append(figure)
                    sys.stderr.write(f"  {figure.case}: {figure.value} {figure.unit}\n")
    return report


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = [name for name in CASES if name not in LONG]
    parser.add_argument("--cases", nargs="+", choices=CASES, default=usual, help="measure these only")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "bench.json", help="where the report goes")
    arguments = parser.parse_args()
    report = asyncio.run(measure([name for name in CASES if name in arguments.cases]))
    write(report, arguments.output)
    sys.stdout.write(table(report) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
