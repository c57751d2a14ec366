"""What a policy costs the MuJoCo world, as a ratio to the bare simulations: python benchmarks/mujoco_world.py"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from mujoco.batch import Batch
from run import alternate

from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.tasks.obstacles import Obstacles
from pilotfish.tasks.peg import Peg
from pilotfish.tasks.walker import Walker
from pilotfish.types import Gaussian, Problem
from pilotfish.worlds.mujoco import CURRENT, MujocoWorld

ROUNDS = 7


def humanoid() -> MujocoWorld:
    """Gymnasium's humanoid: 23 degrees of freedom, 17 motors, in contact with the ground; an action is 5 timesteps."""
    assets = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
    model = mujoco.MjModel.from_xml_path(str(assets / "humanoid.xml"))
    data = mujoco.MjData(model)
    start = jnp.asarray(np.concatenate([data.qpos, data.qvel]))[None]
    conditions = Gaussian(start, jnp.zeros((1, start.shape[1], start.shape[1])))

    def cost(x, u, t):
        return (u**2).sum() - x[model.nq]

    return MujocoWorld(Problem(200, 5 * model.opt.timestep, conditions, jnp.full(model.nu, 0.1), cost), model)


def compare(name: str, world: MujocoWorld, samples: int) -> None:
    problem = world.problem
    substeps = world.simulation.substeps(problem.dt)
    policy, count = LinearGaussianPolicy(problem.first_controller), samples * len(problem.conditions.mean)
    control = np.asarray(world.rollout(policy, samples, jax.random.key(0)).u).reshape(count, problem.horizon, -1)
    start = np.repeat(np.asarray(problem.conditions.mean), samples, 0)

    def bare() -> None:
        """The same model under the same actions, which are known beforehand."""
        batch = Batch(world.model, count, persistent=True)
        batch.qpos[...], batch.qvel[...] = start[:, : world.model.nq], start[:, world.model.nq :][:, : world.model.nv]
        for t in range(problem.horizon):
            batch.ctrl[...] = control[:, t]
            batch.step(nstep=substeps, stage=CURRENT)

    times = alternate({"bare": bare, "world": lambda: world.rollout(policy, samples, jax.random.key(0))}, ROUNDS)
    steps = count * problem.horizon * substeps
    print(
        f"| {name} | {count} x {problem.horizon} x {substeps} | {steps / times['bare'] / 1e3:.0f} k | "
        f"{steps / times['world'] / 1e3:.0f} k | {times['world'] / times['bare']:.2f} |"
    )


if __name__ == "__main__":
    print("| model | rollouts x actions x timesteps | timesteps a second: bare | with a policy | ratio of times |")
    print("|---|---|---|---|---|")
    compare("obstacles", Obstacles().world(), 5)
    compare("peg", Peg().world(), 5)
    compare("walker", Walker().world(), 20)
    compare("humanoid", humanoid(), 20)
