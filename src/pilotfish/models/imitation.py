"""What a network that imitates a local controller costs at most (MDGPS, Lemmas 4.1 and 4.2).

Let p and pi act in the same system from the same first states, and eps_t be the largest KL between their actions in a
state at step t. By Pinsker's inequality their actions then differ by sqrt(eps_t / 2) in total variation, whichever of
the two KLs is taken, and what differs at one step goes on to the next:

    D_TV( p(x_t), pi(x_t) )  <=  2 sum_{t' < t} sqrt(2 eps_t')                                           (Lemma 4.1)

With l_t the range of what step t costs, and Q_t = sum_{t' >= t} l_t',

    J(pi)  <=  J(p) + sum_t [ sqrt(2 eps_t) l_t + 2 sqrt(2 eps_t) Q_t ]                                  (Lemma 4.2)

The paper has the largest cost for its range, which is the same where the least is 0; a range does not depend on where
costs have their zero. Over all states both maxima are infinite: they are taken over those that were visited.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def variation(eps: Float[Array, "*batch T"]) -> Float[Array, "*batch T1"]:
    """The most by which the states of every step differ, in total variation: at most 1, and 0 for the first."""
    grown = 2.0 * jnp.cumsum(jnp.sqrt(2.0 * jnp.maximum(eps, 0.0)), -1)
    return jnp.minimum(1.0, jnp.concatenate([jnp.zeros_like(grown[..., :1]), grown], -1))


def most(eps: Float[Array, "*batch T"], span: Float[Array, "*batch T1"]) -> Float[Array, "*batch"]:
    """By how much more the second policy costs than the first at most, from the ranges of what every step costs, of
    which the last is that of the final cost.
    """
    apart = jnp.sqrt(2.0 * jnp.maximum(eps, 0.0))
    ahead = jnp.cumsum(span[..., ::-1], -1)[..., ::-1]
    return (apart * (span[..., :-1] + 2.0 * ahead[..., :-1])).sum(-1)


def spans(cost: Float[Array, "*batch M T1"], counted: Bool[Array, "*batch M T1"]) -> Float[Array, "*batch T1"]:
    """The range of what every step costs over the rollouts in which it is `counted`; 0 where it is in none."""
    high = jnp.where(counted, cost, -jnp.inf).max(-2)
    low = jnp.where(counted, cost, jnp.inf).min(-2)
    return jnp.where(counted.any(-2), high - low, 0.0)
