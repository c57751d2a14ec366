"""What every algorithm of the registry must do, without exceptions."""

import dataclasses
import functools
import tempfile
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.best_parameters import least_cost
from oracles.same import IN_ORDER

from pilotfish import algorithms, testing
from pilotfish.algorithms.badmm import BADMM
from pilotfish.algorithms.dagger import DAgger
from pilotfish.algorithms.dyna import Dyna
from pilotfish.algorithms.gps import GPS
from pilotfish.algorithms.ilqg import ILQG
from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.algorithms.mdgps import MDGPS
from pilotfish.algorithms.mdgps_linear import MDGPSLinear
from pilotfish.algorithms.more import MORE
from pilotfish.algorithms.moto import MOTO
from pilotfish.algorithms.reps import REPS
from pilotfish.algorithms.trpo import TRPO
from pilotfish.models.cost import CostExpansion
from pilotfish.models.dynamics import FittedDynamics
from pilotfish.models.learned_dynamics import LearnedDynamics
from pilotfish.models.linearised import Linearisation
from pilotfish.models.local_q import FittedQ
from pilotfish.policies import files
from pilotfish.policies.episodic import OpenLoop
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.runs import loop
from pilotfish.runs.columns import flat
from pilotfish.runs.store import write_tensors
from pilotfish.tasks.lq import LinearQuadratic
from pilotfish.testing import update
from pilotfish.updates.s_step import SStep
from pilotfish.updates.step_size import StepSize
from pilotfish.worlds.jax import JaxWorld

SAMPLES, ITERATIONS = 60, 30
TASK = LinearQuadratic()
MIXTURE = FittedDynamics(prior="gmm", memory=60)
QUICK = SStep(steps=400, batch=64, learning_rate=3e-3)


def teacher(copies=1):
    """Of DAgger: a file of the controller that nothing beats, once for every condition."""
    path = FOLDER / f"{copies}.safetensors"
    p = jax.tree.map(lambda leaf: jnp.stack([leaf] * copies), TASK.optimum()[0])
    write_tensors(path, *files.packed(LinearGaussianPolicy(p), TASK.problem()))
    return str(path)


FOLDER = Path(tempfile.mkdtemp())
CASES = {
    "moto": MOTO(),
    "moto, reuse over both, propagated": MOTO(reuse="both", marginal="propagated", memory=2),
    "lqr-gps": LQRGPS(),
    "lqr-gps, mixture, adapted": LQRGPS(dynamics=MIXTURE, step=StepSize(smallest=0.5, largest=2.0, rule="mean")),
    "lqr-gps, learned": LQRGPS(dynamics=FittedDynamics(prior="learned", learned=LearnedDynamics(points=60, sample=60))),
    "lqr-gps, step, at the mean": LQRGPS(trust="step", cost=CostExpansion(at="mean"), noise_smoothing=1.0),
    "ilqg": ILQG(),
    "ilqg-learned": ILQG(dynamics="learned", learned=LearnedDynamics(points=60, sample=60), steps=10, starts=2),
    "mdgps": MDGPS(kl_step=0.5, teach=QUICK, imagined=20),
    "mdgps, on policy, global, by regression": MDGPS(
        kl_step=0.5,
        sampling="on",
        step_rule="global",
        dynamics=MIXTURE,
        linearise=Linearisation(how="regression", memory=60),
        teach=QUICK,
        imagined=0,
    ),
    "mdgps, without a model": MDGPS(
        c_step="moto", q=FittedQ(), kl_step=0.3, entropy_drop=0.1, linearise=Linearisation(), teach=QUICK
    ),
    "dagger": DAgger(teacher=teacher(), teach=SStep(steps=400, batch=64, learning_rate=3e-3, memory=3)),
    "mdgps-linear": MDGPSLinear(),
    "reps": REPS(skill=OpenLoop(features=3)),
    "more": MORE(skill=OpenLoop(features=3), kl_step=0.7, schedule="constant", entropy_drop=0.2, memory=8),
    "trpo": TRPO(kl_step=0.1, value="quadratic"),
    "trpo, controllers": TRPO(kl_step=0.1, actor="linear-gaussian", value="quadratic", discount=1.0),
    "trpo, critic": TRPO(kl_step=0.1),
    "badmm": BADMM(kl_step=0.5, inner=2, teach=QUICK, imagined=20),
    "gps": GPS(kl_step=0.5, weight=0.1, dual_rate=0.1, teach=QUICK),
    "dyna": Dyna(
        GPS(kl_step=0.5, weight=0.1, dual_rate=0.1, teach=QUICK),
        rounds=2,
        imagined=30,
        learned=LearnedDynamics(points=60, sample=60),
    ),
    "cgps": GPS(model="known", terms="samples", points=12, linearise=Linearisation(), kl_step=0.5, teach=QUICK),
    "cgps, gradient": GPS(model="known", terms="gradient", points=12, kl_step=0.5, teach=QUICK),
}
"""Algorithms with settings: at least one of every registered algorithm."""
DRAWS = {
    "lqr-gps, learned",
    "lqr-gps, mixture, adapted",
    "mdgps",
    "mdgps, on policy, global, by regression",
    "mdgps, without a model",
    "ilqg-learned",
    "dagger",
    "dyna",
    "badmm",
    "gps",
    "cgps",
    "cgps, gradient",
    "trpo, critic",
}
"""Whose updates are random: mixtures begin from points that are drawn, for every condition others, and networks learn
from minibatches."""
FEW = 3
"""Iterations of what does not learn here, but works alike at each."""
LAST_STEP = TASK.problem().horizon - 1


