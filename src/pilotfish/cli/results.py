"""The commands that say, draw and hand out what a run learned: evaluate, render, report, export."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import jax
import numpy as np
import tyro

from pilotfish.algorithms import Algorithm
from pilotfish.cli import COMMANDS
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.runs import RunError, loop
from pilotfish.runs.spec import assemble
from pilotfish.runs.statistics import bootstrap_interval, wilson_interval
from pilotfish.runs.store import Run, write_tensors
from pilotfish.tasks import Task
from pilotfish.worlds import World

if TYPE_CHECKING:
    from pilotfish.view.scene import Scene

EVALUATION_ROLLOUTS = 100
EVALUATION_SEED = 1_000_003
"""Evaluations draw from this key, never from one that training used."""


@dataclasses.dataclass
class _Evaluate:
    run: tyro.conf.Positional[Path]
    """The run's folder."""
    rollouts: int = EVALUATION_ROLLOUTS
    """Noise-free rollouts of each seed's policy, from each condition."""
    json: bool = False
    """Print JSON."""


def evaluate(argv: list[str]) -> None:
    """Cost and success of what a run learned."""
    args = tyro.cli(_Evaluate, args=argv, prog="pilotfish evaluate", description=COMMANDS["evaluate"])
    if args.rollouts < 1:
        raise ValueError(f"--rollouts {args.rollouts}: must be 1 or more.")
    run, algorithm, world, states = trained(args.run)
    summary = evaluate_states(run, algorithm, world, states, args.rollouts)
    if args.json:
        print(json.dumps(summary))
    else:
        for name, value in summary["summary"].items():
            print(f"{name}: {value}")


@dataclasses.dataclass
class _Render:
    run: tyro.conf.Positional[Path]
    """The run's folder."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """A .gif, .mp4 (needs pilotfish[video]) or .png (filmstrip); by default film.gif in the run's folder."""
    seed: int | None = None
    """Which seed's policy; by default the one of lowest cost."""


def render(argv: list[str]) -> None:
    """Film what a run learned."""
    from pilotfish.view.scene import scene

    args = tyro.cli(_Render, args=argv, prog="pilotfish render", description=COMMANDS["render"])
    run = Run.open(args.run)
    task, *_ = assemble(run.spec)
    summary = json.loads(_result(run).read_text())
    print(_film(run, task, scene(task), summary, args.output or run.path / "film.gif", args.seed))


@dataclasses.dataclass
class _Report:
    runs: tyro.conf.Positional[list[Path]]
    """The runs' folders."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The page; by default report.html in the first run's folder."""


def report(argv: list[str]) -> None:
    """Write one HTML page about runs."""
    from pilotfish.view import report as view

    args = tyro.cli(_Report, args=argv, prog="pilotfish report", description=COMMANDS["report"])
    if not args.runs:
        raise ValueError("RUNS: name at least one run's folder.")
    runs = [Run.open(path) for path in args.runs]
    print(view.report(runs, args.output or runs[0].path / "report.html"))


@dataclasses.dataclass
class _Export:
    run: tyro.conf.Positional[Path]
    """The run's folder."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The policy's file; by default policy.safetensors in the run's folder."""
    seed: int | None = None
    """Which seed's policy; by default the one of lowest cost."""


def export(argv: list[str]) -> None:
    """Write a policy that acts without jax."""
    args = tyro.cli(_Export, args=argv, prog="pilotfish export", description=COMMANDS["export"])
    run, algorithm, world, states = trained(args.run)
    seed = args.seed
    if seed is None:
        seed = evaluate_states(run, algorithm, world, states, EVALUATION_ROLLOUTS)["best_seed"]
    path = args.output or run.path / "policy.safetensors"
    if path.suffix != ".safetensors":
        raise ValueError(f"-o {path}: a policy is exported as .safetensors.")
    export_policy(run, algorithm, world, states, seed, path)
    print(path)


# -- what several commands do


def trained(path: Path) -> tuple[Run, Algorithm, World, Any]:
    """A run and its newest states."""
    run = Run.open(path)
    _, algorithm, world = assemble(run.spec)
    like = loop.initial(algorithm, world, run.spec.rollouts, loop.root_keys(run.spec.seeds))
    return run, algorithm, world, run.load_checkpoint(like)[1]


