"""Dyna: any algorithm learns in dynamics that are learned, and needs a handful of real episodes (after Sutton, 1991).

Ours, of known parts. Each iteration, from an episode or a few:

    the dynamics of all states, from all transitions       models/learned_dynamics.py
    many rounds of the learner, each from imagined rollouts: in the world as it is believed to be
    its next policy is rolled out in the real one

Rollouts by the hundred, which a network needs, so cost no time of a robot. What the learner makes of a model is only as
good as that is, and a bad episode may follow. So it goes on from what it was when a real episode cost least: from there
it learns again, in a model that has now seen what came of the other way. Another learner begins from nothing each time,
and takes its place where that leads far further: so a poor local minimum is no dead end.
"""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pilotfish.algebra.batch import chosen
from pilotfish.algorithms import Algorithm, check_number
from pilotfish.algorithms.gps import GPS
from pilotfish.models.cost import final_formula
from pilotfish.models.learned_dynamics import Experience, LearnedDynamics
from pilotfish.policies import Policy
from pilotfish.types import Key, Problem, Rollouts, Shown
from pilotfish.worlds.jax import JaxWorld

WORTH = 0.1
"""A learner that began anew is followed where going on saves less than so much of what it saves."""


class State(NamedTuple):
    """What the next iteration needs."""

    learner: Any
    """The learner's state."""
    best: Any
    """What it was when real rollouts cost least."""
    cost: Float[Array, ""]
    """Their mean cost; infinite before the first."""
    experience: Experience


class Info(NamedTuple):
    """What an iteration reports."""

    learner: Any
    """What the learner reports of its last round."""
    ok: Bool[Array, "N"]
    """False if no round improved the condition."""
    imagined: Annotated[
        Float[Array, ""], Shown("cost of an imagined episode without noise", scale="log", column="imagined")
    ]
    """What an episode of the newest policy costs by the dynamics as they are believed to be now, without noise."""
    unexplained: Annotated[
        Float[Array, ""],
        Shown("part of the changes that is not explained", scale="log", column="unexplained", form="{:.2g}"),
    ]
    """Of the changes of the state in the newest episodes, the part of the variance that the learned dynamics do not
    explain: near 1 where they miss what matters, a contact or something hidden."""
    basis: Annotated[Float[Array, ""], Shown("transitions on which basis functions are centred")]
    """Their number, at most `learned.points`."""
    went_back: Annotated[Float[Array, ""], Shown("iterations that began from an earlier policy", "%")]
    """1 if the newest real rollouts cost more than the cheapest before, else 0."""
    anew: Annotated[Float[Array, ""], Shown("iterations in which learning began anew", "%")]
    """1 if a learner that began anew was followed, else 0."""


class Lesson(NamedTuple):
    """What came of all rounds from one start."""

    info: Any
    """The learner's report of the last round."""
    ok: Bool[Array, "N"]
    """Whether a round improved the condition."""
    imagined: Float[Array, ""]
    """Mean cost of an imagined noise-free episode of what was learned."""


