"""Packages that only some uses need, and that `pip install pilotfish` leaves out."""

from importlib.util import find_spec


def check(what: str, package: str, extra: str) -> None:
    """ValueError, with the command that installs it, if the package that something needs is not there."""
    if find_spec(package) is None:
        raise ValueError(f"{what} needs the package {package}: pip install 'pilotfish[{extra}]'.")
