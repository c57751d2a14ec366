"""Train: turn the crank, keep what it yields, stop cleanly whatever happens."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pilotfish import algorithms, tasks
from pilotfish.algorithms import Algorithm
from pilotfish.policies import Policy
from pilotfish.runs import evaluation, loop
from pilotfish.runs.columns import columns, flatten
from pilotfish.runs.loop import Turn
from pilotfish.runs.measured import measuring
from pilotfish.runs.same import difference
from pilotfish.runs.spec import described, digest_of
from pilotfish.runs.store import Run, RunError
from pilotfish.types import Problem
from pilotfish.worlds import RolloutsFailed, World
from pilotfish.worlds.host import PlantWorld

DIVERGED = (
    "their states",
    "What is simulated does not bear these actions: begin with less noise (a smaller initial_std of the task), limit "
    "the actions, or simulate with a shorter timestep.",
)
UNPRICED = ("their costs alone", "Check the task's cost there.")
"""What of broken rollouts is not finite, and what to do about it."""
PATIENCE = 3
"""Refused updates in a row, of every seed, after which training stops."""

Callback = Callable[[Turn], bool | None]
"""Told of every iteration when it has ended. False ends the training there, as in Stable-Baselines3."""


class TrainingFailed(RunError):
    """Training cannot go on; the message says at which iteration and why. Everything before it is kept.

    Example:

    >>> import jax.numpy as jnp
    >>> import pilotfish as pf
    >>> start = pf.Gaussian(jnp.array([[10.0]]), jnp.zeros((1, 1, 1)))
    >>> problem = pf.Problem(20, 0.1, start, [1.0], cost=lambda x, u, t: x @ x, dynamics=lambda x, u: x**3 + u)
    >>> try:
    ...     result = pf.train(pf.REPS(), pf.JaxWorld(problem), rollouts=5, iterations=10)
    ... except pf.TrainingFailed as error:
    ...     print(str(error).partition(":")[0])
    stopped after 3 refused updates in a row
    """


@dataclasses.dataclass(frozen=True)
class Result:
    """What training leaves.

    Example:

    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> result = pf.train(pf.LQRGPS(), LinearQuadratic().world(), rollouts=20, iterations=2)
    >>> result.metrics["cost"].shape, result.best_seed  # (seed, iteration)
    ((1, 2), 0)
    >>> path = result.policy.save("policy.safetensors", result.world.problem)
    """

    states: Any
    """The algorithm's final states; leading axis: the seed."""
    metrics: dict[str, np.ndarray]
    """Every field of every report, by name: arrays (seed, iteration)."""
    seeds: list[int]
    """The seeds, in the order of the leading axes."""
    algorithm: Algorithm
    """What learned; where policies are measured, also what measures them."""
    world: World
    """Where it learned."""

    def evaluate(self, rollouts: int | None = None) -> evaluation.Evaluation:
        """Noise-free episodes of what each seed would deploy, `rollouts` from each condition; by default 100, and one
        of a robot (`PlantWorld`).
        """
        rollouts = evaluation.usual(self.world) if rollouts is None else rollouts
        if rollouts < 1:
            raise ValueError(f"rollouts={rollouts}: must be 1 or more.")
        return evaluation.measure(self.seeds, self.algorithm, self.world, self.states, rollouts)

    @functools.cached_property
    def best_seed(self) -> int:
        """The seed whose policy succeeds most often, and of several such costs least: by noise-free episodes, as the
        command line has it, which are rolled out when this is asked for first. Of a robot, whose every episode takes
        its time, that which costs least by the last iteration.
        """
        if len(self.seeds) == 1:
            return self.seeds[0]
        if not isinstance(self.world, PlantWorld):
            return self.evaluate().best_seed
        cost = self.metrics.get("noise_free_cost", self.metrics["cost"])[:, -1]
        return self.seeds[int(np.argmin(np.where(np.isnan(cost), np.inf, cost)))]

    @property
    def policy(self) -> Policy:
        """What we would deploy now: the noise-free policy of the best seed."""
        return self.policy_of(self.best_seed)

    def policy_of(self, seed: int) -> Policy:
        """What a seed would deploy."""
        return self.algorithm.exploit(loop.of_seed(self.states, loop.place_of(seed, self.seeds)))


