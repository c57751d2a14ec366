"""The command that shows what was learned with this library, without learning anything: demo."""

import dataclasses
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro

from pilotfish import tasks
from pilotfish.cli import COMMANDS
from pilotfish.demos import demos
from pilotfish.policies import files
from pilotfish.registry import nearest


@dataclasses.dataclass
class _Demo:
    name: tyro.conf.Positional[str] = ""
    """Which; without one they are listed."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """A .gif, .mp4 (needs pilotfish[video]) or .png (filmstrip); by default NAME.gif."""


def demo(argv: list[str]) -> None:
    """Film one of the policies that come with the package, or list them."""
    args = tyro.cli(_Demo, args=argv, prog="pilotfish demo", description=COMMANDS["demo"])
    known = demos()
    if not args.name:
        for one in known.values():
            print(f"{one.name:24} {one.algorithm:10} {tasks.find(one.task).about()}")
        return
    if args.name not in known:
        raise ValueError(f"there is no demo {args.name}: {nearest(args.name, known)}")
    from pilotfish.view import film
    from pilotfish.view.scene import scene, to_the_end

    chosen = known[args.name]
    task = tasks.find(chosen.task).make()
    path = args.output or Path(f"{args.name}.gif")
    look, world = scene(task), task.world()
    rollouts = world.rollout(files.load(chosen.path), 1, jax.random.key(0))
    problem, x = world.problem, np.asarray(rollouts.x[:, 0])
    make = film.filmstrip if path.suffix == ".png" else film.film
    path.parent.mkdir(parents=True, exist_ok=True)
    print(make(path, to_the_end(task, x), problem.dt, look, f"{chosen.task}, {chosen.algorithm}"))
    cost = np.asarray(rollouts.cost[:, 0].sum(-1))
    print(f"such a one is learned by: {chosen.command}")
    print(f"cost of an episode: {cost.mean():.4g}" + (f", mean over {len(cost)} conditions" if len(cost) > 1 else ""))
    if problem.success is not None:
        reached = jax.vmap(problem.reaches)(rollouts.x[:, 0], rollouts.u[:, 0], rollouts.cost[:, 0])
        print(f"reaches its goal: in {int(reached.sum())} of {len(cost)} episodes")
