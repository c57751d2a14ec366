"""REPS: episodic relative entropy policy search, also contextual (Kupcsik, Deisenroth, Peters & Neumann 2013).

Each iteration, from rollouts that follow one draw of a skill's parameters each:

    weights of the episodes, within a KL bound        updates/episodic.py, `shares`
    the distribution that is most likely under them   updates/episodic.py, `weighted_fit`, `weighted_regression`
    a skill with a vector of parameters               policies/episodic.py, policies/movement_primitive.py
    what is deployed: the mean

Every condition has a search of its own; or, contextual, there is one whose mean is linear in what is observed at the
start, and which learns from the rollouts of all conditions together.

| symbol  | paper           | code    |
| epsilon | (5)             | kl_step |
| s       | 3.1             | o0 - centre, white |
"""

from typing import Annotated, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from pilotfish.algebra import gaussian, regression
from pilotfish.algebra.batch import chosen, finite
from pilotfish.algorithms import Algorithm, check_number
from pilotfish.models.occupancy import effective_samples
from pilotfish.policies import Policy
from pilotfish.policies.episodic import ContextualPolicy, EpisodicPolicy, OpenLoop, Parametrisation
from pilotfish.policies.movement_primitive import MovementPrimitive  # noqa: F401  so that it can be a run's skill
from pilotfish.types import DECREASE, Key, LinearGaussian, Problem, Rollouts, Shown
from pilotfish.updates import episodic


class State(NamedTuple):
    """What the next iteration needs."""

    policy: EpisodicPolicy | ContextualPolicy


class Info(NamedTuple):
    """What an iteration reports. Means are over conditions; all are 0 for a condition that is not improved."""

    ok: Bool[Array, "N"]
    """False if fewer than two whole rollouts differ in cost: the condition keeps its search. Contextual, if the
    rollouts of all conditions are no more than the features that are matched."""
    kl: Annotated[Float[Array, ""], Shown("KL", "nats", bound="kl_step", column="KL", form="{:.3f}", label="mean")]
    """Mean KL of the episodes' weights to equal ones."""
    kl_max: Annotated[Float[Array, ""], Shown("KL", "nats", label="largest")]
    """The largest of them: at most `kl_step`."""
    kl_search: Annotated[Float[Array, ""], Shown("KL", "nats", label="of the search distribution")]
    """Mean KL of the new search distribution to the old: nothing bounds it."""
    entropy: Annotated[Float[Array, ""], Shown("entropy of the parameters", "nats", column="entropy", form="{:.2f}")]
    """Mean entropy of the new search distribution, in units of the first standard deviations."""
    eta: Annotated[Float[Array, ""], Shown("multipliers", scale="log")]
    """Median multiplier of the KL bound, in units of the cost."""
    ess: Annotated[Float[Array, ""], Shown("effective samples", scale="log", column="samples", form="{:.0f}")]
    """Mean effective number of weighted episodes."""
    predicted: Annotated[Float[Array, ""], Shown(DECREASE, label="promised")]
    """Mean decrease of the cost of an episode by the weights: of the episodes made, not of those to come."""


class REPS(Algorithm):
    """Episodic search: what follows cheap episodes is drawn more often, within a KL bound.

    Source: Peters, Muelling & Altun (2010); contextual: Kupcsik, Deisenroth, Peters & Neumann (2013). ValueError for a
    setting out of its range, or for a context that never varies.

    Example:

    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> result = pf.train(pf.REPS(kl_step=0.7), LinearQuadratic().world(), rollouts=40, iterations=3)
    >>> bool(result.metrics["cost"][0, -1] < result.metrics["cost"][0, 0])  # (seed, iteration)
    True
    """

    kl_step: float = 0.7
    """Bound on the KL of the weights to equal ones, nats (paper: epsilon)."""
    prior: float = 1.0
    """Samples for each parameter as which the old covariance counts in the new one."""
    contextual: bool = eqx.field(static=True, default=False)
    """Whether there is one search for all conditions, whose mean is linear in what is observed at the start."""
    skill: Parametrisation = OpenLoop()
    """What the parameters are."""

    @property
    def defaults(self) -> tuple[int, int]:
        return 40, 50

    def __check_init__(self):
        check_number(self, "kl_step", lambda v: v > 0, "the bound on the KL must be positive")
        check_number(self, "prior", lambda v: v > 0, "without prior samples the covariance may become singular")

    def traceable(self, problem: Problem) -> bool:
        return self.skill.traceable(problem)

    def caution(self, problem: Problem, episodes: int) -> str:
        n, N = self.skill.skill(problem).J.shape[-1], len(problem.conditions.mean)
        known = episodes * (N if self.contextual else 1)
        if known >= n:
            return ""
        return (
            f"reps draws {known} episodes an iteration in a space of {n} parameters: it will be slow. Give more "
            "--rollouts, or fewer --algorithm.skill.features."
        )

    def init(self, problem: Problem, episodes: int, key: Key) -> State:
        """Parameters of magnitude 1, in the skill's units, about the problem's first controller."""
        skill = self.skill.skill(problem)
        if not self.contextual:
            return State(EpisodicPolicy.first(skill))
        starts, cov = problem.conditions.mean, problem.conditions.cov
        alike = not isinstance(cov, Tracer) and not np.any(cov) and not np.ptp(np.asarray(starts), axis=0).any()
        if alike and problem.dynamics is not None:  # of a robot or a game nobody knows how it begins
            raise ValueError(
                "contextual=True: all episodes begin in the same state, so the context never varies. Give several "
                "conditions, or one with a covariance; or leave it out."
            )
        return State(ContextualPolicy.first(skill, jax.vmap(problem.observe)(starts).mean(0)))

    def explore(self, state: State) -> Policy:
        return state.policy

    def exploit(self, state: State) -> Policy:
        """The mean parameters."""
        return state.policy.noise_free()

    def update(self, problem: Problem, state: State, rollouts: Rollouts, key: Key) -> tuple[State, Info]:
        return _update(self, state, rollouts)

    def refusal(self, problem: Problem, state: State, rollouts: Rollouts, ok: Bool[Array, "N"]) -> str:
        return episodic.obstacle(rollouts)


