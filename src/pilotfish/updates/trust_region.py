"""How far a plan on learned dynamics may go from an episode that happened, and the feedback by which it is followed.

Ours. What was learned from a few episodes is right near them, and an optimiser goes where it is wrong. So a plan stays
about the cheapest episode so far, c. With s the standard deviations of all states that are remembered,

    minimise the plan's cost   s.t.   |x - c| <= radius,      |x - c|^2 = mean over t and i of  ((x_ti - c_ti) / s_i)^2

by a multiplier, which every step of iLQG moves towards the one that keeps the bound. The radius has no unit, is the
same for few entries of the state and for many, and follows what episodes say:

    saved < 1/5 of what was promised   radius <- SHRINK min(radius, distance of the plan)
    saved > 1/2                        radius <- GROWTH radius

It may begin infinite, and is then no more than BOUNDED after two such disappointments in a row.

A plan that begins elsewhere has no such bound. It is taken freely while the radius is infinite; then only where the
other promises to save less than a tenth, or the last one did not come true within the least radius; and not twice in a
row unless it saved what it promised.

The feedback of the plan itself does not hold it, as early deviations cost nothing yet, and there is none in actions at
a limit. Plans are followed by the gains that are best for

    sum_t |(x_t - plan) / s|^2 + |(u_t - plan) / (stiffness initial_std)|^2,

where entries of the state do not count that only hand on what past actions were.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pilotfish.algebra.batch import chosen, each
from pilotfish.algebra.riccati import lqr
from pilotfish.types import Dynamics, LinearDynamics, LinearGaussian, Problem, Quadratic, Rollouts
from pilotfish.updates import ilqg_step
from pilotfish.updates.best_so_far import BestSoFar, spent
from pilotfish.updates.ilqg_step import Trajectory

LITTLE, MUCH = 0.2, 0.5
"""Parts of the promised decrease below and above which the radius changes."""
SHRINK, GROWTH = 0.6, 1.5
BOUNDED = 0.5
"""Largest radius with which a bound begins."""
LEAST = 0.02
"""Smallest radius: the noise of an episode alone leads as far, and says nothing of the plan."""
DONE = 0.1
"""Part of the cost below which what a plan promises is taken to be nothing."""
SETTLED, GAINED = 1e-3, 1e-2
"""A plan is done where its next step, and the price of its bound, are worth less than such a part of its cost and of
what its steps have gained so far, which does not depend on where costs have their zero."""
KEPT = 1.02
"""How far beyond the radius a plan may be that is done."""
STEADY = 3.0
"""Largest factor by which a step changes the multiplier."""
SLIGHT = 1e-3
"""Entries of the next state do not depend on one that moves them by less, both in standard deviations."""
RANGE = 1e6
"""Largest multiplier, and one over the smallest, in units of a step's mean cost."""


class TrustRegion(NamedTuple):
    """Where plans are believed; leading axis: the condition."""

    x: Float[Array, "N T1 dx"]
    """The cheapest episode so far."""
    u: Float[Array, "N T du"]
    """Its executed actions."""
    radius: Float[Array, "N"]
    distance: Float[Array, "N"]
    """Of the last plan from the episode about which it was made."""
    multiplier: Float[Array, "N"]
    """Of the bound, in units of a step's mean cost: where the next search for it begins."""
    elsewhere: Bool[Array, "N"]
    """Whether the last plan began elsewhere."""
    failed: Bool[Array, "N"]
    """Whether the last plan saved too little."""

    @classmethod
    def begin(cls, problem: Problem, radius: Array | float) -> "TrustRegion":
        """Before the first episode, which is anything."""
        N, T = len(problem.conditions.mean), problem.horizon
        return cls(
            x=jnp.zeros((N, T + 1, problem.dx)),
            u=jnp.zeros((N, T, problem.du)),
            radius=jnp.full(N, radius, float),
            distance=jnp.zeros(N),
            multiplier=jnp.ones(N),
            elsewhere=jnp.zeros(N, bool),
            failed=jnp.zeros(N, bool),
        )

    def after(
        self, problem: Problem, best: BestSoFar, promised: Float[Array, "N"], rollouts: Rollouts
    ) -> "TrustRegion":
        """The region after rollouts of a plan that promised this cost; `best` is what was best before them."""
        cost = spent(rollouts)
        hoped = best.cost - promised
        part = (best.cost - cost) / jnp.where(hoped > 0, hoped, jnp.nan)  # nan: nothing was promised, nothing is told
        little, much, bounded = part < LITTLE, part > MUCH, jnp.isfinite(self.radius)
        blamed = little & jnp.where(bounded, ~self.elsewhere, self.failed)
        shrunk = jnp.minimum(SHRINK * jnp.minimum(self.radius, self.distance), jnp.where(bounded, jnp.inf, BOUNDED))
        grown = GROWTH * jnp.where(self.elsewhere, jnp.maximum(self.radius, self.distance), self.radius)
        radius = jnp.where(blamed, shrunk, jnp.where(much, grown, self.radius))
        cheapest = jnp.argmin(jnp.where(rollouts.valid, rollouts.cost.sum(-1), jnp.inf), 1)
        N = jnp.arange(len(cheapest))
        new = rollouts.x[N, cheapest], problem.admissible(rollouts.u[N, cheapest])
        x, u = chosen(cost < best.cost, new, (self.x, self.u))
        return self._replace(x=x, u=u, radius=jnp.maximum(radius, LEAST), failed=little)


