"""Environments that lie about themselves: a task and rollouts, or refused in words; never another exception."""

import re

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Text, Tuple

from fuzz.chance import cases, counts
from pilotfish.cli import run
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.runs import RunError
from pilotfish.tasks.gym import GymnasiumTask
from pilotfish.types import LinearGaussian
from pilotfish.worlds import RolloutsFailed

BOX = Box(-1.0, 1.0, (2,))
SPACES = (
    *(BOX, Box(-np.inf, np.inf, (2,)), Box(np.array([-1.0, -np.inf]), np.array([np.inf, 1.0])), Box(0, 0, (2,))),
    *(Box(-1, 1, (0,)), Box(-1, 1, (2, 3)), Box(0, 255, (4, 4, 3), np.uint8), Box(0, 3, (2,), np.int64)),
    *(Discrete(3), Text(4), Dict(a=BOX, b=BOX), Tuple((BOX, Discrete(2))), Dict(), None, "a space"),
)
OBSERVATIONS = (
    *(None, "words", [], 3.0, np.zeros(1), np.zeros(3), np.full(2, np.nan), np.full(2, np.inf), np.zeros((2, 1))),
    *({"a": np.zeros(2)}, np.array(["a", "b"]), np.zeros(2, complex), np.zeros(2, bool), [1, "b"], object()),
)
REWARDS = (None, "much", np.nan, np.inf, -np.inf, np.zeros(2), np.zeros(1), True, 1e308, [1.0], {}, 1j)
ERRORS = (
    RuntimeError("the simulator\nis gone"),
    KeyError("k"),
    ZeroDivisionError(),
    AssertionError(),
    OSError(5, "no robot"),
)


class Liar(gymnasium.Env):
    """Two numbers, which the action moves; and one or two lies."""

    def __init__(self, lies=(), render_mode=None, **_):
        self.lies, self.render_mode = dict(lies), render_mode
        self.observation_space = self.lies.get("observation_space", BOX)
        self.action_space = self.lies.get("action_space", BOX)
        self.metadata = self.lies.get("metadata", {"render_modes": ["rgb_array"], "render_fps": 20})
        self.tell("constructor", None)

    def tell(self, where, truth):
        told = self.lies.get(where, truth)
        if isinstance(told, Exception):
            raise told
        return told

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = np.zeros(2), 0
        return self.tell("reset", (self.tell("first", self.x.copy()), {}))

    def step(self, action):
        self.t += 1
        self.x = self.x + 0.1 * np.resize(np.asarray(action, float), 2)
        late = self.t > 1
        observation = self.tell("observation", self.x.copy()) if late else self.x.copy()
        reward = self.tell("reward", -float((self.x**2).sum())) if late else 0.0
        over = self.tell("terminated", False) if late else False
        return (
            self.tell("step", (observation, reward, over, False, {}))
            if late
            else (observation, reward, False, False, {})
        )


CHOICES = {
    "observation_space": SPACES,
    "action_space": SPACES,
    "metadata": ({}, {"render_fps": 0}, {"render_fps": "fast"}, {"render_fps": -3}, {"render_modes": 5}, None, "words"),
    "constructor": ERRORS,
    "reset": (*ERRORS, None, np.zeros(2), (np.zeros(2),), (np.zeros(2), {}, {})),
    "first": OBSERVATIONS,
    "observation": OBSERVATIONS,
    "reward": REWARDS,
    "terminated": (True, None, "no", np.zeros(2), 1),
    "step": (*ERRORS, None, (np.zeros(2), 0.0, False, {}), (np.zeros(2), 0.0)),
}


def rolled(name):
    world = GymnasiumTask(env=name, horizon=4).world()
    problem = world.problem
    n, du, dx = len(problem.conditions.mean), problem.du, problem.dx
    law = LinearGaussian(jnp.zeros((n, 4, du, dx)), jnp.zeros((n, 4, du)), jnp.tile(jnp.eye(du), (n, 4, 1, 1)))
    return world.rollout(LinearGaussianPolicy(law), 2, jax.random.key(0))