@eqx.filter_jit
def _update(algorithm: REPS, state: State, rollouts: Rollouts) -> tuple[State, Info]:
    """Compiled also where the skill cannot be."""
    policy, valid = state.policy, rollouts.valid
    cost, w = jnp.where(valid, rollouts.cleaned().cost.sum(-1), 0.0), rollouts.episode.w
    if isinstance(policy, EpisodicPolicy):
        one = jax.vmap(lambda *condition: _improve(algorithm, *condition))
        mean, chol, (ok, weighted, kl, decrease) = one(policy.mean, policy.chol, w, cost, valid)
        new = EpisodicPolicy(mean, chol, policy.skill)
    else:
        pooled = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), (w, rollouts.o[:, :, 0], cost, valid))
        search, (enough, weighted, kl, decrease) = _improve_in_context(algorithm, policy, *pooled)
        new, chol = ContextualPolicy(search, policy.centre, policy.skill), search.chol
        ok = enough & valid.any(-1)
    return State(new), Info(
        ok=ok,
        kl=weighted.kl.mean(),
        kl_max=weighted.kl.max(),
        kl_search=kl.mean(),
        entropy=gaussian.entropy(chol).mean(),
        eta=jnp.median(weighted.eta),
        ess=jnp.nan_to_num(effective_samples(weighted.share)).mean(),
        predicted=decrease.mean(),
    )


def _improve(algorithm: REPS, mean: Array, chol: Array, w: Array, cost: Array, valid: Array):
    """One condition."""
    before, differ = episodic.comparable(cost, valid)
    e = gaussian.solve_chol(chol, (w - mean).T).T
    weighted = episodic.shares(cost, before, algorithm.kl_step)
    shift, factor = episodic.weighted_fit(e, weighted.share, algorithm.prior * w.shape[-1])
    new = mean + chol @ shift, chol @ factor
    told = weighted, episodic.white_kl(shift, factor), before @ cost - weighted.share @ cost
    ok = differ & finite((new, told))
    new, told = chosen(ok, (new, told), ((mean, chol), jax.tree.map(jnp.zeros_like, told)))
    return *new, (ok, *told)


def _improve_in_context(algorithm: REPS, policy: ContextualPolicy, w: Array, o: Array, cost: Array, valid: Array):
    """The one search of all conditions."""
    p, s = policy.search, o - policy.centre
    before, differ = episodic.comparable(cost, valid)
    s = jnp.where(valid[:, None], s, 0.0)
    at, std = regression.standard(s, before, o)
    white = jnp.where(std > 0, (s - at) / jnp.where(std > 0, std, 1.0), 0.0)
    e = gaussian.solve_chol(p.chol, (w - jax.vmap(p.mean)(s)).T).T
    phi = episodic.matched(white, before)
    weighted = episodic.shares(cost, before, algorithm.kl_step, phi)
    step = episodic.weighted_regression(e, white, weighted.share, algorithm.prior * w.shape[-1])
    gain = p.chol @ jnp.where(std > 0, step.K / jnp.where(std > 0, std, 1.0), 0.0)
    new = LinearGaussian(p.K + gain, p.k + p.chol @ step.k - gain @ at, p.chol @ step.chol)
    kl = before @ episodic.white_kl(white @ step.K.T + step.k, step.chol)
    told = weighted, kl, before @ cost - weighted.share @ cost
    ok = differ & (valid.sum() > (jnp.abs(phi).max(0) > 0).sum() + 1) & finite((new, told))
    new, told = chosen(ok, (new, told), (p, jax.tree.map(jnp.zeros_like, told)))
    return new, (ok, *told)