class Near(eqx.Module):
    """A step's cost, and a price on the distance from an episode."""

    problem: Problem
    x: Float[Array, "T1 dx"]
    weight: Float[Array, "dx"]

    def __call__(self, x: Float[Array, "dx"], u: Float[Array, "du"], t: Int[Array, ""]) -> Float[Array, ""]:
        assert self.problem.cost is not None
        return self.problem.cost(x, u, t) + self.weight @ (x - self.x[t]) ** 2

    def final(self, x: Float[Array, "dx"]) -> Float[Array, ""]:
        """The same of the last state."""
        assert self.problem.final_cost is not None
        return self.problem.final_cost(x) + self.weight @ (x - self.x[-1]) ** 2

    @property
    def priced(self) -> Problem:
        """The problem with these costs."""
        return eqx.tree_at(lambda p: (p.cost, p.final_cost), self.problem, (self, self.final))


def planned(
    problem: Problem,
    region: TrustRegion,
    first: LinearGaussian,
    spread: Float[Array, "dx"],
    steps: int,
    sufficient_decrease: Array | float,
    regularisation: Array | float = 0.0,
) -> tuple[Trajectory, TrustRegion]:
    """The cheapest plans within the region that at most so many steps find from where the first controllers lead, and
    the region with their distance. Their cost has no price in it.
    """

    def of_condition(start: Array, first: LinearGaussian, region: TrustRegion) -> tuple[Trajectory, TrustRegion]:
        alone = jax.tree.map(lambda leaf: leaf[None], first)
        return _planned(problem, region, start[None], alone, spread, steps, sufficient_decrease, regularisation)

    return each(of_condition, problem.conditions.mean, first, region)


def _planned(
    problem: Problem,
    region: TrustRegion,
    start: Float[Array, "1 dx"],
    first: LinearGaussian,
    spread: Float[Array, "dx"],
    steps: int,
    sufficient_decrease: Array | float,
    regularisation: Array | float,
) -> tuple[Trajectory, TrustRegion]:
    """Of one condition, whose region has no axis for it."""
    unit, bounded = jnp.abs(problem.costs(region.x, region.u)).mean(), jnp.isfinite(region.radius)
    unit = jnp.where(unit > 0, unit, 1.0)
    weight = unit / _varying(spread) / jnp.where(bounded & (spread > 0), spread, jnp.inf) ** 2

    def unfinished(carry: tuple) -> Array:
        *_, i, done = carry
        return (i < steps) & ~done

    def step(carry: tuple) -> tuple:
        now, multiplier, i, _ = carry
        priced = Near(problem, region.x, multiplier * weight).priced
        now = now._replace(cost=priced.costs(now.x[0], now.u[0]).sum()[None])
        now, told = ilqg_step.improved(priced, _known(problem), now, sufficient_decrease)
        part = distance(now.x[0], region.x, spread) / region.radius
        price = multiplier * unit * len(region.x) * region.radius**2 * jnp.abs(part**2 - 1.0)
        least = jnp.minimum(SETTLED * jnp.abs(now.cost[0]), GAINED * jnp.abs(begun.cost[0] - now.cost[0]))
        kept = ~bounded | (part <= KEPT) & (price <= least)
        done = kept & (told.expected[0] <= least) & (now.regularisation[0] == 0.0)
        factor = jnp.clip(part, 1.0 / STEADY, STEADY)
        return now, jnp.clip(multiplier * factor, 1.0 / RANGE, RANGE), i + 1, done

    priced = Near(problem, region.x, region.multiplier * weight).priced
    begun = ilqg_step.begin(priced, _known(problem), start, first, regularisation)
    at_first: tuple = begun, region.multiplier, jnp.asarray(0), jnp.asarray(False)
    plans, multiplier, *_ = jax.lax.while_loop(unfinished, step, at_first)
    plan: Trajectory = jax.tree.map(lambda leaf: leaf[0], plans)
    plan = plan._replace(cost=problem.costs(plan.x, plan.u).sum())
    far = distance(plan.x, region.x, spread)
    return plan, region._replace(distance=far, multiplier=jnp.where(bounded, multiplier, 1.0))