def train(
    algorithm: Algorithm,
    world: World,
    *,
    rollouts: int,
    iterations: int,
    seeds: Sequence[int] = (0,),
    measured: int = 0,
    run: Run | None = None,
    callbacks: Sequence[Callback] = (),
) -> Result:
    """Learn from `rollouts` episodes from each condition in each of `iterations` iterations, for each seed.

    What would be deployed is then measured by as many noise-free episodes from each condition as `measured` says, and
    the best measured is deployed; with 0 the algorithm's own choice is.

    With a `run`, metrics and checkpoints go to its folder, and a run that has some goes on where it stopped; ValueError
    if this is not what the run is made of. Whatever ends the training (an error, Ctrl-C), the last whole iteration is
    in the folder. TrainingFailed if every seed refuses three updates in a row, or all rollouts of an iteration break
    off.

    Each of the `callbacks` is told of every iteration, by a `Turn`; one that returns False ends the training there.
    Ready-made are `Checkpoint`, `EvaluateEvery`, `StopAtSuccess` and `Progress`.

    Example:

    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> world = LinearQuadratic().world()
    >>> result = pf.train(pf.LQRGPS(), world, rollouts=20, iterations=5, callbacks=[lambda turn: turn.i < 2])
    >>> result.metrics["cost"].shape, result.policy.predict([1.0, -0.5, 0.0, 0.0], t=0).shape
    ((1, 3), (2,))
    """
    seeds = list(seeds)
    if run is not None:
        run.check_whole()
        _check_same(run, algorithm, world, {"rollouts": rollouts, "seeds": seeds, "measured": measured})
    check(algorithm, world, rollouts, measured)
    algorithm = measuring(algorithm, world, measured)
    states, sizes = loop.initial(algorithm, world, rollouts, loop.root_keys(seeds)), (rollouts, iterations, seeds)
    if run is None:
        reports = []
        for turn in _turns(algorithm, world, sizes, (0, states), None):
            reports.append(turn.report)
            states = turn.states
            if _ended(turn, callbacks):
                break
        return Result(states, _stack(reports), seeds, algorithm, world)
    with run.writing():
        return Result(_into(run, algorithm, world, sizes, states, callbacks), run.metrics(), seeds, algorithm, world)


def _into(run: Run, algorithm: Algorithm, world: World, sizes: Any, states: Any, callbacks: Sequence[Callback]) -> Any:
    """The final states of a run that goes on where it stopped, or begins with these states."""
    iterations = sizes[1]
    if iterations > run.spec.iterations or iterations < run.done():
        run.extend(iterations)
    begun, latest = run.begin(states), None
    try:
        for turn in _turns(algorithm, world, sizes, begun, run.save_episode):
            if latest is None:
                run.check_columns(turn.report)
                run.save_columns(columns(algorithm, turn.report.outcome, turn.report.info))
            latest = turn
            _write(run, turn, iterations)
            if _ended(turn, callbacks):
                _keep(run, turn)
                break
    except BaseException:
        if latest is not None:
            _keep(run, latest)
        raise
    return begun[1] if latest is None else latest.states


def check(algorithm: Algorithm, world: World, rollouts: int, measured: int) -> Algorithm:
    """Raise what the first iteration would raise, without running it. What is compiled, as `loop.check` has it."""
    return loop.check(measuring(algorithm, world, measured), world, rollouts)


def _ended(turn: Turn, callbacks: Sequence[Callback]) -> bool:
    """Tell all callbacks of an iteration: whether one of them ends the training."""
    return any([callback(turn) is False for callback in callbacks])


