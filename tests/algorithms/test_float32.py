"""One update in float32 is that of float64 to float32's digits, whatever the units.

JAX takes its precision when it is imported: this file is also the program that computes in float32.
"""

import os
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_units import ALGORITHMS, Units, apart, controller, problem, written

from pilotfish.types import LinearGaussian, Rollouts
from pilotfish.worlds.jax import JaxWorld

DIGITS = {"moto": 1e-2, "lqr-gps": 1e-4, "ilqg": 1e-5}
"""In standard deviations of the first actions. MOTO solves normal equations, which lose twice the digits."""
UNITS = {
    "plain": written(),
    "small states": written(x_unit=1e-6),
    "mixed states": written(x_unit=[1e-9, 3e9, 0.7, 1e-5, 20.0]),
    "mixed actions": written(u_unit=[2e-9, 1e9, 1e-3]),
    "small costs": written(cost_unit=1e-12),
    "large costs": written(cost_unit=1e12),
}
SCRIPT = f"import sys; sys.path[:0] = {sys.path!r}; import test_float32; test_float32.main(*sys.argv[1:])"


def updated(name: str, units: Units, data: dict[str, np.ndarray]) -> LinearGaussian:
    """The controller of the only condition after one update on these rollouts, in the precision that JAX has now."""
    algorithm, episodes = ALGORITHMS[name]
    x, u, cost = data["x"] * np.asarray(units.x_unit), data["u"] * np.asarray(units.u_unit), data["cost"]
    x, u, cost = (jnp.asarray(a, float) for a in (x, u, cost * float(units.cost_unit)))
    this = problem(units)
    state, rollouts = algorithm.init(this, episodes, jax.random.key(0)), Rollouts.recorded(x, x, u, cost, None)
    state, info = _update(algorithm, this, state, rollouts, jax.random.key(3))
    assert np.asarray(info.ok).all()
    return jax.tree.map(lambda leaf: np.asarray(leaf[0], np.float64), controller(state))


@eqx.filter_jit
def _update(algorithm, problem, *args):
    return algorithm.update(problem, *args)


def rolled(name: str) -> dict[str, np.ndarray]:
    """Rollouts that float32 holds without rounding; entry 4 repeats entry 0 to the last digit."""
    algorithm, episodes = ALGORITHMS[name]
    this, key = problem(written()), jax.random.key(1)
    rollouts = JaxWorld(this).rollout(algorithm.explore(algorithm.init(this, episodes, key)), episodes, key)
    data = {part: np.asarray(getattr(rollouts, part), np.float32).astype(float) for part in ("x", "u", "cost")}
    data["x"][..., 4] = data["x"][..., 0]
    return data


def main(folder: str, name: str) -> None:
    """Update on the rollouts of that folder, in all units, and leave the controllers there."""
    data = dict(np.load(f"{folder}/rollouts.npz"))
    for how, units in UNITS.items():
        found = updated(name, units, data)
        np.savez(f"{folder}/{how}.npz", K=found.K, k=found.k, chol=found.chol)


@pytest.mark.slow
@pytest.mark.parametrize("name", DIGITS)
def test_an_update_in_float32_is_that_of_float64_in_all_units(name, tmp_path):
    data = rolled(name)
    np.savez(tmp_path / "rollouts.npz", **data)
    in_float32 = os.environ | {"JAX_ENABLE_X64": "0"}
    subprocess.run([sys.executable, "-c", SCRIPT, tmp_path, name], env=in_float32, check=True)
    exact = updated(name, written(), data)
    for how, units in UNITS.items():
        stored = np.load(tmp_path / f"{how}.npz")
        found = LinearGaussian(**{part: jnp.asarray(stored[part]) for part in stored})
        assert apart(found, exact, units) < DIGITS[name], how
