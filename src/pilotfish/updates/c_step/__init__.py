"""The C-step of guided policy search: KL-constrained LQR on linear-Gaussian dynamics.

    minimise  E_p [ sum_t l_t(x_t, u_t) + l_T(x_T) ] - sum_t tau_t H(p_t)   over time-varying linear-Gaussian p

    s.t.      sum_t E_p KL(p to q) <= T kl_step       (trust region "trajectory", GPS'14 and MDGPS)
    or        E_p KL(p_t to q_t)   <= kl_step         for every t (trust region "step")

with quadratic costs l, fitted dynamics `x' ~ N(Ax + Bu + c, F)` and a reference controller q: the previous local
controller, or the linearised global policy. The expectations, of the cost and of the KL, are under p's own states. The
weights tau_t of the entropy H are 0 but where a system ties p to a policy (`Objective.tied`).

    white.py          coordinates in which q is N(0, I) about its mean trajectory, and everything is linear
    passes.py         backward for given multipliers eta_t, forward for the KL
    policy_kl.py      the same, with a price on the distance of a policy to p (GPS'14)
    multipliers.py    the eta_t that meet the bound

The KL ends at its bound at most, and above .99 of it or where the bound is slack. Two things can keep it lower: a KL
that rounding makes jump, where the model grows by more than 1e10 over an episode or a step of a nonconvex problem lies
at the edge of what is definite; and the limit of passes. Where the result is not finite there is no step, and q is
kept: mostly since q itself, in closed loop with the fitted dynamics, grows beyond all bounds.

| symbol | paper             | code    |
| eps    | MDGPS (2)         | kl_step |
| eta    | GPS'14, section 3 | eta     |
| p_hat  | MDGPS, section 4  | q       |
| nu_t   | BADMM             | nu      |
| lambda | BADMM             | lam     |
"""

import functools
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pilotfish.algebra import gaussian
from pilotfish.algebra.batch import chosen, finite
from pilotfish.types import Gaussian, LinearDynamics, LinearGaussian, Quadratic
from pilotfish.updates.c_step import multipliers, passes, policy_kl, white

TrustRegion = Literal["trajectory", "step"]

FAR = 10.0
"""How far from the first-order estimate of log eta a search begins at most."""


class Covered(NamedTuple):
    """GPS'14's term `sum_t weight_t E_p KL(policy_t to p_t)`; leading axis T."""

    policy: LinearGaussian
    weight: Float[Array, "T"]
    """Price of the KL, in units of the cost, 0 or more (paper: lambda_t)."""


class Objective(NamedTuple):
    """What is minimised."""

    cost: Quadratic
    """Of each step, over z = [x; u]; leading axis T."""
    final: Quadratic
    """Over the last x."""
    temper: Float[Array, "T"] | float = 0.0
    """Weight of each step's entropy, in units of the cost, 0 or more (paper: tau)."""
    covered: "Covered | None" = None
    """A policy that p should cover, if there is one."""

    def tied(self, policy: LinearGaussian, nu: Float[Array, "T"], lam: Float[Array, "T du"]) -> "Objective":
        """With BADMM's terms: `- lambda_t'u` and `nu_t KL(p to policy)` in every step.

        The KL is `-H(p) - E log policy`, of which the second part is quadratic in z.
        """
        dx = policy.K.shape[-1]
        eye = jnp.broadcast_to(jnp.eye(policy.k.shape[-1]), policy.chol.shape)
        # e = chol^-1 (u - Kx - k) = F z - f, and -log policy = e'e / 2 + log|chol|, up to a constant
        inverse = gaussian.solve_chol(policy.chol, eye)
        F = jnp.concatenate([-inverse @ policy.K, inverse], -1)
        f = jnp.einsum("tij,tj->ti", inverse, policy.k)
        H = nu[:, None, None] * F.mT @ F
        h = -nu[:, None] * jnp.einsum("tij,ti->tj", F, f)
        c = nu * 0.5 * ((f**2).sum(-1) + gaussian.log_det(policy.chol) + policy.k.shape[-1] * gaussian.LOG_2PI)
        h = h.at[:, dx:].add(-lam)
        cost = Quadratic(self.cost.H + H, self.cost.h + h, self.cost.c + c)
        return self._replace(cost=cost, temper=self.temper + nu)