FIXED = [name for name in CASES if name not in DRAWS]
ALWAYS = {"lqr-gps"}
"""Whose tests are not slow."""


def marked(names):
    return [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow) for name in names]


@pytest.fixture(scope="module", params=marked(CASES))
def algorithm(request):
    yield CASES[request.param]
    first_rollouts.cache_clear()
    jax.clear_caches()  # what all cases compile takes more pieces of memory than Linux lets a process have


def test_every_algorithm_is_here():
    assert {type(algorithm) for algorithm in CASES.values()} == {
        entry.load() for entry in algorithms.registry().values()
    }


@pytest.fixture(scope="module")
def learned(algorithm):
    """States and reports of a run of two seeds on the linear-quadratic task."""
    return testing.learn(algorithm, SAMPLES, ITERATIONS)


def test_reaches_the_known_optimum(algorithm, learned):
    searched = getattr(algorithm, "skill", None)
    optimum = TASK.optimum()[1] if searched is None else least_cost(TASK, searched)
    factor = 1.15 if isinstance(algorithm, REPS) else 1.03  # a weighted mean of few noisy episodes
    for s in range(2):
        policy = algorithm.exploit(loop.of_seed(learned[0], s))
        if policy.per_condition:
            controller = jax.tree.map(lambda leaf: leaf[0], policy.controller)
            assert optimum <= TASK.expected_cost(controller) < factor * optimum
        else:
            spent = JaxWorld(TASK.problem()).rollout(policy, 4000, jax.random.key(9)).cost.sum(-1)
            assert 0.97 * optimum < spent.mean() < 1.1 * optimum  # a network that is not told the time


def test_reports_are_finite_and_within_their_bounds(algorithm, learned):
    testing.check_reports(algorithm, learned[1])


def test_kl_bound_is_used(algorithm, learned):
    if hasattr(algorithm, "kl_step"):
        info = learned[1].info
        bound = algorithm.kl_step * getattr(info, "step_factor", 1.0)
        assert (info.kl_max <= bound * (1 + 1e-6)).all()
        # BADMM's controllers are held back by the network as well, TRPO's step is shortened until it is short enough
        if not isinstance(algorithm, BADMM | GPS | TRPO):
            assert (info.kl_max >= 0.8 * bound).all()  # less where few samples are evidence of little


def test_learns_more_than_the_exploration_it_gives_up(algorithm, learned):
    cost = learned[1].outcome.cost
    if isinstance(algorithm, DAgger):  # whose teacher acts first
        assert (cost[:, -1] < 1.1 * cost[:, 0]).all()
    else:
        assert (cost[:, -1] < 0.5 * cost[:, 0]).all()


