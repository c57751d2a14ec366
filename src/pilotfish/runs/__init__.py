"""The crank, written once: loop, store, resuming, evaluation. Knows the protocols of algorithms, worlds, tasks only."""


class RunError(Exception):
    """A run's folder cannot be used as asked; the message says why, and what to do."""


class RunWarning(UserWarning):
    """Something of a run is damaged or missing, and is done without; the message says what, and how."""
