"""The checks that are shipped find what they say: each is given one thing that is broken."""

from typing import Annotated, Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from pilotfish.algorithms import Algorithm
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.tasks import DrawnTask, Stroke
from pilotfish.tasks.lq import LinearQuadratic
from pilotfish.testing import check_algorithm, check_policy, check_task
from pilotfish.types import Gaussian, LinearGaussian, Problem, Shown


class Info(NamedTuple):
    ok: Array
    moved: Annotated[Array, Shown("moved", bound="by")]
    back: Annotated[Array, Shown("moved back", bound="-by")]
    """Bounded from below."""


class Nudge(Algorithm):
    """Moves the controllers towards what was cheap; `fault` says what is wrong with it."""

    by: float = 0.1
    fault: str = eqx.field(static=True, default="")

    def init(self, problem, episodes, key):
        return problem.first_controller

    def explore(self, state):
        return LinearGaussianPolicy(state)

    def exploit(self, state):
        return LinearGaussianPolicy(state).noise_free()

    def update(self, problem, state, rollouts, key):
        used = rollouts if self.fault == "dirty" else rollouts.cleaned()
        weight = jnp.ones(used.cost.shape) if self.fault == "dirty" else used.weight
        step = self.by * jnp.tanh(jnp.einsum("nmtu,nmt->ntu", used.u, weight[..., :-1]))
        k = state.k + step
        ok = rollouts.valid.any(1)
        if self.fault == "scalar":
            ok = ok.all()
        if self.fault == "decides" and self.by > 1.0:  # in Python: no program is that of all numbers
            k = 2.0 * k
        moved = jnp.abs(step).max() * (2000.0 if self.fault == "bound" else 1.0)
        if self.fault == "nan":
            moved = jnp.log(-1.0 - moved)
        return LinearGaussian(state.K, k, state.chol), Info(
            ok, moved, -moved * (2000.0 if self.fault == "below" else 1.0)
        )


@pytest.mark.parametrize("how", ["", "decides"])
def test_a_sound_algorithm_passes(how):
    check_algorithm(Nudge(fault=how), episodes=4)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("dirty", "what follows step 0, at which a rollout broke off, changes the update"),
        ("scalar", r"Info.ok has the shape \(\); it must be \(N,\)"),
        ("bound", "Info.moved exceeds the bound that is shown with it"),
        ("below", "Info.back exceeds the bound that is shown with it"),
        ("nan", "Info.moved is not finite"),
    ],
)
def test_a_broken_algorithm_is_named(fault, words):
    with pytest.raises(AssertionError, match=words):
        check_algorithm(Nudge(fault=fault), episodes=4)


class Forgetful(LinearGaussianPolicy):
    """Forgets its offsets when it is stored."""

    kind: ClassVar[str] = "forgetful"

    def tensors(self) -> dict[str, np.ndarray]:
        return super().tensors() | {"k": np.zeros(self.controller.k.shape)}


class Namesake(LinearGaussianPolicy):
    """Has the name of another kind."""


@pytest.mark.parametrize(
    ("kind", "words"),
    [(Forgetful, "it acts otherwise after it was stored"), (Namesake, "its kind is another's")],
)
def test_a_policy_that_is_not_stored_whole_is_named(kind, words):
    problem = LinearQuadratic().problem()
    p = problem.first_controller
    with pytest.raises(AssertionError, match=words):
        check_policy(kind(LinearGaussian(p.K, p.k + 1.0, p.chol)), problem)


class Dot(DrawnTask):
    """A dot on a line; `fault` says what is wrong with it."""

    fault: str = eqx.field(static=True, default="")

    def problem(self) -> Problem:
        start = np.random.default_rng().normal() if self.fault == "random" else 0.5
        return Problem(
            horizon=3,
            dt=0.1,
            conditions=Gaussian(jnp.array([[start]]), jnp.zeros((1, 1, 1))),
            initial_std=[1.0],
            dynamics=lambda x, u: x + u if self.fault != "explodes" else jnp.where(x > 0.6, jnp.nan, x + 0.2),
            cost=lambda x, u, t: (x**2).sum(),
        )

    def draw(self, x: np.ndarray) -> list[Stroke]:
        place = 9.0 if self.fault == "outside" else 0.0 if self.fault == "still" else x[0]
        return [Stroke(np.array([[place, 0.0]]), 3.0, "head" if self.fault == "role" else "body")]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        return -1.0, 1.0, -1.0, 1.0


def test_a_sound_task_passes():
    check_task(Dot())


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("random", "conditions is another one each time"),
        ("explodes", "without actions its states or costs are not finite"),
        ("outside", r"the body is drawn outside of the picture \(-1.0, 1.0, -1.0, 1.0\)"),
        ("still", "the drawing does not change with the state"),
        ("role", "role='head': roles are body, goal, ground, joint"),
    ],
)
def test_a_broken_task_is_named(fault: str, words: str, monkeypatch: Any):
    with pytest.raises(AssertionError, match=words):
        check_task(Dot(fault=fault))


@pytest.mark.slow
def test_more_of_a_problem_passes():
    """Two conditions, of which only a part is observed."""
    problem = Problem(
        horizon=3,
        dt=0.1,
        conditions=Gaussian(jnp.zeros((2, 2)), jnp.broadcast_to(jnp.eye(2), (2, 2, 2))),
        initial_std=[1.0],
        dynamics=lambda x, u: x + u,
        cost=lambda x, u, t: (x**2).sum(),
        observe=lambda x: x[:1],
    )
    check_policy(LinearGaussianPolicy(problem.first_controller), problem)
    jax.clear_caches()