@pytest.mark.parametrize(
    "algorithm",
    marked(FIXED),
    indirect=True,
)
def test_copies_of_a_condition_get_equal_answers(algorithm):
    problem, state, rollouts, key = first_rollouts(algorithm)
    twice, both_states, _, _ = first_rollouts(algorithm, copies=2)
    single, _ = update(algorithm, problem, state, rollouts, key)
    doubled = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), rollouts)
    both, info = update(algorithm, twice, both_states, doubled, key)
    assert info.ok.shape == (2,)
    assert info.ok.all()
    leaves = (jax.tree.leaves(eqx.filter(new, eqx.is_array)) for new in (single, both))
    for one, two in zip(*leaves, strict=True):
        if one.shape == two.shape:  # what all conditions share
            np.testing.assert_allclose(two, one, rtol=1e-6, atol=1e-8)
        else:
            np.testing.assert_allclose(two[0], two[1], rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(two[0], one[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "name",
    marked(sorted(algorithms.registry())),
)
def test_hyperparameters_can_be_swept_side_by_side(name):
    """One algorithm stands for all where nothing slow is asked for: a sweep is compiled anew for each."""
    algorithm = CASES[name]
    problem, state, rollouts, key = first_rollouts(algorithm)
    whose = (lambda a: a.learner) if isinstance(algorithm, Dyna) else (lambda a: a)
    fields = dataclasses.fields(whose(algorithm))
    floats = [field for field in fields if isinstance(getattr(whose(algorithm), field.name), float)]
    swept_one = next(field.name for field in floats if not field.metadata.get("static"))

    @eqx.filter_jit
    def swept(number):
        new = update(
            eqx.tree_at(lambda a: getattr(whose(a), swept_one), algorithm, number), problem, state, rollouts, key
        )
        return eqx.filter(new, eqx.is_array)

    numbers = getattr(whose(algorithm), swept_one) * jnp.array([0.5, 1.0])
    together = jax.vmap(swept)(numbers)
    for i, number in enumerate(numbers):
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(swept(number)), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-6, atol=1e-9)


def test_loop_equals_scan_goes_on_where_it_stopped_and_compiles_once(algorithm, learned, tmp_path):
    testing.check_loop(algorithm, SAMPLES, learned, tmp_path, testing.EXACT if IN_ORDER else testing.ROUNDED)


def test_is_stored_and_built_again(algorithm):
    testing.check_stored(algorithm)


@functools.cache
def first_rollouts(algorithm, copies=1):
    """The problem with `copies` of its condition, the first state, and the rollouts of its policy.

    One for all tests of a case: an update is compiled anew for each problem.
    """
    first = dataclasses.replace(algorithm, teacher=teacher(copies)) if isinstance(algorithm, DAgger) else algorithm
    return testing.begin(first, SAMPLES, copies)


@pytest.mark.parametrize("step", [pytest.param(0, marks=pytest.mark.slow), 7, LAST_STEP])
def test_what_did_not_happen_is_not_used(algorithm, step):
    testing.check_broken_off(algorithm, first_rollouts(algorithm, copies=2), step)  # as elsewhere: compiled once


OWN = {
    MDGPS: lambda s: s.controller,
    BADMM: lambda s: s.controller,
    GPS: lambda s: s.controller,
    DAgger: lambda s: s.teacher,
}
"""What every condition has for itself, where that is not what is rolled out."""


def test_a_condition_without_data_keeps_its_policy_and_the_others_go_on(algorithm):
    problem, state, rollouts, key = first_rollouts(algorithm, copies=2)
    none = eqx.tree_at(lambda r: r.steps, rollouts, rollouts.steps.at[1].set(0))
    (new, info), (expected, _) = (update(algorithm, problem, state, r, key) for r in (none, rollouts))
    learns_from_rollouts = not isinstance(algorithm, ILQG | Dyna)  # or, learned, has one model for all conditions
    np.testing.assert_array_equal(info.ok, [True, not learns_from_rollouts])
    for name, value in flat(info).items():
        assert np.isfinite(value).all(), name
    one_policy = getattr(algorithm, "actor", None) == "network" or isinstance(algorithm, MDGPSLinear)
    if one_policy or isinstance(algorithm, Dyna) or getattr(algorithm, "dynamics", None) == "learned":
        return  # one for all conditions, or one model
    own = OWN.get(type(algorithm), algorithm.explore)
    old, found, wanted = (jax.tree.leaves(own(s)) for s in (state, new, expected))
    for before, after, whole in zip(old, found, wanted, strict=True):
        if learns_from_rollouts:
            np.testing.assert_array_equal(after[1], before[1])
        # BADMM's and GPS' network, which draws all controllers, learns from all conditions before these are improved
        alone = getattr(algorithm, "step", StepSize()).rule == "condition" and not isinstance(algorithm, BADMM | GPS)
        if alone and getattr(getattr(algorithm, "dynamics", None), "prior", None) != "learned":
            np.testing.assert_array_equal(after[0], whole[0])
