"""How fast mixtures are fitted, as ratios to scikit-learn measured in turn: python benchmarks/mixture.py [--quick]"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from run import alternate
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from pilotfish.algebra import mixture
from pilotfish.algebra.batch import each

CLUSTERS, D = 20, 59


@eqx.filter_jit
def begin(z, weight):
    keys = jax.random.split(jax.random.key(0), z.shape[0])
    return each(lambda z, w, key: mixture.begin(z, w, CLUSTERS, key), z, weight, keys)


@eqx.filter_jit
def fit(z, weight, start, iterations):
    return each(lambda z, w, s: mixture.fit(z, w, s, iterations), z, weight, start)


@eqx.filter_jit
def fit_side_by_side(z, weight, start, iterations):
    return jax.vmap(lambda z, w, s: mixture.fit(z, w, s, iterations))(z, weight, start)


def trajectories(rng, sets: int, points: int):
    """Points about six places, spread in 15 directions and a little in all others, as a robot's transitions are."""
    spread, places = rng.normal(size=(6, D, 15)), 3 * rng.normal(size=(6, D))
    where = rng.integers(0, 6, (sets, points))
    along = np.einsum("sndr,snr->snd", spread[where], rng.normal(size=(sets, points, 15)))
    return places[where] + along + 0.1 * rng.normal(size=(sets, points, D))


def scikit_learn(z, start, iterations: int):
    """The same number of EM iterations from the same start, one data set after the other."""
    std = z.std(1, keepdims=True)
    centre = z.mean(1, keepdims=True)
    chol = np.asarray(start.chol) / std[:, :, :, None]
    precision = np.linalg.inv(chol @ np.swapaxes(chol, -1, -2))
    mean, weight = (np.asarray(start.mean) - centre) / std, np.exp(start.log_weight)
    for s, w, m, p in zip((z - centre) / std, weight, mean, precision, strict=True):
        GaussianMixture(
            CLUSTERS, tol=0, max_iter=iterations, weights_init=w / w.sum(), means_init=m, precisions_init=p
        ).fit(s)


def main(iterations: int, rounds: int) -> None:
    print("| data | EM iterations | scikit-learn | pilotfish | ratio | side by side (vmap) |")
    print("|---|---|---|---|---|---|")
    for sets, points in ((9, 500), (1, 4500)):
        data = trajectories(np.random.default_rng(0), sets, points)
        z, weight = jnp.asarray(data), jnp.ones((sets, points))
        start = begin(z, weight)
        times = alternate(
            {
                "pilotfish": lambda z=z, w=weight, s=start: fit(z, w, s, iterations),
                "vmap": lambda z=z, w=weight, s=start: fit_side_by_side(z, w, s, iterations),
                "scikit-learn": lambda data=data, s=start: scikit_learn(data, s, iterations),
            },
            rounds,
        )
        ours, theirs = times["pilotfish"], times["scikit-learn"]
        print(
            f"| {sets} x {points} points | {iterations} | {1e3 * theirs:.0f} ms | {1e3 * ours:.0f} ms | "
            f"{theirs / ours:.1f} | {1e3 * times['vmap']:.0f} ms |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds")
    warnings.simplefilter("ignore", ConvergenceWarning)
    for iterations in (10, 30):
        main(iterations, rounds=3 if parser.parse_args().quick else 9)
