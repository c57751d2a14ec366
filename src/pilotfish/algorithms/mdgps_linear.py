"""MDGPS where it is exact: one time-varying linear-Gaussian controller for all conditions (MDGPS, Algorithm 2).

    C-step   the best controller of each condition within a trust region about the one   updates/c_step
    S-step   the one nearest to these, in closed form                                    updates/projection.py

With linear dynamics and a quadratic cost that is mirror descent: nothing is linearised, and the projection is exact.
The network of `mdgps` is what takes the controller's place on everything else.
"""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pilotfish.algebra import chain, gaussian
from pilotfish.algebra.batch import chosen, each
from pilotfish.algorithms import Algorithm, check_number
from pilotfish.models import local, regressed
from pilotfish.models.cost import CostExpansion
from pilotfish.models.dynamics import FittedDynamics
from pilotfish.models.learned_dynamics import Experience
from pilotfish.models.local import LocalModel
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.types import DECREASE, Gaussian, Key, LinearGaussian, Problem, Rollouts, Shown
from pilotfish.updates.c_step import CStep, Objective, c_step
from pilotfish.updates.projection import projection


class State(NamedTuple):
    """What the next iteration needs."""

    controller: LinearGaussian
    """The one, leading axis T."""
    eta: Float[Array, "N"]
    """Multiplier of the last trust region of each condition, nan before the first."""
    transitions: regressed.Memory | Experience | None
    """What the dynamics' prior remembers of each condition; None without one."""


class Info(NamedTuple):
    """What an iteration reports. Means are over time steps and conditions."""

    ok: Bool[Array, "N"]
    """False for a condition that taught nothing: its fitted dynamics in closed loop with the controller overflow, or
    too few transitions were there to fit any."""
    kl: Annotated[
        Float[Array, ""], Shown("KL of a step", "nats", bound="kl_step", column="KL", form="{:.3f}", label="mean")
    ]
    """Mean expected KL of the local controllers to the last one, in the model, nats a step."""
    kl_max: Annotated[Float[Array, ""], Shown("KL of a step", "nats", label="largest")]
    """The largest mean over the steps of a condition."""
    entropy: Annotated[Float[Array, ""], Shown("entropy of a step's actions", "nats", column="entropy", form="{:.2f}")]
    """Mean entropy of the new controller's actions, nats a step."""
    eta: Annotated[Float[Array, ""], Shown("multiplier of the trust region", scale="log")]
    """Median multiplier of the trust region, in units of the cost."""
    predicted: Annotated[Float[Array, ""], Shown(DECREASE, label="promised")]
    """Mean decrease of the expected cost of an episode that the models promise of the new controller."""
    projected: Annotated[Float[Array, ""], Shown("KL of the local controllers to their projection", "nats")]
    """Mean expected KL of the local controllers to the new one, nats a step: what one controller for all cannot do."""


class MDGPSLinear(Algorithm):
    """Mirror descent in the space of one linear-Gaussian controller for all conditions."""

    kl_step: float = 0.1
    """Bound on the expected KL of a condition's controller to the last one, nats a step (paper: eps / T)."""
    dynamics: FittedDynamics = FittedDynamics()
    """How the dynamics are fitted."""
    cost: CostExpansion = CostExpansion()
    """How the cost becomes quadratic."""

    @property
    def defaults(self) -> tuple[int, int]:
        return 20, 20

    def __check_init__(self):
        check_number(self, "kl_step", lambda v: v > 0, "the bound on the KL must be positive")

    def init(self, problem: Problem, episodes: int, key: Key) -> State:
        """The mean of the problem's first controllers; nothing is known of the dynamics."""
        N, memory = len(problem.conditions.mean), local.begin(self.dynamics, problem, episodes)
        return State(
            controller=jax.tree.map(lambda leaf: leaf.mean(0), problem.first_controller),
            eta=jnp.full(N, jnp.nan, float),
            transitions=memory,
        )

    def explore(self, state: State) -> LinearGaussianPolicy:
        N = len(state.eta)
        return LinearGaussianPolicy(
            jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (N, *leaf.shape)), state.controller)
        )

    def exploit(self, state: State) -> LinearGaussianPolicy:
        return self.explore(state).noise_free()

    def update(self, problem: Problem, state: State, rollouts: Rollouts, key: Key) -> tuple[State, Info]:
        N, data = len(state.eta), rollouts.cleaned()
        shared = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (N, *leaf.shape)), state.controller)
        transitions, model, enough = local.fits(self.dynamics, self.cost, problem, state.transitions, data, shared, key)
        new, step = mirror_descent(model, state.controller, self.kl_step, state.eta, enough)
        before, after = (jax.vmap(LocalModel.expected_cost, (0, None))(model, p) for p in (state.controller, new))
        told = step.found.sum()
        share = step.found / jnp.maximum(told, 1)
        report = Info(
            ok=step.found,
            kl=step.kl.mean(-1) @ share,
            kl_max=step.kl.mean(-1).max(),
            entropy=gaussian.entropy(new.chol).mean(),
            eta=jnp.nan_to_num(jnp.nanmedian(step.eta)),
            predicted=jnp.where(step.found, before - after, 0.0) @ share,
            projected=jnp.where(step.found, jax.vmap(lambda m, p: _kl(m, p, new))(model, step.controller), 0.0) @ share,
        )
        return State(new, step.eta.mean(-1), transitions), report

    def refusal(self, problem: Problem, state: State, rollouts: Rollouts, ok: Bool[Array, "N"]) -> str:
        return local.obstacle(self.cost, problem, rollouts, ok)


def mirror_descent(
    model: LocalModel,
    controller: LinearGaussian,
    kl_step: Float[Array, ""] | float,
    eta: Float[Array, "N"],
    enough: Bool[Array, "N"],
) -> tuple[LinearGaussian, CStep]:
    """The next controller, and the steps of the conditions whose projection it is.

    `model` has the leading axis N; the steps' controllers are in deviations from its nominal trajectories. Conditions
    without a step, or without data `enough`, do not count, and where none does the controller stays.
    """

    def improve(model: LocalModel, eta: Array) -> CStep:
        reference = model.nominal.inwards(controller)
        return c_step(model.start, model.dynamics, Objective(model.cost, model.final), reference, kl_step, guess=eta)

    def marginals(model: LocalModel, controller: LinearGaussian) -> Gaussian:
        z, _ = chain.forward(model.start, model.dynamics, controller)
        return Gaussian(z.mean + jnp.concatenate([model.nominal.x[:-1], model.nominal.u], -1), z.cov)

    step = each(improve, model, eta)
    found = step.found & enough
    step = step._replace(found=found)
    new = projection(
        jax.vmap(marginals)(model, step.controller), found / jnp.maximum(found.sum(), 1), controller.K.shape[-1]
    )
    return chosen(found.any(), new, controller), step


def _kl(model: LocalModel, p: LinearGaussian, controller: LinearGaussian) -> Float[Array, ""]:
    return chain.kl(model.start, model.dynamics, p, model.nominal.inwards(controller)).mean()
