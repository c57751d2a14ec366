"""`python -m pilotfish` is the command line."""

from pilotfish.cli import main

main()
