"""What CONTRIBUTING promises: a package of its own adds an algorithm and a task, a line each; all commands work."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from pilotfish import acting, cli, registry

ALGORITHM = '''
"""The cross-entropy method over the gains of a linear feedback law."""

from typing import Annotated, Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from pilotfish.algorithms import Algorithm, check_number
from pilotfish.policies import Policy
from pilotfish.types import Shown


class Gains(Policy):
    """`u = G [x; 1]` with gains that are drawn for each episode."""

    kind: ClassVar[str] = "gains"
    per_condition: ClassVar[bool] = True
    mean: Array
    std: Array

    def begin(self, key, x0, o0):
        return self.mean + self.std * jax.random.normal(key, self.mean.shape)

    def act(self, episode, t, x, o):
        return episode @ jnp.append(x, 1.0)

    def noise_free(self):
        return Gains(self.mean, jnp.zeros_like(self.std))

    def tensors(self):
        return {"mean": np.asarray(self.mean), "std": np.asarray(self.std)}

    def settings(self):
        return {}

    @classmethod
    def from_tensors(cls, tensors, settings):
        return cls(jnp.asarray(tensors["mean"]), jnp.asarray(tensors["std"]))


class Info(NamedTuple):
    ok: Array
    spread: Annotated[Array, Shown("spread of the gains", scale="log", column="spread")]


class CEM(Algorithm):
    """Keep the episodes that cost least."""

    default_rollouts: ClassVar[int] = 40
    default_iterations: ClassVar[int] = 8
    elite: float = 0.25
    """Part of the episodes that is kept."""

    def __check_init__(self):
        check_number(self, "elite", lambda v: 0 < v <= 1, "a part of the episodes, above 0 and at most 1")

    def init(self, problem, episodes, key):
        shape = (len(problem.conditions.mean), problem.du, problem.dx + 1)
        return Gains(jnp.zeros(shape), jnp.broadcast_to(problem.initial_std[:, None], shape))

    def explore(self, state):
        return state

    def exploit(self, state):
        return state.noise_free()

    def update(self, problem, state, rollouts, key):
        cost = jnp.where(rollouts.valid, rollouts.cost.sum(-1), jnp.inf)
        best = jnp.argsort(cost, 1)[:, : max(2, int(self.elite * cost.shape[1])), None, None]
        kept = jnp.take_along_axis(rollouts.episode, best, 1)
        new = Gains(kept.mean(1), kept.std(1) + 0.01)
        return new, Info(rollouts.valid.sum(1) > 1, new.std.mean())
'''

TASK = '''
"""A boat is rowed across a lake to a pier."""

import jax.numpy as jnp
import numpy as np

from pilotfish.tasks import DrawnTask, Stroke
from pilotfish.types import Gaussian, Problem


class Lake(DrawnTask):
    """Row to a pier."""

    pier: float = 1.0
    """Where it is, m."""

    def problem(self):
        return Problem(
            horizon=15,
            dt=0.2,
            conditions=Gaussian(jnp.zeros((1, 2)), 1e-4 * jnp.eye(2)[None]),
            initial_std=[1.0],
            dynamics=lambda x, u: jnp.stack([x[0] + 0.2 * x[1], 0.8 * x[1] + 0.2 * u[0]]),
            cost=lambda x, u, t: (x[0] - self.pier) ** 2 + 0.01 * u[0] ** 2,
            success=lambda x, u: jnp.abs(x[-1, 0] - self.pier) < 0.3,
        )

    def draw(self, x):
        return [Stroke(np.array([[x[0], 0.0]]), 9.0, "joint"), Stroke(np.array([[self.pier, 0.0]]), 12.0, "goal")]

    @property
    def extent(self):
        return -1.0, 2.0, -1.0, 1.0
'''

ENTRY_POINTS = """
[pilotfish.algorithms]
cem = rowing.cem:CEM
broken = rowing.nowhere:Nothing

[pilotfish.tasks]
lake = rowing.lake:Lake
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the package as pip would install it."""
    folder = tmp_path_factory.mktemp("site")
    package, about = folder / "rowing", folder / "rowing-1.0.dist-info"
    package.mkdir()
    about.mkdir()
    (package / "__init__.py").write_text("")
    (package / "cem.py").write_text(ALGORITHM)
    (package / "lake.py").write_text(TASK)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: rowing\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


@pytest.fixture(scope="module")
def pilotfish(installed):
    def run(*words):
        paths = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-m", "pilotfish", *map(str, words)]
        return subprocess.run(
            command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False, timeout=200
        )

    return run


@pytest.fixture
def here(installed, capsys):
    """The same in this process, which has the package too: exit code, standard output and error stream."""

    def run(*words):
        capsys.readouterr()
        try:
            code = cli.run([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    with pytest.MonkeyPatch.context() as path:
        path.syspath_prepend(installed)
        registry._installed.cache_clear()
        yield run
    registry._installed.cache_clear()


def test_the_algorithm_is_short():
    assert len([line for line in ALGORITHM.splitlines() if line.strip()]) < 75


@pytest.mark.slow
def test_a_package_adds_an_algorithm_and_a_task_with_a_line_each(pilotfish, here, tmp_path):
    listed = pilotfish("list", "--json")
    assert listed.returncode == 0, listed.stderr
    known = json.loads(listed.stdout)
    assert known["algorithms"]["cem"] == "Keep the episodes that cost least. (package rowing)"
    assert known["tasks"]["lake"] == "Row to a pier. (package rowing)"
    assert known["algorithms"]["broken"].startswith("unusable: 'broken' of the package rowing cannot be used")
    run = tmp_path / "run"
    trained = pilotfish("train", "lake", "--algorithm", "cem", "--iterations", 3, "--out", run, "--json")
    assert trained.returncode == 0, trained.stderr
    assert "spread" in trained.stderr
    assert {"film.gif", "curves.png", "diagnostics.png", "policy.safetensors"} <= {path.name for path in run.iterdir()}
    code, _, err = here("resume", run, "--iterations", 8, "--no-film", "--json")
    assert code == 0, err
    rows = np.genfromtxt(run / "metrics.csv", delimiter=",", names=True)
    assert rows["cost"][-1] < 0.5 * rows["cost"][0]
    assert len(rows) == 8
    code, out, err = here("evaluate", run, "--json")
    assert code == 0, err
    assert json.loads(out)["success"][0] > 0.9
    code, _, err = here("report", run, "-o", tmp_path / "page.html")
    assert code == 0, err
    assert "cem" in (tmp_path / "page.html").read_text()
    code, _, err = here("export", run, "-o", tmp_path / "gains.safetensors")
    assert code == 0, err
    with pytest.raises(ValueError, match="of the kind 'gains'"):
        acting.load(tmp_path / "gains.safetensors")
    code, _, err = here("evaluate", run, "--held-out")
    assert code == 2
    assert "lake keeps no conditions for testing" in err


def test_a_package_that_cannot_be_imported_says_so_when_it_is_used(here):
    code, _, err = here("train", "lake", "--algorithm", "broken")
    assert code == 2
    assert "'broken' of the package rowing cannot be used" in err
    assert "Traceback" not in err


def test_a_setting_out_of_range_is_told_in_the_users_words(here):
    code, out, err = here("train", "lake", "--algorithm", "cem", "--algorithm.elite", 2)
    assert code == 2
    assert "a part of the episodes" in err + out
