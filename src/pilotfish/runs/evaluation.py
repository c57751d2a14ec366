"""How good what a run learned is: noise-free episodes of each seed's policy, with 95% intervals.

Where all episodes from a start are the same one is made, and called one. Where a task's conditions are but some of its
starts (the resets of an environment), what was learned is judged from others as well. A local controller acts there
that was trained on the nearest start, by the distance in which every entry of the state counts by its spread.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pilotfish.algorithms import Algorithm
from pilotfish.policies import Policy, idle
from pilotfish.policies.files import packed
from pilotfish.runs import RunError, loop
from pilotfish.runs.measured import measuring
from pilotfish.runs.statistics import cost_interval, mean_interval, rate_interval
from pilotfish.runs.store import Run
from pilotfish.tasks import Task
from pilotfish.types import Key, Problem, Rollouts
from pilotfish.worlds import World
from pilotfish.worlds.host import PlantWorld

ROLLOUTS = 100
KEY = 1_000_003
"""Evaluations draw from this key, never from one that training used."""
KEPT = 8
"""Episodes from each condition that are stored, for films."""

ALIKE = 8
"""Episodes from a start without spread that must be the same if all are to count as one."""

EPISODES = "noise-free episodes"
WORSE = "WORSE than at the beginning"
SOLVED = 0.9
"""A seed whose episodes succeed more often than this has learned the task."""

Conditions = Literal["trained", "held-out"]


class Evaluation(NamedTuple):
    """What noise-free episodes of a run's policies came to. Leading axis of all arrays: the seed.

    Example:

    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> result = pf.train(pf.LQRGPS(), LinearQuadratic().world(), rollouts=20, iterations=2)
    >>> found = result.evaluate(rollouts=20)
    >>> found.cost.shape, found.best_seed, found.success is None  # this task defines no success
    ((1,), 0, True)
    """

    seeds: list[int]
    """The seeds, in the order of the leading axis."""
    cost: np.ndarray
    """Mean cost of an episode (S,); nan where all broke off."""
    success: np.ndarray | None
    """Part of the episodes that reach the goal (S,); None where the task defines none."""
    best_seed: int
    """The seed whose episodes succeed most often, and of several such that of lowest cost."""
    summary: dict[str, str]
    """The same in words, with intervals."""
    rollouts: Rollouts
    """Leading axes: seed, condition, rollout."""
    fresh: "Evaluation | None" = None
    """The same from starts that training never saw, where the task's conditions are but some of many."""

    def numbers(self) -> dict[str, Any]:
        """All that is known but the rollouts, as numbers; None stands for what is not finite or not defined.

        Means are over all seeds; "interval_over" says what the 95% intervals are over: "seeds", or of one "episodes".
        """
        S, N, M = np.shape(self.rollouts.valid)
        estimate = _estimate(self.cost, _episodes_of_first(self.rollouts))
        rate = None if self.success is None else rate_interval(self.success, N * M)
        found = {
            "seeds": list(self.seeds),
            "best_seed": self.best_seed,
            "conditions": N,
            "episodes": M,
            "cost": self.cost.tolist(),
            "cost_mean": estimate.mean,
            "cost_interval": [estimate.low, estimate.high],
            "cost_interval_about": estimate.middle,
            "success": None if self.success is None else self.success.tolist(),
            "success_rate": None if rate is None else float(rate.middle),
            "success_interval": None if rate is None else [float(rate.low), float(rate.high)],
            "seeds_that_succeed": None if self.success is None else int((self.success > SOLVED).sum()),
            "interval_over": "seeds" if S > 1 else "episodes",
            "worse_than_at_first": WORSE in self.summary,
        }
        return _finite(found) | {"fresh": None if self.fresh is None else self.fresh.numbers()}

    def as_json(self) -> dict[str, Any]:
        """All but the rollouts, for the run's folder: with the words of reports."""
        return {
            "summary": self.summary,
            "seeds": list(self.seeds),
            "cost": self.cost.tolist(),
            "success": None if self.success is None else self.success.tolist(),
            "best_seed": self.best_seed,
            "fresh": None if self.fresh is None else self.fresh.as_json(),
        }


class Estimate(NamedTuple):
    """A mean cost, and a 95% interval: over seeds, or over the episodes of the only one."""

    mean: float
    middle: float
    """What the interval is about: the mean, or of positive costs of several seeds their geometric mean."""
    low: float
    high: float
    geometric: bool
    """Whether it is about a geometric mean."""
    values: int
    """How many seeds or episodes it is over; nan stands for the interval of one, or of costs that are all the same."""


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


