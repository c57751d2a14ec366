"""The cart-pole against Lagrange's equations, conservation of energy and its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tasks import euler_lagrange

from pilotfish.tasks import cartpole
from pilotfish.tasks.cartpole import CartPole


def random_points(count=8):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (count, 4)) * np.array([1, np.pi, 3, 9])
    return jnp.asarray(x), jnp.asarray(rng.uniform(-20, 20, (count, 1)))


def many(f):
    return jax.jit(jax.vmap(f))


def coast(task, x0, steps=100):
    """States (steps, 4) without force."""
    move = lambda x, _: (task.dynamics(x, jnp.zeros(1)), x)  # noqa: E731
    return jax.jit(lambda x: jax.lax.scan(move, x, None, length=steps)[1])(jnp.asarray(x0))


def test_motion_is_lagrange_s():
    cart, ball, length, gravity, friction = 1.0, 0.3, 0.5, 9.81, 0.1

    def places(q):
        return jnp.stack([jnp.stack([q[0], 0.0 * q[0]]), q[0] * jnp.array([1.0, 0]) + pole(q[1])])

    def pole(angle):
        return length * jnp.stack([-jnp.sin(angle), jnp.cos(angle)])

    def lagrangian(r, v, _):
        return 0.5 * (cart * v[0] @ v[0] + ball * v[1] @ v[1]) - ball * gravity * r[1, 1]

    def expected(x, u):
        force = jnp.stack([u[0] - friction * x[2], 0.0])
        return euler_lagrange.acceleration(places, lagrangian, x[:2], x[2:], force)

    x, u = random_points()
    found = many(CartPole().derivative)(x, u)
    np.testing.assert_array_equal(found[:, :2], x[:, 2:])
    np.testing.assert_allclose(found[:, 2:], many(expected)(x, u), rtol=1e-10)


def test_energy_is_kept_without_friction(monkeypatch):
    monkeypatch.setattr(cartpole, "FRICTION", 0.0)
    energy = many(CartPole().energy)(coast(CartPole(), [0.0, 1.0, 0.5, 0.0]))
    assert jnp.abs(energy - energy[0]).max() < 1e-4


def test_energy_grows_by_the_force_s_power_less_that_of_friction():
    x, u = random_points()
    growth = many(lambda x, u: jax.grad(CartPole().energy)(x) @ CartPole().derivative(x, u))(x, u)
    np.testing.assert_allclose(growth, u[:, 0] * x[:, 2] - 0.1 * x[:, 2] ** 2, rtol=1e-9, atol=1e-9)


def test_it_hangs_still_at_the_start():
    start = CartPole().problem().conditions.mean[0]
    np.testing.assert_allclose(coast(CartPole(), start, 60), jnp.broadcast_to(start, (60, 4)), atol=1e-12)


def test_the_state_is_penalised_in_the_last_second():
    cost = CartPole(action_weight=0.5).cost
    x, u = jnp.array([0.1, -0.2, 3.0, 4.0]), jnp.array([2.0])
    for t in (0, 39):
        np.testing.assert_allclose(cost(x, u, t), 2.0)
    for t in (40, 59):
        np.testing.assert_allclose(cost(x, u, t), 2.0 + 1.0 + 40.0 + 25.0)


@pytest.mark.parametrize("angle", [-0.26, 0.26])
def test_success_is_to_hold_the_pole_upright_at_the_end(angle):
    success, u = CartPole().problem().success, jnp.zeros((60, 1))
    upright = np.full((61, 4), 0.24)
    upright[:, [0, 2, 3]] = 2.0  # only the angle counts
    for step, expected in ((0, True), (50, True), (51, False), (60, False)):
        x = upright.copy()
        x[step, 1] = angle
        assert success(jnp.asarray(x), u) == expected


def test_a_force_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="force"):
        CartPole(force=0.0)
