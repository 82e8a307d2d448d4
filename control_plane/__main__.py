"""`python -m control_plane` is the command `bulkhead`."""

from control_plane.cli import main

main()