def evaluate_states(run: Run, algorithm: Algorithm, world: World, states: Any, samples: int) -> dict[str, Any]:
    """Roll out each seed's policy without noise; keep the rollouts and what they amount to."""
    rollouts = jax.device_get(loop.evaluate(algorithm, world, samples, jax.random.key(EVALUATION_SEED), states))
    cost = rollouts.cost.sum(-1)
    by_seed = np.array([c[v].mean() if v.any() else np.nan for c, v in zip(cost, rollouts.valid, strict=True)])
    seeds = run.spec.seeds
    best = 0 if np.isnan(by_seed).all() else int(np.nanargmin(by_seed))
    summary = {"mean cost of an episode": _with_interval(by_seed, cost[0][rollouts.valid[0]])}
    success = None
    if world.problem.success is not None:
        reached = jax.device_get(jax.vmap(jax.vmap(jax.vmap(world.problem.success)))(rollouts.x, rollouts.u))
        success = (reached & rollouts.valid).mean((1, 2))
        n = reached[0].size
        if len(seeds) == 1:
            low, high = wilson_interval(success[0] * n, n)
        else:
            low, high = bootstrap_interval(success)
        summary["episodes that succeed"] = f"{success.mean():.1%} (95% interval {low:.1%} to {high:.1%})"
        if len(seeds) > 1:
            summary["seeds of which over 90% of episodes succeed"] = f"{(success > 0.9).sum()} of {len(seeds)}"
    summary["noise-free episodes"] = f"{samples} of each of {len(seeds)} seed(s), from each condition"
    keep = min(samples, 8)
    run.save_tensors("evaluation", {"x": rollouts.x[:, :, :keep], "u": rollouts.u[:, :, :keep]})
    result = {
        "summary": summary,
        "seeds": list(seeds),
        "cost": by_seed.tolist(),
        "success": None if success is None else success.tolist(),
        "best_seed": seeds[best],
    }
    run.save_json("evaluation", result)
    return result


def _with_interval(by_seed: np.ndarray, one_seed: np.ndarray) -> str:
    """The mean with a 95% bootstrap interval: over seeds, or over the rollouts of the only one."""
    values = by_seed if len(by_seed) > 1 else one_seed
    if values.size < 2 or np.isnan(values).all():
        return f"{np.nanmean(by_seed):.5g}"
    low, high = bootstrap_interval(values)
    return f"{np.nanmean(values):.5g} (95% interval {low:.5g} to {high:.5g})"


def export_policy(run: Run, algorithm: Algorithm, world: World, states: Any, seed: int, path: Path) -> None:
    state = jax.tree.map(lambda leaf: leaf[_index(run, seed)], states)
    policy = algorithm.exploit(state)
    assert isinstance(policy, LinearGaussianPolicy)
    tensors = policy.tensors()
    if world.problem.action_low is not None:
        tensors |= {
            "action_low": np.asarray(world.problem.action_low),
            "action_high": np.asarray(world.problem.action_high),
        }
    meta = {"policy": "linear-gaussian", "task": run.spec.task["name"], "dt": repr(world.problem.dt)}
    write_tensors(path, tensors, meta | {"seed": str(seed), "pilotfish": run.spec.version})


def _index(run: Run, seed: int) -> int:
    if seed not in run.spec.seeds:
        raise ValueError(f"--seed {seed}: this run has the seeds {', '.join(map(str, run.spec.seeds))}.")
    return run.spec.seeds.index(seed)


def _result(run: Run) -> Path:
    path = run.path / "evaluation.json"
    if not path.exists():
        raise RunError(f"{run.path} is not evaluated yet. First: pilotfish evaluate {run.path}")
    return path


def draw(run: Run, task: Task, summary: dict[str, Any], film: bool) -> None:
    from pilotfish.view import curves

    curves.learning([run], run.path / "curves.png")
    curves.diagnostics(run, run.path / "diagnostics.png")
    if film:
        from pilotfish.view.scene import scene

        try:
            look = scene(task)
            _film(run, task, look, summary, run.path / "filmstrip.png", None)
            _film(run, task, look, summary, run.path / "film.gif", None)
        except RunError as error:
            print(error, file=sys.stderr)


def _film(run: Run, task: Task, look: "Scene", summary: dict[str, Any], path: Path, seed: int | None) -> Path:
    from pilotfish.view import film

    chosen: int = summary["best_seed"] if seed is None else seed
    x = run.load_tensors("evaluation")["x"][_index(run, chosen), :, 0]
    make = film.filmstrip if path.suffix == ".png" else film.film
    caption = f"{run.spec.task['name']}, {run.spec.algorithm['name']}, seed {chosen}"
    return make(path, x, task.problem().dt, look, caption)