class Teachers(Algorithm):
    """An algorithm of which the local controllers are deployed in place of the network that they teach."""

    algorithm: Algorithm

    def init(self, problem: Problem, episodes: int, key: Key) -> Any:
        return self.algorithm.init(problem, episodes, key)

    def explore(self, state: Any) -> Policy:
        return self.algorithm.explore(state)

    def exploit(self, state: Any) -> Policy:
        """The local controllers. ValueError where nothing is taught."""
        policy = self.algorithm.local(state)
        if policy is None:
            raise ValueError("local: this algorithm teaches no network; what it deploys is its local controllers.")
        return policy

    def update(self, problem: Problem, state: Any, rollouts: Rollouts, key: Key) -> tuple[Any, Any]:
        return self.algorithm.update(problem, state, rollouts, key)


def trained(run: Run, local: bool = False) -> Trained:
    """A run as objects again, and its newest states. RunError if it has none. `local`: what is deployed is the local
    controllers that teach a network.
    """
    task, algorithm, world = run.assemble()
    algorithm = measuring(algorithm, world, run.spec.measured)
    like = loop.initial(algorithm, world, run.spec.rollouts, loop.root_keys(run.spec.seeds))
    return Trained(task, Teachers(algorithm) if local else algorithm, world, run.load_checkpoint(like)[1])


def usual(world: World) -> int:
    """How many episodes from each condition a policy is judged by where nobody says: of a robot every one takes its
    time and wears it.
    """
    return 1 if isinstance(world, PlantWorld) else ROLLOUTS


def evaluate(
    run: Run, rollouts: int | None = None, conditions: Conditions = "trained", local: bool = False
) -> Evaluation:
    """Noise-free episodes of what each seed of a run would deploy, `rollouts` from each condition; None: `usual`.

    "held-out" takes the conditions that the task keeps for testing; `local` the local controllers that teach a network
    in place of it.

    ValueError for `rollouts` below 1; RunError if the run has no checkpoint that can be used.

    Example:

    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> task, counts = LinearQuadratic(), {"rollouts": 20, "iterations": 2, "seeds": [0]}
    >>> spec = pf.Spec.of(("lq", task), ("lqr-gps", pf.LQRGPS()), **counts, checkpoint_every=10)
    >>> run = pf.Run.create("runs/mine", spec)
    >>> result = pf.train(pf.LQRGPS(), task.world(), **counts, run=run)
    >>> pf.evaluate(run, rollouts=20).cost.shape  # (seed,)
    (1,)
    """
    if rollouts is not None and rollouts < 1:
        raise ValueError(f"rollouts={rollouts}: must be 1 or more.")
    found = trained(run, local)
    rollouts = usual(found.world) if rollouts is None else rollouts
    return (
        judge(run, found, rollouts)
        if conditions == "trained"
        else elsewhere(_others(run, found.task), run.spec.seeds, *found[1:], rollouts)
    )


def evaluate_in(run: Run, world: World, rollouts: int = 1) -> Evaluation:
    """The same from the conditions of any world of the same system, `rollouts` from each."""
    return elsewhere(world, run.spec.seeds, *trained(run)[1:], rollouts)


def judge(run: Run, found: Trained, episodes: int) -> Evaluation:
    """Noise-free episodes of what each seed would deploy, from each condition and, where these are but some of the
    task's starts, one from each fresh one; with a word if that is worse than what learning began with.
    """
    seeds = run.spec.seeds
    here = measure(seeds, found.algorithm, found.world, found.states, episodes)
    summary, fresh = here.summary | _setback(run, here), None
    if found.task.samples_starts:
        world = _others(run, found.task)
        fresh = elsewhere(world, seeds, *found[1:], 1)
        said = {name: fresh.summary[name] for name in fresh.summary if name != EPISODES}
        said["the same doing nothing"] = f"{_of_nothing(world):.5g}"
        summary |= {f"{name}, from {fresh.rollouts.x.shape[1]} fresh starts": value for name, value in said.items()}
    return here._replace(summary=summary, fresh=fresh)