@counts(30, 100)
def test_an_environment_that_lies_is_a_task_or_refused_in_words(count):
    made, said, raised = 0, [], []
    for chance in cases("environment", count):
        lies = {
            where: chance.choice(CHOICES[where]) for where in chance.sample(sorted(CHOICES), chance.choice([1, 1, 2]))
        }
        gymnasium.registry.pop("Liar-v0", None)
        gymnasium.register("Liar-v0", entry_point=Liar, kwargs={"lies": lies})
        try:
            rollouts = rolled("Liar-v0")
        except (ValueError, RunError, RolloutsFailed) as error:
            said.append(str(error))
            continue
        except Exception as error:
            raised.append((lies, error))
            continue
        made += 1
        steps = np.asarray(rollouts.steps)
        for n, m in np.ndindex(steps.shape):
            assert np.isfinite(rollouts.x[n, m, : steps[n, m] + 1]).all()
            assert np.isfinite(rollouts.cost[n, m, : steps[n, m]]).all()
    gymnasium.registry.pop("Liar-v0", None)
    assert not raised, "\n".join(f"{lies}: {error!r}" for lies, error in raised)
    assert made
    assert said
    assert not [one for one in said if not one.strip() or "\n" in one.strip()]


@pytest.mark.parametrize(
    ("where", "lie", "code", "message"),
    [
        *(("constructor", error, 2, rf"gymnasium\.make\(.* raised {type(error).__name__}") for error in ERRORS),
        *(("reset", error, 2, rf"reset\(seed=0\) raised {type(error).__name__}") for error in ERRORS),
        ("reset", None, 2, r"reset\(\) returned None; it must return \(observation, info\)"),
        ("first", np.full(2, np.nan), 2, r"conditions\.mean"),
        ("metadata", {"render_fps": "fast"}, 2, r"metadata\['render_fps'\] is 'fast'"),
        ("action_space", Box(0, 0, (2,)), 2, r"initial_std"),
        ("step", ERRORS[0], 1, r"all 20 rollouts broke off, .* RuntimeError: the simulator is gone"),
    ],
)
def test_the_command_line_says_in_one_line_what_an_environment_did(where, lie, code, message, tmp_path, capsys):
    gymnasium.register("Liar-v0", entry_point=Liar, kwargs={"lies": {where: lie}})
    command = ["train", "gym:Liar-v0", "--algorithm", "lqr-gps", "--task.horizon", "4", "--rollouts", "20"]
    try:
        assert run([*command, "--out", str(tmp_path / "run")]) == code
    finally:
        gymnasium.registry.pop("Liar-v0")
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(rf"pilotfish: {'Liar-v0: ' if code == 2 else ''}.*{message}", line)


@pytest.mark.parametrize(
    ("text", "message"),
    [("1 / 0", "ZeroDivisionError"), ("def", "SyntaxError"), ("import no_such_module", "No module named")],
)
def test_a_module_that_cannot_be_imported_is_told(text, message, tmp_path, monkeypatch):
    (tmp_path / "module_of_a_liar.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    gymnasium.register("Liar-v0", entry_point="module_of_a_liar:Liar")
    try:
        for fields in (
            {"env": "module_of_a_liar:Liar-v1"},
            {"env": "Liar-v0"},
            {"env": "Pendulum-v1", "wrappers": ("module_of_a_liar:f",)},
        ):
            with pytest.raises(ValueError, match=message) as error:
                GymnasiumTask(**fields).world()
            assert "\n" not in str(error.value)
    finally:
        gymnasium.registry.pop("Liar-v0")


def test_one_that_does_not_lie_is_a_task():
    gymnasium.register("Liar-v0", entry_point=Liar)
    try:
        assert rolled("Liar-v0").valid.all()
    finally:
        gymnasium.registry.pop("Liar-v0")
