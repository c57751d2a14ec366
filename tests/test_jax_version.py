"""The installed jax does not deadlock on a machine with few cores, as 0.10.0 to 0.10.2 do.

Batched LAPACK kernels that run at the same time wait there for each other. With four in float64 a scan of 1000 steps
hangs every other time on two cores; with sixteen, one of 300 steps did every time.
"""

import os
import subprocess
import sys

import jax

SOLVES = """
import jax
import jax.numpy as jnp

jax.config.update("jax_enable_x64", True)
factor = jnp.eye(6) + jnp.tril(jnp.ones((1000, 6, 6)))


def step(x, _):
    solves = [jax.scipy.linalg.solve_triangular(factor + 1e-3 * i * x, x + i, lower=True) for i in range(16)]
    return sum(solves) / 40, None


run = jax.jit(lambda start: jax.lax.scan(step, start, None, length=300)[0])
print(float(run(factor).sum()))
"""


def test_jax_is_not_a_version_that_deadlocks():
    assert not jax.__version__.startswith("0.10.")


def test_independent_batched_solves_in_a_scan_come_to_an_end():
    """With as many BLAS threads as the machine gives: `TimeoutExpired` here is the deadlock."""
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", SOLVES],
        env=environment | {"JAX_PLATFORMS": "cpu"},
        timeout=60,
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) > 0