def _turns(algorithm: Algorithm, world: World, sizes: Any, begun: tuple[int, Any], finished: Any) -> Iterator[Turn]:
    """Iterations until the last, or until training cannot go on."""
    rollouts, iterations, seeds = sizes
    at, refused = begun[0], 0
    try:
        keys = loop.root_keys(seeds)
        for turn in loop.turns(algorithm, world, rollouts, keys, at, iterations, begun[1], finished, seeds):
            yield turn
            at, refused = turn.i + 1, 0 if np.any(turn.report.info.ok) else refused + 1
            if refused == PATIENCE:
                raise TrainingFailed(
                    f"stopped after {PATIENCE} refused updates in a row: {explain(turn, 0, algorithm, world.problem)}"
                )
    except RolloutsFailed as error:
        raise TrainingFailed(f"stopped in iteration {at}: {str(error).rstrip('.')}.") from error


def _check_same(run: Run, algorithm: Algorithm, world: World, asked: dict[str, Any]) -> None:
    """Refuse to go on with a run by other means than it was begun with: its metrics would be of neither."""
    found = {name: getattr(run.spec, name) for name in asked}
    if stored := run.spec.algorithm.get("options"):
        asked, found = asked | described(algorithm), found | stored
    for name in asked.keys() | found.keys():
        if not _same(run, asked.get(name), found.get(name)):
            raise ValueError(
                f"{name}={asked.get(name)}: {run.path} was begun with {found.get(name)}. Give the same, or another run."
            )
    _check_world(run, world)


def _same(run: Run, asked: Any, stored: Any) -> bool:
    """Whether two values are one, or files of which the first holds what the second did when the run began."""
    if asked == stored or type(stored) is not str or type(asked) is not str:
        return asked == stored
    return stored in run.spec.files and digest_of(asked) == run.spec.files[stored]


def _check_world(run: Run, world: World) -> None:
    """Refuse to go on with a run in another world. Of what is not registered here its author must know."""
    spec = run.spec
    made_here = spec.task.get("options") and tasks.known(spec.task["name"]) and algorithms.known(spec.algorithm["name"])
    if not run.done() or not made_here:
        return
    own = run.assemble()[2]
    if own is not world and (name := difference(own, world)) is not None:
        raise ValueError(
            f"world: its {name} is not that of the task {spec.task['name']} as {run.path} was begun with it. Give "
            "the same, that of run.assemble(), or another run."
        )


def explain(turn: Turn, seed: int, algorithm: Algorithm, problem: Problem) -> str:
    """Why seed number `seed` refused the update of this turn."""
    outcome = jax.tree.map(lambda leaf: np.asarray(leaf)[seed], turn.report.outcome)
    where = f"iteration {turn.i}"
    state, rollouts = loop.of_seed((turn.states, turn.rollouts), seed)
    if outcome.broken_at >= 0:
        diverged = not np.isfinite(np.asarray(rollouts.x)[:, :, outcome.broken_at]).all()
        what, remedy = DIVERGED if diverged else UNPRICED
        return (
            f"{where}: {100 * (1 - outcome.valid):.0f}% of the rollouts are not finite, {what} first at step "
            f"{outcome.broken_at}. {remedy}"
        )
    known = algorithm.refusal(problem, state, rollouts, jnp.asarray(turn.report.info.ok[seed]))
    unknown = "what was fitted to the rollouts gives no finite update. Raise the rollouts of an iteration."
    return f"{where}: {known or unknown}"


def _write(run: Run, turn: Turn, iterations: int) -> None:
    """What an iteration leaves in the run's folder."""
    run.append_metrics(turn.i, turn.report)
    if (turn.i + 1) % run.spec.checkpoint_every == 0 or turn.i + 1 == iterations:
        run.save_checkpoint(turn.i + 1, turn.states)


def _keep(run: Run, turn: Turn) -> None:
    """Leave the run as it is after `turn`, wherever writing it was interrupted."""
    run.cut_metrics(turn.i)
    run.append_metrics(turn.i, turn.report)
    run.save_checkpoint(turn.i + 1, turn.states)


def _stack(reports: list) -> dict[str, np.ndarray]:
    rows = [flatten(report) for report in reports]
    return {name: np.stack([np.asarray(row[name]) for row in rows], 1) for name in (rows[0] if rows else {})}
