"""What is believed of one condition: where its episodes begin, its dynamics, and its cost.

All three are made in deviations from the mean trajectory of the condition's rollouts (models/nominal.py).
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pilotfish.algebra import chain, gaussian, quadratic, regression
from pilotfish.algebra.batch import each
from pilotfish.models import regressed
from pilotfish.models.cost import CostExpansion, final_formula, without_derivative
from pilotfish.models.dynamics import FittedDynamics
from pilotfish.models.learned_dynamics import Experience, Learned
from pilotfish.models.nominal import Nominal
from pilotfish.types import Gaussian, Key, LinearDynamics, LinearGaussian, Problem, Quadratic, Rollouts


class LocalModel(NamedTuple):
    """The distribution of `x_0`, and dynamics and cost of all steps, in deviations from `nominal`."""

    nominal: Nominal
    start: Gaussian
    dynamics: LinearDynamics
    cost: Quadratic
    final: Quadratic

    def inwards(self, controller: LinearGaussian) -> LinearGaussian:
        """A controller in users' units as a function of the deviations."""
        return self.nominal.inwards(controller)

    def outwards(self, controller: LinearGaussian) -> LinearGaussian:
        """The inverse of `inwards`."""
        return self.nominal.outwards(controller)

    def expected_cost(self, controller: LinearGaussian) -> Float[Array, ""]:
        """Expected cost of an episode of a controller in users' units; leading axis T."""
        z, last = chain.forward(self.start, self.dynamics, self.nominal.inwards(controller))
        return quadratic.expectation(self.cost, z).sum() + quadratic.expectation(self.final, last)


def imagined(
    problem: Problem, model: LocalModel, controllers: LinearGaussian, visited: Rollouts, episodes: int, key: Key
) -> Rollouts:
    """Episodes of new controllers in the models of N conditions, as rollouts without a cost.

    The new controllers will go where those that were rolled out have not been: whoever learns from them should see
    those states too. A model is believed near its data only. So an episode breaks off where it leaves the box of all
    states that were `visited` from any condition, doubled about its middle. An entry that never changed but for
    rounding stays as it is.
    """
    low, high = _box(visited)
    rounding = regression.ROUNDING * jnp.finfo(low.dtype).eps * jnp.maximum(jnp.abs(low), jnp.abs(high))
    varies, margin = high - low > rounding, (high - low) / 2
    low, high = low - jnp.maximum(margin, rounding), high + jnp.maximum(margin, rounding)

    def episode(model: LocalModel, controller: LinearGaussian, key: Key) -> Rollouts:
        dx, u = _simulated(model, model.nominal.inwards(controller), varies, key)
        x, u = dx + model.nominal.x, u + model.nominal.u
        inside = ((x >= low) & (x <= high)).all(-1)
        steps = jnp.cumprod(inside[:-1] & inside[1:]).sum()
        return Rollouts(x, jax.vmap(problem.observe)(x), u, jnp.zeros(len(x)), steps, None)

    keys = jax.random.split(key, (len(controllers.k), episodes))
    return jax.vmap(jax.vmap(episode, (None, None, 0)))(model, controllers, keys).cleaned()


def with_imagined(
    problem: Problem, model: LocalModel, controllers: LinearGaussian, rollouts: Rollouts, episodes: int, key: Key
) -> Rollouts:
    """The rollouts, and from each condition as many imagined `episodes` of the controllers."""
    if episodes == 0:
        return rollouts
    more = imagined(problem, model, controllers, rollouts, episodes, key)
    rollouts = eqx.tree_at(lambda r: r.episode, rollouts, None, is_leaf=lambda leaf: leaf is None)
    return jax.tree.map(lambda *both: jnp.concatenate(both, 1), rollouts, more)


def _box(rollouts: Rollouts) -> tuple[Float[Array, "dx"], Float[Array, "dx"]]:
    """The smallest and largest value of each entry of the state."""
    reached = jnp.concatenate([rollouts.happened[..., :1], rollouts.happened], -1)[..., None]
    return (
        jnp.where(reached, rollouts.x, jnp.inf).min((0, 1, 2)),
        jnp.where(reached, rollouts.x, -jnp.inf).max((0, 1, 2)),
    )