def measure(seeds: list[int], algorithm: Algorithm, world: World, states: Any, episodes: int) -> Evaluation:
    """Noise-free episodes of each seed's policy, `episodes` from each condition of a world."""

    def roll(episodes: int) -> Rollouts:
        return jax.device_get(loop.deploy(algorithm, world, episodes, jax.random.key(KEY), states))

    return _judged(seeds, world, roll, episodes)


def _judged(seeds: list[int], world: World, roll: Callable[[int], Rollouts], episodes: int) -> Evaluation:
    """What the rollouts of all seeds from each condition, of which `roll` makes a number, come to."""
    rollouts, alike = _distinct(world, roll, episodes)
    cost, valid = np.asarray(rollouts.cost).sum(-1), np.asarray(rollouts.valid)
    by_seed = np.array([c[v].mean() if v.any() else np.nan for c, v in zip(cost, valid, strict=True)])
    summary, success = {"mean cost of an episode": _in_words(by_seed, _episodes_of_first(rollouts))}, None
    if world.problem.success is not None:
        success = reached(world.problem, rollouts).mean((1, 2))
        summary |= _of_success(success, valid[0].size)
    N, M = valid.shape[1:]
    summary[EPISODES] = f"{M} of each of {len(seeds)} seed(s), from each condition"
    if alike:
        summary[EPISODES] = f"1 of each of {len(seeds)} seed(s), from {N} distinct start(s): deterministic, so no more"
    best = np.lexsort((by_seed, np.zeros(len(seeds)) if success is None else -success))[0]  # nan is last
    return Evaluation(list(seeds), by_seed, success, seeds[best], summary, rollouts)


def reached(problem: Problem, rollouts: Rollouts) -> Bool[np.ndarray, "S N M"]:
    """Which whole episodes of each seed reach the goal. ValueError if the problem defines none."""
    if problem.success is None:
        raise ValueError("success: this problem defines none.")
    success = jax.device_get(_reaching(problem, rollouts.x, rollouts.u, rollouts.cost))
    return success & np.asarray(rollouts.valid)


@eqx.filter_jit
def _reaching(problem: Problem, x: Array, u: Array, cost: Array) -> Array:
    """Of every episode, whether its end is the goal; compiled once for a problem, however often that is asked."""
    return jax.vmap(jax.vmap(jax.vmap(problem.reaches)))(x, u, cost)


def _distinct(world: World, roll: Callable[[int], Rollouts], episodes: int) -> tuple[Rollouts, bool]:
    """The rollouts, of which one from each condition is left where all are the same, and whether they are."""
    random = world.problem.conditions.cov, world.problem.noise_std
    if episodes > 1 and not any(np.asarray(numbers).any() for numbers in random):
        few = roll(min(ALIKE, episodes))
        if all(np.array_equal(a, a[:, :, :1].repeat(a.shape[2], 2), equal_nan=True) for a in (few.x, few.cost)):
            return jax.tree.map(lambda leaf: leaf[:, :, :1], few), True
    return roll(episodes), False


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
    spec = run.spec
    words = {"task": spec.task["name"], "algorithm": spec.algorithm["name"], "seed": str(seed)}
    words |= {"rollouts": str(spec.rollouts), "iterations": str(run.done()), "pilotfish": spec.version}
    return packed(policy_of(run, found, seed), found.world.problem, **words)


def _others(run: Run, task: Task) -> World:
    """A task from the conditions that it keeps for testing."""
    if not isinstance(task, Generalises):
        raise ValueError(f"conditions='held-out': {run.spec.task['name']} keeps no conditions for testing.")
    return task.held_out().world()


def _of_nothing(world: World) -> float:
    """Mean cost of an episode from each condition without any action."""
    rollouts = world.rollout(idle(world.problem), 1, jax.random.key(KEY))
    return float(np.nanmean(np.asarray(rollouts.cost).sum(-1)))


def elsewhere(
    world: World, seeds: Sequence[int], algorithm: Algorithm, known: World, states: Any, episodes: int
) -> Evaluation:
    """What each seed would deploy that was trained in the world `known`, in another world of the same system."""
    starts = (np.asarray(one.problem.conditions.mean) for one in (known, world))
    chosen, key = nearest(*starts), jax.random.key(KEY)
    make = eqx.filter_jit(world.rollout) if world.traceable else world.rollout

    def of_seed(state: Any, episodes: int) -> Rollouts:
        policy = algorithm.exploit(state)
        if policy.per_condition:
            policy = jax.tree.map(lambda leaf: leaf[chosen] if eqx.is_array(leaf) else leaf, policy)
        return jax.device_get(make(policy, episodes, key))

    def roll(episodes: int) -> Rollouts:
        every = [of_seed(loop.of_seed(states, s), episodes) for s in range(len(seeds))]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *every)

    return _judged(list(seeds), world, roll, episodes)