class CStep(NamedTuple):
    """The new controller, and how it was found."""

    controller: LinearGaussian
    """Over time; the reference itself where no step exists."""
    eta: Float[Array, "T"]
    """Multiplier of each step's KL, in units of the cost; nan where no step exists."""
    kl: Float[Array, "T"]
    """Expected KL of each step, nats, under the new controller's states in the model."""
    passes: Int[Array, ""]
    """Backward passes, that of the first-order estimate included."""
    found: Bool[Array, ""]
    """False if there is no step: the model, in closed loop with the reference, overflows."""


def c_step(
    start: Gaussian,
    dynamics: LinearDynamics,
    objective: Objective,
    q: LinearGaussian,
    kl_step: Float[Array, ""] | float,
    trust: TrustRegion = "trajectory",
    guess: Float[Array, ""] | float = jnp.nan,
) -> CStep:
    """The best controller within the trust region about `q`.

    Dynamics, objective and q have the leading axis T. `guess` is a multiplier to begin with, nan for none: that of the
    last iteration saves passes. Whatever the model and the cost: the result is finite and within the bound, if `q` is
    finite.
    """
    T = q.k.shape[0]
    temper = jnp.broadcast_to(jnp.asarray(objective.temper, q.k.dtype), T)
    mean = white.mean_states(start, dynamics, q)
    problem = white.whiten(start, dynamics, objective.cost, objective.final, q, mean, temper)
    tie = None if objective.covered is None else policy_kl.whiten(*objective.covered, q, mean)
    about = problem if tie is None else policy_kl.pulled(problem, tie)
    # below the weight of the entropy nothing depends on eta
    estimate = jnp.maximum(passes.first_order(about, kl_step), about.temper.mean())
    log_eta = jnp.log(jnp.where(estimate > 0, estimate, 1.0))
    if trust == "trajectory":
        profile, swept, measure = jnp.zeros(T), 0, jnp.mean
        # where the last bound was slack its multiplier is next to 0, and no place to begin
        near = jnp.clip(jnp.log(guess), log_eta - FAR, log_eta + FAR)
        first = jnp.where(jnp.isfinite(guess), near, log_eta)
    else:
        profile, swept = multipliers.of_steps(problem, kl_step, log_eta)
        measure, first, log_eta = jnp.max, jnp.zeros(()), jnp.zeros(())
    if tie is None:
        solve = functools.partial(passes.trial, problem)
        trial, taken = multipliers.common(solve, profile, measure, kl_step, first, log_eta)
    else:
        assert trust == "trajectory", "a policy is covered within a trust region of the trajectory"
        trial, taken = policy_kl.search(problem, tie, kl_step, first, log_eta)
    controller = white.unwhiten(trial.controller, q, mean)
    found = finite((controller, trial.kl))
    return kept_unless(found, CStep(controller, jnp.exp(trial.log_eta), trial.kl, 1 + swept + taken, found), q)


def kept_unless(found: Bool[Array, ""], step: CStep, q: LinearGaussian) -> CStep:
    """The step, or where it is not found none: the reference is kept."""
    return CStep(
        controller=chosen(found, step.controller, q),
        eta=jnp.where(found, step.eta, jnp.nan),
        kl=jnp.where(found, step.kl, 0.0),
        passes=step.passes,
        found=found,
    )


def mean_multiplier(eta: Float[Array, "N"]) -> Float[Array, ""]:
    """Mean of the conditions' multipliers that were found; 0 where none was."""
    return jnp.nan_to_num(jnp.nanmean(jnp.where(jnp.isfinite(eta).any(), eta, 0.0)))