def _simulated(
    model: LocalModel, p: LinearGaussian, varies: Bool[Array, "dx"], key: Key
) -> tuple[Float[Array, "T1 dx"], Float[Array, "T du"]]:
    """States and actions of an episode, in deviations; only some entries vary."""
    first, *keys = jax.random.split(key, 1 + len(p.k))

    def drawn(x: Gaussian, key: Key) -> Float[Array, "dx"]:
        return jnp.where(
            varies, gaussian.draw(Gaussian(x.mean, jnp.where(jnp.outer(varies, varies), x.cov, 0)), key), 0
        )

    def step(x: Float[Array, "dx"], now: tuple[LinearDynamics, LinearGaussian, Key]):
        f, p, key = now
        act, move = jax.random.split(key)
        u = p.mean(x) + p.chol @ jax.random.normal(act, p.k.shape)
        return drawn(Gaussian(f.A @ x + f.B @ u + f.c, f.cov), move), (x, u)

    last, (x, u) = jax.lax.scan(step, drawn(model.start, first), (model.dynamics, p, jnp.stack(keys)))
    return jnp.concatenate([x, last[None]]), u


def begin(dynamics: FittedDynamics, problem: Problem, episodes: int) -> regressed.Memory | Experience | None:
    """What conditions remember before their first rollouts. ValueError, in the user's words, where no model can be
    fitted: `episodes` an iteration are too few, or only the world knows what the end of an episode costs.
    """
    final_formula(problem)
    return dynamics.begin(problem, episodes)


def fits(
    dynamics: FittedDynamics,
    cost: CostExpansion,
    problem: Problem,
    memory: Any,
    rollouts: Rollouts,
    controllers: LinearGaussian,
    key: Key,
) -> tuple[Any, LocalModel, Bool[Array, "N"]]:
    """What N conditions remember after the `cleaned` rollouts of their controllers, what is believed of each, and
    whether its transitions were enough for that.
    """
    model = None
    if isinstance(memory, Experience):
        key, learn_key = jax.random.split(key)
        memory, model, _ = dynamics.learned.fit(problem, memory, rollouts, learn_key)

    def of_one(memory: Any, rollouts: Rollouts, controller: LinearGaussian, key: Key):
        return fit(dynamics, cost, problem, memory, rollouts, controller, model, key)

    keys = jax.random.split(key, len(controllers.k))
    own, believed, enough = each(of_one, memory if model is None else None, rollouts, controllers, keys)
    return own if model is None else memory, believed, enough


def fit(
    dynamics: FittedDynamics,
    cost: CostExpansion,
    problem: Problem,
    memory: Any,
    rollouts: Rollouts,
    controller: LinearGaussian,
    model: Learned | None,
    key: Key,
) -> tuple[Any, LocalModel, Bool[Array, ""]]:
    """The same of one condition; `model` is what was learned of all states, if that is their prior."""
    nominal = Nominal.of(rollouts)
    start = Gaussian(*regression.moments(rollouts.x[:, 0] - nominal.x[0], rollouts.weight[:, 0]))
    memory, fitted, enough = dynamics.fit(memory, rollouts, nominal, start, nominal.inwards(controller), model, key)
    return memory, LocalModel(nominal, start, fitted, *cost(problem, rollouts, nominal)), enough


def obstacle(cost: CostExpansion, problem: Problem, rollouts: Rollouts, ok: Bool[Array, "N"]) -> str:
    """Why no model was made of the conditions that are not `ok`, in words for the user; "" if that is not known."""
    refused = jax.tree.map(lambda leaf: leaf[~ok], rollouts)
    points = refused if cost.at == "samples" else jax.vmap(Nominal.of)(refused.cleaned())
    dx, du, T = problem.dx, problem.du, problem.horizon
    return without_derivative(problem, points.x.reshape(-1, T + 1, dx), points.u.reshape(-1, T, du))
