"""Your own network: any module that is called with what is observed. Here a boat goes to its pier from everywhere."""

import equinox as eqx
import jax
import jax.numpy as jnp

import pilotfish as pf


class Spring(eqx.Module):
    """A linear part, for the spring that pulls to the pier, and a network for the rest."""

    linear: eqx.nn.Linear
    rest: eqx.nn.MLP

    def __call__(self, s):
        return self.linear(s) + self.rest(s)


class SpringNetwork(pf.Network):
    def layers(self, inputs, outputs, key):
        one, two = jax.random.split(key)
        rest = eqx.nn.MLP(inputs, outputs, self.width, self.depth, activation=jnp.tanh, key=two)
        return Spring(eqx.nn.Linear(inputs, outputs, key=one), rest)


def problem(places):
    """State: position (m) and velocity (m/s), from rest at some places (N, 2); u: thrust (2,), which is bounded."""
    x0 = jnp.concatenate([places, jnp.zeros_like(places)], -1)
    return pf.Problem(
        horizon=40,
        dt=0.1,
        conditions=pf.Gaussian(mean=x0, cov=jnp.broadcast_to(1e-4 * jnp.eye(4), (len(places), 4, 4))),
        initial_std=[1.0, 1.0],
        dynamics=lambda x, u: jnp.concatenate([x[:2] + 0.1 * x[2:], x[2:] + 0.1 * (u - x[2:] * jnp.abs(x[2:]))]),
        cost=lambda x, u, t: (x[:2] ** 2).sum() + 0.05 * (u**2).sum(),
        success=lambda x, u: jnp.linalg.norm(x[-1, :2]) < 0.2,
    )


corners = jnp.array([[2.0, 2.0], [-2.0, 2.0], [-2.0, -2.0], [2.0, -2.0]])
learner = pf.MDGPS(policy=SpringNetwork(width=16))
result = pf.train(learner, pf.JaxWorld(problem(corners)), rollouts=5, iterations=6)
elsewhere = problem(2.0 * jax.random.uniform(jax.random.key(1), (50, 2), minval=-1.0))
rollouts = pf.JaxWorld(elsewhere).rollout(result.policy, episodes=1, key=jax.random.key(2))
arrive = jax.vmap(jax.vmap(elsewhere.success))(rollouts.x, rollouts.u).mean()
print(f"120 rollouts from four corners: {arrive:.0%} of 50 boats arrive from elsewhere")
