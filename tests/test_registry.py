"""Names: known without jax, to Gymnasium in whatever order, and with the nearest ones where there is none."""

import subprocess
import sys

import pytest

from pilotfish.registry import ALGORITHMS, TASKS, changed, named


def python(source):
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_names_are_listed_without_jax():
    out = python(
        "import sys; sys.modules['jax'] = sys.modules['equinox'] = None\n"
        "from pilotfish.cli import run; raise SystemExit(run(['list']))"
    )
    for name in (*TASKS, *ALGORITHMS):
        assert f"  {name} " in out


@pytest.mark.parametrize("order", ["gymnasium, pilotfish", "pilotfish, gymnasium"])
def test_gymnasium_knows_the_tasks_once_pilotfish_is_imported(order):
    out = python(
        f"import {order}\nprint(sum(name.startswith('pilotfish/') for name in gymnasium.registry))\n"
        "print('jax' in __import__('sys').modules)\n"
        "print(gymnasium.make('pilotfish/lq-v0').action_space.shape)"
    )
    assert out.split("\n")[:3] == [str(len(TASKS)), "False", "(2,)"]


def test_the_nearest_names_are_told_whatever_their_case():
    with pytest.raises(ValueError, match="unknown task 'CartPol': did you mean cartpole"):
        named(TASKS, "CartPol", "task")
    with pytest.raises(
        ValueError,
        match="choose one of badmm, cgps, dagger, dyna, gps, ilqg, ilqg-learned, lqr-gps, mdgps, mdgps-linear, ",
    ):
        named(ALGORITHMS, "xyzzy", "algorithm")


def test_settings_reach_into_parts():
    algorithm = ALGORITHMS["lqr-gps"].make()
    assert (algorithm.dynamics.prior, algorithm.kl_step) == ("gmm", 0.3)
    other = changed(algorithm, {"dynamics.clusters": 5, "kl_step": 1.0})
    assert (other.dynamics.prior, other.dynamics.clusters, other.kl_step) == ("gmm", 5, 1.0)
