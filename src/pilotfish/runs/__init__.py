"""The crank, written once: loop, store, resuming, evaluation. Knows the protocols of algorithms, worlds, tasks only."""


class RunError(Exception):
    """A run's folder cannot be used as asked; the message says why, and what to do.

    Example:

    >>> import pilotfish as pf
    >>> try:
    ...     run = pf.Run.open("runs/nowhere")
    ... except pf.RunError as error:
    ...     print(error)
    runs/nowhere holds no run: it has no spec.json. Give the folder that `pilotfish train` made.
    """


class RunWarning(UserWarning):
    """Something of a run is damaged or missing, and is done without; the message says what, and how."""