def preferred(
    best: Float[Array, "N"], within: tuple[Trajectory, TrustRegion], elsewhere: tuple[Trajectory, TrustRegion]
) -> tuple[Trajectory, TrustRegion]:
    """For each condition the plan to follow, the one within the region or one that began elsewhere, and what is then
    known of the region; episodes cost `best` so far.
    """
    (plan, region), (other, _) = within, elsewhere
    usable = jnp.isfinite(plan.cost)
    nothing = (plan.cost > best - DONE * jnp.abs(best)) | (region.failed & (region.radius <= LEAST))
    free = jnp.isinf(region.radius) | nothing & ~(region.elsewhere & region.failed) | ~usable
    taken = free & jnp.isfinite(other.cost) & ((other.cost < plan.cost) | ~usable)
    plan, region = chosen(taken, elsewhere, within)
    return plan, region._replace(elsewhere=taken)


def followed(
    problem: Problem, plan: Trajectory, spread: Float[Array, "dx"], stiffness: Array | float
) -> LinearGaussian:
    """Controllers without noise that hold the plans."""
    model = _known(problem).linearised(problem, plan.x[:, :-1], plan.u)
    counts = (spread > 0) & ~_echoes(jnp.asarray(model.A), spread)
    state = 2.0 / jnp.where(counts, spread, jnp.inf) ** 2
    action = 2.0 / (stiffness * problem.initial_std) ** 2
    T, du, dx = problem.horizon, problem.du, problem.dx

    def of_condition(A: Array, B: Array, x: Array, u: Array) -> LinearGaussian:
        deviations = LinearDynamics(A, B, jnp.zeros((T, dx)), jnp.zeros((T, dx, dx)))
        H = jnp.broadcast_to(jnp.diag(jnp.concatenate([state, action])), (T, dx + du, dx + du))
        final = Quadratic(jnp.diag(state), jnp.zeros(dx), jnp.zeros(()))
        K = lqr(deviations, Quadratic(H, jnp.zeros((T, dx + du)), jnp.zeros(T)), final)[0].K
        return LinearGaussian(K, ilqg_step.offsets(K, x, u), jnp.zeros((T, du, du)))

    return jax.vmap(of_condition)(jnp.asarray(model.A), jnp.asarray(model.B), plan.x, plan.u)


def _echoes(A: Float[Array, "N T dx dx"], spread: Float[Array, "dx"]) -> Bool[Array, "dx"]:
    """Entries that only hand on past actions, which may come late: they depend on no others but such. That they are as
    planned is nothing of itself, and an action that corrects what counts must not be spared for their sake.
    """
    scale = jnp.where(spread > 0, spread, jnp.inf)
    depends = (jnp.abs(A) * jnp.where(spread > 0, spread, 0.0) / scale[:, None]).max((0, 1)) > SLIGHT
    none = jnp.zeros(len(spread), bool)
    return jax.lax.fori_loop(0, len(spread), lambda _, echoes: ~(depends & ~echoes).any(1), none)


def distance(
    x: Float[Array, "*batch T1 dx"], c: Float[Array, "*batch T1 dx"], spread: Float[Array, "dx"]
) -> Float[Array, "*batch"]:
    """Between trajectories: root mean square, over time and the entries that vary, in standard deviations."""
    scale = jnp.where(spread > 0, spread, jnp.inf)
    return jnp.sqrt((((x - c) / scale) ** 2).sum(-1).mean(-1) / _varying(spread))


def _varying(spread: Float[Array, "dx"]) -> Int[Array, ""]:
    """How many entries of the state vary, or 1."""
    return jnp.maximum((spread > 0).sum(), 1)


def _known(problem: Problem) -> Dynamics:
    assert problem.dynamics is not None
    return problem.dynamics
