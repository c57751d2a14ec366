"""TRPO beside sb3-contrib's, and Stable-Baselines3 until it reaches a goal, on Gymnasium's Reacher-v5 with one goal:

python benchmarks/stable_baselines.py curves [--seeds 5] [--iterations 200] [--quick]
python benchmarks/stable_baselines.py until ppo|sac|trpo [--seeds 10] [--episodes 6000] [--quick]

It needs `pip install 'pilotfish[baselines]'` and runs in the repository's root. `curves`: both forms of TRPO have the
same network (64 x 64, tanh), observation (the environment's), first noise, 20 episodes an iteration, bound on the KL,
discount and trace; all else is as each has it. `until`: episodes and CPU seconds until a noise-free episode reaches the
goal, as examples/reacher/functions.py says it; every episode begins alike, so one tells as much as twenty.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from sb3_contrib import TRPO as ContribTRPO
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor

import pilotfish as pf
from pilotfish.policies.network import Network
from pilotfish.runs.statistics import mean_interval
from pilotfish.tasks.gym import GymnasiumTask

ENV, STEPS, EPISODES = "Reacher-v5", 50, 20
KL, DISCOUNT, TRACE, STD = 0.01, 0.99, 0.95, 1.0
"""Bound, weights, and the first noise's standard deviation, in units of the action's limit."""
OBSERVATION = Path(__file__).with_name("reacher_observation.py")
OTHERS: dict[str, Callable[..., BaseAlgorithm]] = {"ppo": PPO, "sac": SAC, "trpo": ContribTRPO}


class OneGoal(gymnasium.Wrapper):
    """Every episode begins as the one after a reset by seed 0, which is the task's only condition here."""

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        return self.env.reset(seed=0)


def environment() -> Monitor:
    return Monitor(OneGoal(gymnasium.make(ENV)))


class Costs(BaseCallback):
    """The cost of every episode."""

    def __init__(self) -> None:
        super().__init__()
        self.costs: list[float] = []

    def _on_step(self) -> bool:
        self.costs += [-info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        return True


class Until(BaseCallback):
    """Stops where a noise-free episode reaches the goal, which it looks at every so many steps."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = False

    def _on_step(self) -> bool:
        if self.num_timesteps % (STEPS * EPISODES) == 0:
            self.reached = reaches(self.model)
        return not self.reached


def reaches(model: BaseAlgorithm) -> bool:
    """Whether the finger stays within 3 cm of the goal for the last ten states."""
    env, apart = environment(), []
    seen, _ = env.reset()
    for _ in range(STEPS):
        seen, *_ = env.step(model.predict(seen, deterministic=True)[0])
        apart.append(np.linalg.norm(seen[8:10]))
    return max(apart[-10:]) < 0.03


def contrib(seeds: int, iterations: int) -> tuple[np.ndarray, float]:
    """Mean cost of each iteration's episodes (seeds, iterations), and CPU seconds a step of the environment."""
    costs, begun = [], time.process_time()
    for seed in range(seeds):
        noted = Costs()
        network = {"net_arch": [64, 64], "activation_fn": torch.nn.Tanh, "log_std_init": float(np.log(STD))}
        ContribTRPO(
            "MlpPolicy", environment(), n_steps=STEPS * EPISODES, target_kl=KL, gamma=DISCOUNT, gae_lambda=TRACE,
            policy_kwargs=network, seed=seed, device="cpu",
        ).learn(STEPS * EPISODES * iterations, callback=noted)  # fmt: skip
        costs.append(np.reshape(noted.costs, (iterations, EPISODES)).mean(1))
    return np.array(costs), (time.process_time() - begun) / (seeds * iterations * EPISODES * STEPS)


def ours(seeds: int, iterations: int) -> tuple[np.ndarray, float]:
    """The same of pilotfish, whose seconds are those after the first iteration, in which it compiles."""
    algorithm = pf.TRPO(
        kl_step=KL, discount=DISCOUNT, trace=TRACE, policy=Network(width=64, activation="tanh", time=False)
    )
    world, ended = GymnasiumTask(env=ENV, functions=str(OBSERVATION), initial_std=STD).world(), list[float]()
    metrics = pf.train(
        algorithm, world, rollouts=EPISODES, iterations=iterations, seeds=range(seeds),
        callbacks=[lambda turn: ended.append(time.process_time())],
    ).metrics  # fmt: skip
    return metrics["cost"], (ended[-1] - ended[0]) / (seeds * (iterations - 1) * EPISODES * STEPS)


def compared(found: dict[str, np.ndarray], at: list[int]) -> Iterator[str]:
    """Means and intervals over seeds after so many iterations, and whether they overlap."""
    yield f"| iteration | {' | '.join(found)} | intervals overlap |"
    yield "| --- | " + "--- | " * (len(found) + 1)
    for i in at:
        intervals = [mean_interval(costs[:, i - 1]) for costs in found.values()]
        said = [f"{middle:.2f} ({low:.2f} to {high:.2f})" for middle, low, high in intervals]
        overlap = max(one.low for one in intervals) <= min(one.high for one in intervals)
        yield f"| {i} | {' | '.join(said)} | {'yes' if overlap else 'no'} |"


def curves(seeds: int, iterations: int) -> None:
    found, seconds = {}, {}
    for name, learn in (("pilotfish", ours), ("sb3-contrib", contrib)):
        found[name], seconds[name] = learn(seeds, iterations)
    at = [i for i in (1, 10, 25, 50, 100, 150, 200) if i <= iterations]
    print("\n".join(compared(found, at)))
    print(", ".join(f"{name}: {1e6 * took:.0f} microseconds a step" for name, took in seconds.items()))


def until(name: str, seeds: int, episodes: int) -> None:
    for seed in range(seeds):
        begun, stop = time.process_time(), Until()
        model = OTHERS[name]("MlpPolicy", environment(), seed=seed, device="cpu")
        model.learn(STEPS * episodes, callback=stop)
        seconds, used = time.process_time() - begun, model.num_timesteps // STEPS
        print(f"{name}, seed {seed}: {used} episodes, {seconds:.0f} CPU s, reached: {stop.reached}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    parts = parser.add_subparsers(dest="part", required=True)
    part = parts.add_parser("curves")
    part.add_argument("--seeds", type=int, default=5)
    part.add_argument("--iterations", type=int, default=200)
    part = parts.add_parser("until")
    part.add_argument("algorithm", choices=list(OTHERS))
    part.add_argument("--seeds", type=int, default=10)
    part.add_argument("--episodes", type=int, default=6000, help="the most of them")
    given = parser.parse_args()
    torch.set_num_threads(1)
    seeds = 2 if given.quick else given.seeds
    if given.part == "curves":
        curves(seeds, 3 if given.quick else given.iterations)
    else:
        until(given.algorithm, seeds, 40 if given.quick else given.episodes)


if __name__ == "__main__":
    main()