def nearest(known: Float[np.ndarray, "N dx"], starts: Float[np.ndarray, "K dx"]) -> Int[np.ndarray, "K"]:
    """Which of the known starts is nearest to each start, where every entry is measured by its standard deviation."""
    std = np.concatenate([known, starts]).std(0)
    return (((starts[:, None] - known) / np.where(std > 0, std, np.inf)) ** 2).sum(-1).argmin(1)


def _setback(run: Run, found: Evaluation) -> dict[str, str]:
    """Where what was learned is worse than what learning began with, by more than the standard error of that: how much
    worse, and the likely cause.
    """
    metrics, now = run.metrics(), float(np.nanmean(found.cost)) if np.isfinite(found.cost).any() else np.inf
    cost, std = metrics["cost"].mean(0), metrics["cost_std"][:, 0].mean()
    error = std / np.sqrt(run.spec.rollouts * found.rollouts.x.shape[1] * len(run.spec.seeds))
    if not now > cost[0] + error:
        return {}
    said = f"the first iteration's rollouts cost {cost[0]:.5g}, the last one's {cost[-1]:.5g}. "
    if cost[-1] > cost[0] + error:
        said += (
            "Likely a fall, or another jump of the cost, which no quadratic fits. Try a shorter horizon, more "
            "rollouts, a smaller kl_step."
        )
    else:
        said += (
            "The controller without its exploration noise is another one, and here a worse one: try more iterations."
        )
    return {WORSE: said}


def _of_success(success: np.ndarray, episodes: int) -> dict[str, str]:
    """Success of each seed (S,) in words, and over what its interval is."""
    rate, low, high = rate_interval(success, episodes)
    over = _over(len(success), episodes)
    said = {"episodes that succeed": f"{rate:.1%} (95% interval {low:.1%} to {high:.1%}, {over})"}
    if len(success) > 1:
        said[f"seeds of which over {SOLVED:.0%} of episodes succeed"] = f"{(success > SOLVED).sum()} of {len(success)}"
    return said


def _episodes_of_first(rollouts: Rollouts) -> Float[np.ndarray, "n"]:
    """What each whole episode of the first seed costs."""
    return np.asarray(rollouts.cost).sum(-1)[0][np.asarray(rollouts.valid)[0]]


def _estimate(by_seed: np.ndarray, one_seed: np.ndarray) -> Estimate:
    """The mean cost with its interval: over seeds, or over the episodes of the only one. nan for what is not known."""
    values = by_seed[np.isfinite(by_seed)] if len(by_seed) > 1 else one_seed
    mean = float(np.nanmean(by_seed)) if not np.isnan(by_seed).all() else np.nan
    if np.isnan(mean) or values.size < 2 or np.ptp(values) == 0:
        return Estimate(mean, mean, np.nan, np.nan, False, values.size)
    interval, geometric = (mean_interval(values), False) if len(by_seed) == 1 else cost_interval(values)
    middle, low, high = map(float, interval)
    return Estimate(mean, middle, low, high, geometric, values.size)


def _in_words(by_seed: np.ndarray, one_seed: np.ndarray) -> str:
    """The same to be read."""
    mean, middle, low, high, geometric, count = _estimate(by_seed, one_seed)
    if np.isnan(mean):
        return "none: every episode broke off"
    if np.isnan(low):
        return f"{mean:.5g}"
    if len(by_seed) == 1:
        return f"{middle:.5g} (95% interval {low:.5g} to {high:.5g}, {_over(1, count)})"
    of = f"of the geometric mean, {middle:.5g}, " if geometric else ""
    return f"{mean:.5g} (95% interval {of}{low:.5g} to {high:.5g}, {_over(count, 0)})"


def _finite(value: Any) -> Any:
    """The same with None for numbers that are not finite, which JSON does not know."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _over(seeds: int, episodes: int) -> str:
    """What an interval is over."""
    return f"over {seeds} seeds" if seeds > 1 else f"over {episodes} episodes of one seed"
