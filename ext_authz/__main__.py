"""`python -m ext_authz`: the processes of the edge, and what can be asked about them.

What a command does not need is not loaded: a worker without Envoy's messages starts in half the time and the memory.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from control_plane.config_file import SettingsError
from ext_authz.settings import EdgeSettings


def main() -> int:
    """Run the command; return its exit status."""
    arguments = _parser().parse_args()
    try:
        settings = EdgeSettings.from_dir(arguments.dir)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    run: Callable[[EdgeSettings, argparse.Namespace], int] = arguments.run
    return run(settings, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ext_authz", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, text: str, run: Callable[[EdgeSettings, argparse.Namespace], int]
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument("--dir", type=Path, required=True, help="the state directory")
        added.set_defaults(run=run)
        return added

    command("agent", "run the agent, with its workers", _agent)
    worker = command("worker", "run one worker; its agent starts it, and holds its standard input", _worker)
    worker.add_argument("--number", type=int, required=True, help="which of them, from 0 on")
    command("bootstrap", "write what Envoy starts from", _bootstrap)
    render = command("render", "print what Envoy is told of a tenant", _render)
    render.add_argument("--tenant", required=True, help="the tenant's id")
    render.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def _agent(settings: EdgeSettings, _: argparse.Namespace) -> int:
    from ext_authz import agent  # noqa: PLC0415 not loaded unless needed

    try:
        agent.run(settings)
    except agent.AgentError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _worker(settings: EdgeSettings, arguments: argparse.Namespace) -> int:
    from ext_authz import worker  # noqa: PLC0415 not loaded unless needed

    worker.run(settings, arguments.number)
    return 0


def _bootstrap(settings: EdgeSettings, _: argparse.Namespace) -> int:
    from ext_authz.envoys import write_bootstrap  # noqa: PLC0415 not loaded unless needed

    write_bootstrap(settings)
    return 0


def _render(settings: EdgeSettings, arguments: argparse.Namespace) -> int:
    from ext_authz.xds.resources.render import main as render  # noqa: PLC0415 not loaded unless needed

    return render(settings, arguments.tenant, "json" if arguments.json else "text")


if __name__ == "__main__":
    sys.exit(main())
