"""How good what a run learned is: noise-free episodes of each seed's policy, with 95% intervals."""

from contextlib import suppress
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from pilotfish.algorithms import Algorithm
from pilotfish.policies import Policy
from pilotfish.policies.files import packed
from pilotfish.runs import RunError, loop
from pilotfish.runs.statistics import cost_interval, mean_interval, rate_interval
from pilotfish.runs.store import Run
from pilotfish.tasks import Task
from pilotfish.types import Rollouts
from pilotfish.worlds import World

ROLLOUTS = 100
KEY = 1_000_003
"""Evaluations draw from this key, never from one that training used."""
KEPT = 8
"""Episodes from each condition that are stored, for films."""

Conditions = Literal["trained", "held-out"]


class Evaluation(NamedTuple):
    """What noise-free episodes of a run's policies came to. Leading axis of all arrays: the seed."""

    seeds: list[int]
    cost: np.ndarray
    """Mean cost of an episode (S,); nan where all broke off."""
    success: np.ndarray | None
    """Part of the episodes that reach the goal (S,); None where the task defines none."""
    best_seed: int
    """The seed of lowest cost."""
    summary: dict[str, str]
    """The same in words, with intervals."""
    rollouts: Rollouts
    """Leading axes: seed, condition, rollout."""

    def as_json(self) -> dict[str, Any]:
        """All but the rollouts."""
        return {
            "summary": self.summary,
            "seeds": list(self.seeds),
            "cost": self.cost.tolist(),
            "success": None if self.success is None else self.success.tolist(),
            "best_seed": self.best_seed,
        }


class Trained(NamedTuple):
    """A run as objects again, and its newest states."""

    task: Task
    algorithm: Algorithm
    world: World
    states: Any


@runtime_checkable
class Generalises(Protocol):
    """A task with conditions that are kept for testing."""

    def held_out(self) -> Task:
        """The same task from other initial states, of which training knows nothing."""
        ...


def trained(run: Run) -> Trained:
    """A run as objects again, and its newest states. RunError if it has none."""
    task, algorithm, world = run.assemble()
    like = loop.initial(algorithm, world, run.spec.rollouts, loop.root_keys(run.spec.seeds))
    return Trained(task, algorithm, world, run.load_checkpoint(like)[1])


def evaluate(run: Run, rollouts: int = ROLLOUTS, conditions: Conditions = "trained") -> Evaluation:
    """Noise-free episodes of what each seed of a run would deploy, `rollouts` from each condition.

    "held-out" takes the conditions that the task keeps for testing; only a policy that acts everywhere acts there.
    """
    if rollouts < 1:
        raise ValueError(f"rollouts={rollouts}: must be 1 or more.")
    found = trained(run)
    world = found.world if conditions == "trained" else _held_out(found, run)
    return measure(run.spec.seeds, found.algorithm, world, found.states, rollouts)


def measure(seeds: list[int], algorithm: Algorithm, world: World, states: Any, episodes: int) -> Evaluation:
    """Noise-free episodes of each seed's policy, `episodes` from each condition of a world."""
    rollouts = jax.device_get(loop.deploy(algorithm, world, episodes, jax.random.key(KEY), states))
    cost, valid = rollouts.cost.sum(-1), np.asarray(rollouts.valid)
    by_seed = np.array([c[v].mean() if v.any() else np.nan for c, v in zip(cost, valid, strict=True)])
    best = 0 if np.isnan(by_seed).all() else int(np.nanargmin(by_seed))
    summary, success = {"mean cost of an episode": _with_interval(by_seed, cost[0][valid[0]])}, None
    if world.problem.success is not None:
        reached = jax.device_get(jax.vmap(jax.vmap(jax.vmap(world.problem.success)))(rollouts.x, rollouts.u))
        success = (reached & valid).mean((1, 2))
        summary |= _of_success(success, valid[0].size)
    summary["noise-free episodes"] = f"{episodes} of each of {len(seeds)} seed(s), from each condition"
    return Evaluation(list(seeds), by_seed, success, seeds[best], summary, rollouts)


def keep(run: Run, evaluation: Evaluation) -> bool:
    """Leave an evaluation in a run's folder, with some of its episodes.

    False, and nothing is left, if that would replace one of more episodes of the same policies.
    """
    x, u = (np.asarray(a)[:, :, :KEPT] for a in (evaluation.rollouts.x, evaluation.rollouts.u))
    of = {"iteration": run.done(), "episodes": evaluation.rollouts.x.shape[2]}
    with run.writing():
        with suppress(RunError):  # a damaged one is replaced
            before = run.evaluation()
            if before and before["iteration"] == of["iteration"] and before["episodes"] > of["episodes"]:
                return False
        run.save_tensors("evaluation", {"x": x, "u": u})
        run.save_json("evaluation", evaluation.as_json() | of)
    return True


def policy_of(run: Run, found: Trained, seed: int) -> Policy:
    """What one seed of a run would deploy."""
    return found.algorithm.exploit(loop.of_seed(found.states, run.index(seed)))


def pack(run: Run, found: Trained, seed: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of the file of what one seed of a run would deploy."""
    words = {"task": run.spec.task["name"], "seed": str(seed), "pilotfish": run.spec.version}
    return packed(policy_of(run, found, seed), found.world.problem, **words)


def _held_out(found: Trained, run: Run) -> World:
    if not isinstance(found.task, Generalises):
        raise ValueError(f"conditions='held-out': {run.spec.task['name']} keeps no conditions for testing.")
    if found.algorithm.exploit(loop.of_seed(found.states, 0)).per_condition:
        raise ValueError(
            f"conditions='held-out': {run.spec.algorithm['name']} learns a controller for each condition it is trained "
            "on, and has none for others. An algorithm that trains one policy for all is needed."
        )
    return found.task.held_out().world()


def _of_success(success: np.ndarray, episodes: int) -> dict[str, str]:
    """Success of each seed (S,) in words, and over what its interval is."""
    rate, low, high = rate_interval(success, episodes)
    over = _over(len(success), episodes)
    said = {"episodes that succeed": f"{rate:.1%} (95% interval {low:.1%} to {high:.1%}, {over})"}
    if len(success) > 1:
        said["seeds of which over 90% of episodes succeed"] = f"{(success > 0.9).sum()} of {len(success)}"
    return said


def _with_interval(by_seed: np.ndarray, one_seed: np.ndarray) -> str:
    """The mean cost with a 95% interval in words: over seeds, or over the episodes of the only one."""
    values = by_seed[np.isfinite(by_seed)] if len(by_seed) > 1 else one_seed
    if np.isnan(by_seed).all():
        return "none: every episode broke off"
    if values.size < 2 or np.ptp(values) == 0:
        return f"{np.nanmean(by_seed):.5g}"
    if len(by_seed) == 1:
        mean, low, high = mean_interval(values)
        return f"{mean:.5g} (95% interval {low:.5g} to {high:.5g}, {_over(1, values.size)})"
    (middle, low, high), geometric = cost_interval(values)
    of = f"of the geometric mean, {middle:.5g}, " if geometric else ""
    return f"{np.nanmean(by_seed):.5g} (95% interval {of}{low:.5g} to {high:.5g}, {_over(values.size, 0)})"


def _over(seeds: int, episodes: int) -> str:
    """What an interval is over."""
    return f"over {seeds} seeds" if seeds > 1 else f"over {episodes} episodes of one seed"
