"""Your own system: a cost, an equation of motion, a start. Here a boat is rowed across a river to a pier."""

import jax.numpy as jnp

import pilotfish as pf

DT, PIER = 0.1, jnp.array([4.0, 0.0])  # s, m


def dynamics(x, u):
    """State: position and velocity (4,). The river flows along y, fastest in its middle; u: thrust (2,)."""
    slip = jnp.array([0.0, -1.5 * jnp.exp(-((x[0] - 2.0) ** 2))]) - x[2:]
    velocity = x[2:] + DT * (u + 0.8 * slip * jnp.abs(slip))
    return jnp.concatenate([x[:2] + DT * velocity, velocity])


problem = pf.Problem(
    horizon=50,
    dt=DT,
    conditions=pf.Gaussian(mean=jnp.zeros((1, 4)), cov=0.01 * jnp.eye(4)[None]),
    initial_std=[1.0, 1.0],
    dynamics=dynamics,
    cost=lambda x, u, t: 0.01 * (u**2).sum(),
    final_cost=lambda x: 10.0 * ((x[:2] - PIER) ** 2).sum() + (x[2:] ** 2).sum(),
    action_low=[-2.0, -2.0],
    action_high=[2.0, 2.0],
    success=lambda x, u: jnp.linalg.norm(x[-1, :2] - PIER) < 0.3,
)
result = pf.train(pf.MOTO(entropy_drop=0.1), pf.JaxWorld(problem), rollouts=50, iterations=40)
print(f"cost {result.metrics['cost'][0, 0]:.1f} -> {result.metrics['cost'][0, -1]:.2f}, ", end="")
print(f"{result.metrics['success'][0, -1]:.0%} of the boats land")
