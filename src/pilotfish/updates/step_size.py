"""The step size of the next iteration, from how the last step turned out (MDGPS, section 4.2).

With l^k_m the expected cost of iteration k's controller in the model of iteration m, the last step promised
`l^{k-1}_{k-1} - l^k_{k-1}` and missed `l^k_k - l^k_{k-1}` of it. To first order the promise grows with the step and the
miss with its square, so the best factor is

    promised / (2 missed),    clipped to [.1, 5]

Where the cost came out as promised or better the quotient says nothing, and the step grows as much as it may; where
nothing is known it stays. The paper has a factor for every condition; its authors' code one for all, from mean costs.
"""

from typing import Literal, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from pilotfish.types import check_choice

Rule = Literal["condition", "mean"]

FACTOR_CLIP = (0.1, 5.0)
"""By how much one iteration may change the step size (MDGPS, section 4.2)."""


class Steps(NamedTuple):
    """What is remembered of each condition's last step; leading axis: the condition."""

    factor: Float[Array, "N"]
    """What the step size is multiplied by."""
    before: Float[Array, "N"]
    """Expected cost of the last controller in the model fitted to its own rollouts."""
    promised: Float[Array, "N"]
    """Expected cost of this controller in that same model."""


class StepSize(eqx.Module):
    """How the step size is adapted; where smallest and largest are 1, it stays."""

    smallest: float = 1.0
    """Smallest factor of the step size that may be chosen."""
    largest: float = 1.0
    """Largest factor of the step size that may be chosen."""
    rule: Rule = eqx.field(static=True, default="condition")
    """Whose costs decide: every condition's its own factor (the paper), or their means one for all (its code)."""

    def __check_init__(self):
        check_choice(self, "rule", Rule)
        for name, inside in (("smallest", lambda v: 0 < v <= 1), ("largest", lambda v: v >= 1)):
            value = getattr(self, name)
            if isinstance(value, int | float) and not inside(value):
                wanted = "above 0 and at most 1" if name == "smallest" else "at least 1"
                raise ValueError(f"{name}={value}: a factor of the step size, {wanted}.")

    def begin(self, conditions: int) -> Steps:
        """Nothing is known."""
        unknown = jnp.full(conditions, jnp.nan, float)  # of strong type: else the update compiles twice
        return Steps(jnp.ones(conditions), unknown, unknown)

    def factor(self, steps: Steps, now: Float[Array, "N"]) -> Float[Array, "N"]:
        """The next factor of every condition, of which `now` is the expected cost in the model of its own rollouts."""
        promised, missed = steps.before - steps.promised, now - steps.promised
        if self.rule == "mean":
            promised, missed = (jnp.full_like(cost, cost.mean()) for cost in (promised, missed))
        quotient = jnp.where(missed > 0, promised / (2.0 * missed), jnp.inf)
        change = jnp.where(jnp.isfinite(missed + promised), jnp.clip(quotient, *FACTOR_CLIP), 1.0)
        return jnp.clip(steps.factor * change, self.smallest, self.largest)
