"""What is deployed is the best that noise-free episodes measured."""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Bool

from pilotfish.algorithms import Algorithm
from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.cli import learn
from pilotfish.policies import Policy
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.runs import evaluation
from pilotfish.runs.measured import Measured
from pilotfish.runs.train import train
from pilotfish.tasks.lq import LinearQuadratic
from pilotfish.types import Gaussian, LinearGaussian, Problem
from pilotfish.worlds.jax import JaxWorld

T = 3
TARGETS = jnp.array([[3.0], [5.0]])
"""The best constant actions of two conditions, which their states name."""


class Push(Policy):
    """One constant action for all."""

    kind: ClassVar[str] = "test push"
    per_condition: ClassVar[bool] = False
    u: Array

    def begin(self, key, x0, o0):
        return None

    def act(self, episode, t, x, o):
        return self.u

    def noise_free(self):
        return self

    def tensors(self):
        return {"u": np.asarray(self.u)}

    def settings(self):
        return {}

    @classmethod
    def from_tensors(cls, tensors, settings):
        return cls(jnp.asarray(tensors["u"]))


class Counted(NamedTuple):
    ok: Bool[Array, "N"]


class Counting(Algorithm):
    """Learns nothing: the constant action of iteration i is i."""

    shared: bool = eqx.field(static=True)

    def init(self, problem, episodes, key):
        return jnp.zeros(())

    def explore(self, state):
        return self.exploit(state)

    def exploit(self, state):
        if self.shared:
            return Push(state[None])
        k = jnp.broadcast_to(state, (2, T, 1))
        return LinearGaussianPolicy(LinearGaussian(jnp.zeros((2, T, 1, 1)), k, jnp.zeros((2, T, 1, 1))))

    def update(self, problem, state, rollouts, key):
        return state + 1.0, Counted(jnp.ones(2, bool))


def world(sign=1.0, judged=True):
    problem = Problem(
        horizon=T,
        dt=0.1,
        conditions=Gaussian(TARGETS, jnp.zeros((2, 1, 1))),
        initial_std=[1.0],
        cost=lambda x, u, t: jnp.where(u[0] == 7.0, jnp.nan, sign * (u[0] - x[0]) ** 2),
        dynamics=lambda x, u: x,
        success=(lambda x, u: jnp.abs(u[-1, 0] - x[0, 0]) < 0.5) if judged else None,
        distance=lambda x, u: jnp.abs(u[-1, 0] - x[0, 0]),
    )
    return JaxWorld(problem)


@pytest.mark.parametrize(
    ("sign", "judged", "best"),
    [
        (1.0, False, [3.0, 5.0]),
        (-1.0, False, [8.0, 0.0]),
        (-1.0, True, [3.0, 5.0]),  # success counts first where cost disagrees with it
    ],
)
def test_every_condition_deploys_its_own_best(sign, judged, best):
    result = train(Counting(shared=False), world(sign, judged), rollouts=2, iterations=9, measured=1)
    np.testing.assert_array_equal(result.policy.controller.k[:, :, 0], np.repeat([best], T, 0).T)


def test_a_policy_for_all_conditions_is_chosen_by_their_mean():
    assert train(Counting(shared=True), world(judged=False), rollouts=2, iterations=9, measured=1).policy.u == 4.0
    result = train(Counting(shared=True), world(), rollouts=2, iterations=9, measured=1)
    assert result.policy.u == 3.0  # which succeeds in one condition, and so does 5, at the same cost
    i = np.arange(9)
    cost = T * ((i - 3.0) ** 2 + (i - 5.0) ** 2) / 2
    np.testing.assert_array_equal(result.metrics["noise_free_cost"][0], np.where(i == 7, np.inf, cost))
    np.testing.assert_array_equal(result.metrics["noise_free_success"][0], ((i == 3) + (i == 5)) / 2)
    distance = (np.abs(i - 3.0) + np.abs(i - 5.0)) / 2
    np.testing.assert_array_equal(result.metrics["noise_free_distance"][0], np.where(i == 7, np.inf, distance))


@pytest.mark.slow
def test_measuring_changes_nothing_that_is_learned():
    task = LinearQuadratic()
    algorithm, learner = LQRGPS(), Measured(LQRGPS(), JaxWorld(task.problem()), 2)
    sizes = {"rollouts": 20, "iterations": 4, "seeds": [0, 1]}
    plain = train(algorithm, JaxWorld(task.problem()), **sizes)
    with_it = train(algorithm, JaxWorld(task.problem()), **sizes, measured=2)
    for name, values in plain.metrics.items():
        np.testing.assert_allclose(with_it.metrics[name], values, rtol=1e-9, err_msg=name)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9),
        plain.states.controller,
        with_it.states.learner.controller,
    )
    cost = with_it.metrics["noise_free_cost"]
    np.testing.assert_allclose(with_it.states.cost[:, 0], cost.min(1))  # the task defines no success
    assert learner.exploit(with_it.states) is with_it.states.best


@pytest.mark.parametrize(
    ("words", "episodes"),
    [
        (["peg-blind"], 3),  # as set up for the task, where iterations have few rollouts
        (["peg-blind", "--measured", "0"], 0),
        (["lq"], 1),
        (["lq", "--rollouts", "9"], 0),
    ],
)
def test_how_many_episodes_measure_where_nothing_is_said(words, episodes):
    assert learn.asked(words, "train")[1].measured == episodes


@pytest.mark.parametrize(("judged", "best"), [(True, 4), (False, 7)])
def test_the_best_seed_is_that_of_most_success_and_then_of_least_cost(judged, best):
    actions = jnp.array([3.0, 8.0])  # the first succeeds in one condition, the second costs less
    assert evaluation.measure([4, 7], Counting(shared=True), world(-1.0, judged), actions, 1).best_seed == best
