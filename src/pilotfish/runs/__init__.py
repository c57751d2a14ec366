"""The crank, written once: the loop, the store of runs, resuming. Knows only the protocols of algorithms, worlds, tasks."""


class RunError(Exception):
    """A run's folder cannot be used as asked; the message says why, and what to do."""
