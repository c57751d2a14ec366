"""What may be told of every iteration of `train`: keep policies, test them elsewhere, stop, say how it goes.

Any function of a `Turn` is a callback, too; one that returns False ends the training there.
"""

import dataclasses
import sys
import time
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import Float

from pilotfish.policies import files
from pilotfish.runs import evaluation
from pilotfish.runs.loop import Turn
from pilotfish.worlds import World


def _check_every(every: int) -> None:
    if every < 1:
        raise ValueError(f"every={every}: give a number of iterations, 1 or more.")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Keep what every seed would deploy: FOLDER/policy-000010-seed0.safetensors after ten iterations.

    `pilotfish.load_policy` reads it. To go on with training later give `train` a `Run`, which keeps its states as well.

    Example:

    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> keep = pf.Checkpoint("kept", every=2)
    >>> result = pf.train(pf.LQRGPS(), LinearQuadratic().world(), rollouts=20, iterations=2, callbacks=[keep])
    >>> policy = pf.load_policy("kept/policy-000002-seed0.safetensors")
    >>> bool((policy.predict([1.0, 0.0, 0.0, 0.0]) == result.policy.predict([1.0, 0.0, 0.0, 0.0])).all())
    True
    """

    folder: str | Path
    """Where the files go; made if it is not there."""
    every: int = 10
    """Iterations from one to the next; the last iteration's is kept as well."""

    def __post_init__(self):
        _check_every(self.every)

    def __call__(self, turn: Turn) -> None:
        done = turn.i + 1
        if done % self.every and done != turn.iterations:
            return
        for seed in turn.seeds:
            path = Path(self.folder) / f"policy-{done:06d}-seed{seed}.safetensors"
            files.save(turn.policy(seed), path, turn.world.problem)


class Tested(NamedTuple):
    """What episodes elsewhere came to."""

    iteration: int
    """How many iterations were done."""
    cost: Float[np.ndarray, "S"]
    """Mean cost of an episode, for each seed; nan where all broke off."""
    success: Float[np.ndarray, "S"]
    """Part of the episodes that reach the goal; nan where the task defines none."""


@dataclasses.dataclass(frozen=True)
class EvaluateEvery:
    """Judge what every seed would deploy by noise-free episodes in another world of the same system: of `found`.

    Of local controllers the one that was trained on the nearest start acts.

    Example:

    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> world = LinearQuadratic().world()
    >>> test = pf.EvaluateEvery(world, every=2, episodes=5)
    >>> result = pf.train(pf.LQRGPS(), world, rollouts=20, iterations=4, callbacks=[test])
    >>> [found.iteration for found in test.found]
    [2, 4]
    """

    world: World
    """Where they act: `task.held_out().world()` has the conditions that a task keeps for testing."""
    every: int = 10
    """Iterations from one test to the next; the last iteration is tested as well."""
    episodes: int = 20
    """Episodes of each seed from each condition, from the same draws in every test."""
    found: list[Tested] = dataclasses.field(default_factory=list, init=False)
    """What all tests came to so far."""

    def __post_init__(self):
        _check_every(self.every)
        if self.episodes < 1:
            raise ValueError(f"episodes={self.episodes}: give 1 or more.")

    def __call__(self, turn: Turn) -> None:
        done = turn.i + 1
        if done % self.every and done != turn.iterations:
            return
        one = evaluation.elsewhere(self.world, turn.seeds, turn.algorithm, turn.world, turn.states, self.episodes)
        success = np.full(len(turn.seeds), np.nan) if one.success is None else one.success
        self.found.append(Tested(done, one.cost, success))


@dataclasses.dataclass
class StopAtSuccess:
    """End the training when every seed has succeeded often enough, several iterations in a row.

    ValueError at the first iteration if the task defines no success.

    Example:

    >>> import pilotfish as pf
    >>> from pilotfish.tasks.cartpole import CartPole
    >>> test = pf.EvaluateEvery(CartPole().world(), every=5)
    >>> callbacks = [test, pf.StopAtSuccess(0.9, test=test)]  # the test first
    """

    level: float = 0.9
    """Part of the episodes that must reach the goal, above 0 and at most 1."""
    in_a_row: int = 1
    """How often in a row."""
    test: EvaluateEvery | None = None
    """Whose episodes count, a callback before this one; None: the rollouts of the iteration, which explore, or where
    policies are measured their noise-free episodes."""

    def __post_init__(self):
        if not 0 < self.level <= 1:
            raise ValueError(f"level={self.level}: give a part of the episodes, above 0 and at most 1.")
        if self.in_a_row < 1:
            raise ValueError(f"in_a_row={self.in_a_row}: give 1 or more.")
        self._reached, self._seen = 0, 0

    def __call__(self, turn: Turn) -> bool:
        if turn.world.problem.success is None:
            raise ValueError("StopAtSuccess: this task defines no success. Give its Problem a success(x, u).")
        if (success := self._success(turn)) is not None:
            self._reached = self._reached + 1 if (success >= self.level).all() else 0
        return self._reached < self.in_a_row

    def _success(self, turn: Turn) -> Float[np.ndarray, "S"] | None:
        """Of every seed; None where nothing is known that was not known before."""
        if self.test is None:
            return turn.metrics.get("noise_free_success", turn.metrics["success"])
        found, self._seen = self.test.found[self._seen :], len(self.test.found)
        return found[-1].success if found else None


class Progress:
    """A line for every iteration: its cost, its success, the time that is left.

    Example:

    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> progress = pf.Progress(every=2)  # a line on standard error after every second iteration
    >>> result = pf.train(pf.LQRGPS(), LinearQuadratic().world(), rollouts=20, iterations=2, callbacks=[progress])
    """

    def __init__(self, every: int = 1, stream: IO[str] | None = None):
        """`every`: iterations from one line to the next. `stream`: where they go; None: standard error."""
        _check_every(every)
        self.every, self.stream = every, stream
        self._began: tuple[int, float] | None = None

    def __call__(self, turn: Turn) -> None:
        done, now = turn.i + 1, time.monotonic()
        if self._began is None:  # the first iteration takes the compilation with it
            self._began = done, now
        if done % self.every and done != turn.iterations:
            return
        said = f"{done:4d}/{turn.iterations}  cost {np.nanmean(turn.metrics['cost']):.4g}"
        if turn.world.problem.success is not None:
            said += f"  success {np.nanmean(turn.metrics['success']):.0%}"
        first, began = self._began
        if done > first:
            said += f"  left {(now - began) / (done - first) * (turn.iterations - done):.0f} s"
        print(said, file=self.stream or sys.stderr, flush=True)