class Dyna(Algorithm):
    """An algorithm that learns in learned dynamics, from imagined rollouts.

    Source: ours, after Sutton (1991); the model is that of PILCO (Deisenroth & Rasmussen, 2011), without its
    uncertainty. ValueError for a setting out of its range, a final cost without a formula, or a learner that needs the
    equations of motion.

    Example:

    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> algorithm = pf.Dyna(pf.GPS(policy=pf.Network(width=10)), rounds=5)
    >>> result = pf.train(algorithm, LinearQuadratic().world(), rollouts=1, iterations=2)
    >>> bool(result.metrics["cost"][0, -1] < result.metrics["cost"][0, 0])  # (seed, iteration)
    True
    >>> result.policy.kind
    'network'
    """

    learner: Algorithm = GPS(noise_smoothing=2.0)
    """What learns from the imagined rollouts."""
    rounds: int = eqx.field(static=True, default=20)
    """How often it does in an iteration."""
    imagined: int = eqx.field(static=True, default=40)
    """Number of imagined rollouts from each condition in a round."""
    starts: int = eqx.field(static=True, default=2)
    """How many learn: one goes on from when real rollouts cost least, the others begin anew. One of these is followed
    where going on saves less than a tenth of what it saves, by what noise-free episodes are imagined to cost."""
    learned: LearnedDynamics = LearnedDynamics()
    """How the dynamics are learned."""

    @property
    def defaults(self) -> tuple[int, int]:
        return 1, 15

    @property
    def files(self) -> Sequence[str]:
        return self.learner.files

    def __check_init__(self):
        if isinstance(self.learner, Dyna):
            raise ValueError("learner=Dyna: one that learns in dynamics of its own. Choose what learns from rollouts.")
        check_number(self, "rounds", lambda v: v >= 1, "the learner learns at least once an iteration")
        check_number(self, "starts", lambda v: v >= 1, "one learner goes on from the best policy, others begin anew")
        check_number(self, "imagined", lambda v: v >= 1, "a round needs at least one rollout from each condition")

    def caution(self, problem: Problem, episodes: int) -> str:
        return self.learner.caution(_of_unknown_dynamics(problem), self.imagined)

    def init(self, problem: Problem, episodes: int, key: Key) -> State:
        """The learner as it begins, and no experience."""
        final_formula(problem)  # raises where only the world knows it
        learner = self.learner.init(_of_unknown_dynamics(problem), self.imagined, key)
        return State(learner, learner, jnp.asarray(jnp.inf), self.learned.begin(problem, episodes))

    def explore(self, state: State) -> Policy:
        """What the learner would roll out next."""
        return self.learner.explore(state.learner)

    def exploit(self, state: State) -> Policy:
        """What the learner would deploy."""
        return self.learner.exploit(state.learner)

    def latest(self, state: State) -> Policy:
        return self.learner.latest(state.learner)

    def local(self, state: State) -> Policy | None:
        """The learner's."""
        return self.learner.local(state.learner)

    def update(self, problem: Problem, state: State, rollouts: Rollouts, key: Key) -> tuple[State, Info]:
        fit_key, begin_key, learn_key = jax.random.split(key, 3)
        data = rollouts.cleaned()
        experience, model, report = self.learned.fit(problem, state.experience, data, fit_key)
        cost = jnp.where(data.valid.all(), data.cost.sum(-1).mean(), jnp.inf)
        better = (cost < state.cost) | ~jnp.isfinite(state.cost)
        best = chosen(better, state.learner, state.best)
        learner, lesson, anew = self._learned(JaxWorld(model.of(problem)), best, begin_key, learn_key)
        info = Info(
            learner=lesson.info,
            ok=lesson.ok & (report.transitions > 1),
            imagined=lesson.imagined,
            unexplained=report.unexplained,
            basis=report.basis.astype(cost.dtype),
            went_back=1.0 - better,
            anew=1.0 * anew,
        )
        return State(learner, best, jnp.minimum(cost, state.cost), experience), info

    def _learned(
        self, world: JaxWorld, best: Any, begin_key: Key, learn_key: Key
    ) -> tuple[Any, Lesson, Bool[Array, ""]]:
        """The learner after all rounds, from the best or anew; what it learned; whether it began anew."""
        old, fixed = eqx.partition(best, eqx.is_array)
        unknown = _of_unknown_dynamics(world.problem)
        begun = [self.learner.init(unknown, self.imagined, key) for key in jax.random.split(begin_key, self.starts - 1)]
        starts = jax.tree.map(lambda *leaves: jnp.stack(leaves), old, *(eqx.filter(one, eqx.is_array) for one in begun))
        keys = jax.random.split(learn_key, self.starts)
        ends, lessons = jax.lax.map(lambda at: self._taught(world, fixed, *at), (starts, keys))
        promised = jnp.nan_to_num(lessons.imagined, nan=jnp.inf, posinf=jnp.inf)
        saved = self._imagined(world, best, learn_key) - promised
        i = jnp.where(saved[0] < WORTH * saved.max(), jnp.argmax(saved), 0)
        end, lesson = jax.tree.map(lambda leaf: leaf[i], (ends, lessons))
        return eqx.combine(end, fixed), lesson, i > 0

    def _taught(self, world: JaxWorld, fixed: Any, arrays: Any, key: Key) -> tuple[Any, Lesson]:
        """The arrays of the learner after all rounds, and what it learned."""
        test_key, *keys = jax.random.split(key, self.rounds + 1)

        def learn(arrays: Any, key: Key):
            old, (world_key, update_key) = eqx.combine(arrays, fixed), jax.random.split(key)
            rollouts = world.rollout(self.learner.explore(old), self.imagined, world_key)
            new, info = self.learner.update(world.problem, old, rollouts, update_key)
            return eqx.filter(chosen(info.ok.any(), new, old), eqx.is_array), info

        arrays, infos = jax.lax.scan(learn, arrays, jnp.stack(keys))
        imagined = self._imagined(world, eqx.combine(arrays, fixed), test_key)
        last = jax.tree.map(lambda leaf: leaf[-1], infos)
        return arrays, Lesson(last, infos.ok.any(0), imagined)

    def _imagined(self, world: JaxWorld, learner: Any, key: Key) -> Float[Array, ""]:
        """What a noise-free episode of the learner's newest policy is imagined to cost."""
        return world.rollout(self.learner.latest(learner), self.imagined, key).cost.sum(-1).mean()


def _of_unknown_dynamics(problem: Problem) -> Problem:
    """The problem as who does not know its dynamics has it."""
    return eqx.tree_at(lambda p: p.dynamics, problem, None, is_leaf=lambda leaf: leaf is None)
