"""What each command of the command line does. `cli.py` imports this file only when a command needs it."""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from pilotfish import algorithms, tasks
from pilotfish.algorithms import Algorithm
from pilotfish.cli import COMMANDS
from pilotfish.experiments import setups
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.runs import loop
from pilotfish.runs.loop import Turn
from pilotfish.runs.statistics import bootstrap_interval, wilson_interval
from pilotfish.runs.store import Run, RunError, Spec, write_tensors
from pilotfish.runs.train import explain
from pilotfish.runs.train import train as turn_the_crank
from pilotfish.tasks import Task

EVALUATION_ROLLOUTS = 100
EVALUATION_SEED = 1_000_003
"""Evaluations draw from this key, never from one that training used."""


def list_(argv: list[str]) -> None:
    """Print all tasks and algorithms."""
    args = tyro.cli(_List, args=argv, prog="pilotfish list", description="Tasks and algorithms.")
    registries = {"tasks": tasks.registry(), "algorithms": algorithms.registry()}
    if args.json:
        print(json.dumps({kind: {e.name: e.summary for e in r.values()} for kind, r in registries.items()}, indent=2))
        return
    for kind, registry in registries.items():
        print(f"{kind}:")
        for entry in registry.values():
            print(f"  {entry.name:16s} {entry.summary}")


@dataclasses.dataclass
class _List:
    json: bool = False
    """Print JSON."""


@dataclasses.dataclass
class _Train:
    algorithm: Algorithm
    task: Task
    rollouts: int
    """Rollouts from each condition in an iteration."""
    iterations: int
    """Number of iterations."""
    seed: int = 0
    """The seed, or the first of several."""
    seeds: int = 1
    """Number of seeds to run: curves then show their mean and 95% interval."""
    out: Path | None = None
    """The run's folder; by default runs/TASK-ALGORITHM-NUMBER."""
    checkpoint_every: int = 10
    """Iterations between checkpoints."""
    film: bool = True
    """Film what was learned."""
    json: bool = False
    """Print the results as JSON; everything else goes to the error stream."""


def train(argv: list[str]) -> int:
    """Learn a controller for a task."""
    task_name, algorithm_name, rest = _names(argv)
    task = setups.named(tasks.registry(), task_name, "task").make()
    setups.named(algorithms.registry(), algorithm_name, "algorithm")
    default = setups.setup(task_name, algorithm_name)
    args = tyro.cli(
        _Train,
        args=rest,
        prog=f"pilotfish train {task_name}",
        default=_Train(default.algorithm, task, default.rollouts, default.iterations),
        description=f"Learn {task_name} with {algorithm_name}. --algorithm NAME chooses another algorithm.",
    )
    for name, least in (("iterations", 1), ("seeds", 1), ("checkpoint_every", 1), ("seed", 0)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(args, name)}: must be {least} or more.")
    spec = Spec(
        task={"name": task_name, "options": setups.options(args.task)},
        algorithm={"name": algorithm_name, "options": setups.options(args.algorithm)},
        rollouts=args.rollouts,
        iterations=args.iterations,
        seeds=list(range(args.seed, args.seed + args.seeds)),
        checkpoint_every=args.checkpoint_every,
    )
    _, algorithm, world = setups.assemble(spec)
    loop.check(algorithm, world, args.rollouts)  # before the folder exists
    return _run(Run.create(args.out or _free_folder(task_name, algorithm_name), spec), args.film, args.json)


@dataclasses.dataclass
class _Resume:
    run: tyro.conf.Positional[Path]
    """The run's folder."""
    iterations: int | None = None
    """Go on until this many iterations, instead of those the run was started with."""
    film: bool = True
    """Film what was learned."""
    json: bool = False
    """Print the results as JSON."""


def resume(argv: list[str]) -> int:
    """Go on with a run exactly where it stopped."""
    args = tyro.cli(_Resume, args=argv, prog="pilotfish resume", description=COMMANDS["resume"])
    run = Run.open(args.run)
    run.check_resumable()
    if args.iterations is not None:
        if args.iterations < 1:
            raise ValueError(f"--iterations {args.iterations}: must be 1 or more.")
        run.extend(args.iterations)
    return _run(run, args.film, args.json)


def _run(run: Run, film: bool, as_json: bool) -> int:
    """Train, evaluate, draw, and say what came of it."""
    task, algorithm, world = setups.assemble(run.spec)
    console = Console(file=sys.stderr if as_json else sys.stdout, highlight=False)
    console.print(f"{run.spec.algorithm['name']} on {run.spec.task['name']}, {len(run.spec.seeds)} seed(s) -> {run.path}", soft_wrap=True)
    try:
        with _Watch(console, run.spec) as watch:
            result = turn_the_crank(
                algorithm,
                world,
                rollouts=run.spec.rollouts,
                iterations=run.spec.iterations,
                seeds=run.spec.seeds,
                run=run,
                observe=watch,
            )
    except KeyboardInterrupt:
        console.print(f"interrupted. Go on with: pilotfish resume {run.path}", style="bold", soft_wrap=True)
        return 130
    summary = _evaluate(run, task, algorithm, world, result.states, EVALUATION_ROLLOUTS)
    _export(run, algorithm, result.states, summary["best_seed"], run.path / "policy.safetensors")
    _draw(run, task, summary, film)
    if as_json:
        print(json.dumps({"run": str(run.path), **summary}))
    else:
        for name, value in summary["summary"].items():
            console.print(f"  {name}: {value}", soft_wrap=True)
        files = ", ".join(sorted(p.name for p in run.path.iterdir() if p.name[0] != "."))
        console.print(f"  in {run.path}: {files}", soft_wrap=True)
    return 0


class _Watch:
    """A live table on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console, spec: Spec):
        self.console, self.spec = console, spec
        self.bound = spec.algorithm["options"].get("kl_step")
        columns = ("{task.description}", BarColumn(), TextColumn("{task.completed}/{task.total}"))
        self.progress = Progress(
            *columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console
        )
        self.bar = self.progress.add_task("compiling", total=spec.iterations)
        self.rows: list[tuple[str, ...]] = []
        self.live = Live(console=console, refresh_per_second=8, transient=True) if console.is_terminal else None
        self.began: tuple[int, float] | None = None
        """Number and time of the first iteration that ended: it took the compilation with it."""

    def __enter__(self) -> "_Watch":
        if self.live is not None:
            self.live.start()
            self.live.update(self.progress)
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()
            self.console.print(self._table())

    def __call__(self, turn: Turn) -> None:
        columns = loop_columns(turn)
        refused = [s for s, ok in enumerate(np.atleast_1d(turn.report.info.ok)) if not ok]
        for s in refused:
            self.console.print(f"seed {self.spec.seeds[s]}: update refused, {explain(turn, s)}", style="yellow", soft_wrap=True)
        row = (str(turn.i + 1), *columns)
        if self.live is not None:
            self.rows = [*self.rows[-14:], row]
            self.progress.update(self.bar, completed=turn.i + 1, description="learning")
            self.live.update(self._table(self.progress))
        else:
            names = ("cost", "success", f"kl (<= {self.bound:g})" if self.bound else "kl", "entropy", "samples")
            text = "  ".join(f"{name} {value}" for name, value in zip(names, columns, strict=True))
            self.console.print(f"{turn.i + 1:4d}/{self.spec.iterations}  {text}{self._left(turn.i)}", soft_wrap=True)

    def _left(self, i: int) -> str:
        """Time left, once it can be told."""
        if self.began is None:
            self.began = (i, time.monotonic())
            return ""
        first, began = self.began
        left = (time.monotonic() - began) / (i - first) * (self.spec.iterations - i - 1)
        return f"  left {left:.0f} s"

    def _table(self, below: Any = None) -> Any:
        table = Table(box=None, header_style="dim", caption_justify="left")
        bound = f"KL (<= {self.bound:g})" if self.bound else "KL"
        for name in ("iteration", "cost", "success", bound, "entropy", "effective samples"):
            table.add_column(name, justify="right")
        for row in self.rows:
            table.add_row(*row)
        if below is None:
            return table
        grid = Table.grid()
        grid.add_row(table)
        grid.add_row(below)
        return grid


def loop_columns(turn: Turn) -> tuple[str, ...]:
    """Mean over seeds of what one watches: cost, success, KL, entropy, effective samples."""
    outcome, info = turn.report.outcome, turn.report.info

    def mean(source: Any, name: str, form: str) -> str:
        values = np.asarray(getattr(source, name, np.nan), float)
        return "-" if np.isnan(values).all() else form.format(np.nanmean(values))

    return (
        mean(outcome, "cost", "{:.4g}"),
        mean(outcome, "success", "{:.0%}"),
        mean(info, "kl", "{:.3f}"),
        mean(info, "entropy", "{:.2f}"),
        mean(info, "ess", "{:.0f}"),
    )


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
    run, task, algorithm, world, states = _trained(args.run)
    summary = _evaluate(run, task, algorithm, world, states, args.rollouts)
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
    args = tyro.cli(_Render, args=argv, prog="pilotfish render", description=COMMANDS["render"])
    run = Run.open(args.run)
    task, *_ = setups.assemble(run.spec)
    summary = json.loads(_result(run).read_text())
    print(_film(run, task, summary, args.output or run.path / "film.gif", args.seed))


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
    run, task, algorithm, world, states = _trained(args.run)
    seed = args.seed
    if seed is None:
        seed = _evaluate(run, task, algorithm, world, states, EVALUATION_ROLLOUTS)["best_seed"]
    path = args.output or run.path / "policy.safetensors"
    if path.suffix != ".safetensors":
        raise ValueError(f"-o {path}: a policy is exported as .safetensors.")
    _export(run, algorithm, states, seed, path)
    print(path)


# -- what several commands do


def _names(argv: list[str]) -> tuple[str, str, list[str]]:
    """The task and the algorithm, which decide what other options there are and their defaults; and the rest."""
    rest = list(argv)
    algorithm = "moto"
    for i, word in enumerate(rest):
        if word == "--algorithm":
            if i + 1 == len(rest):
                raise ValueError(f"--algorithm: name one of {', '.join(algorithms.registry())}.")
            algorithm = rest[i + 1]
            del rest[i : i + 2]
            break
        if word.startswith("--algorithm="):
            algorithm = word.split("=", 1)[1]
            del rest[i]
            break
    if not rest or rest[0].startswith("-"):
        known = ", ".join(tasks.registry())
        raise ValueError(f"usage: pilotfish train TASK [OPTIONS], where TASK is one of {known}.")
    return rest[0], algorithm, rest[1:]


def _free_folder(task: str, algorithm: str) -> Path:
    number = 1
    while (path := Path("runs") / f"{task}-{algorithm}-{number}").exists():
        number += 1
    return path


def _trained(path: Path) -> tuple[Run, Task, Algorithm, Any, Any]:
    """A run and its newest states."""
    run = Run.open(path)
    task, algorithm, world = setups.assemble(run.spec)
    like = loop.initial(algorithm, world, run.spec.rollouts, loop.root_keys(run.spec.seeds))
    return run, task, algorithm, world, run.load_checkpoint(like)[1]


def _evaluate(run: Run, task: Task, algorithm: Algorithm, world: Any, states: Any, samples: int) -> dict[str, Any]:
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
    (run.path / "evaluation.json").write_text(json.dumps(result, indent=2))
    return result


def _with_interval(by_seed: np.ndarray, one_seed: np.ndarray) -> str:
    """The mean with a 95% bootstrap interval: over seeds, or over the rollouts of the only one."""
    values = by_seed if len(by_seed) > 1 else one_seed
    if values.size < 2 or np.isnan(values).all():
        return f"{np.nanmean(by_seed):.5g}"
    low, high = bootstrap_interval(values)
    return f"{np.nanmean(values):.5g} (95% interval {low:.5g} to {high:.5g})"


def _export(run: Run, algorithm: Algorithm, states: Any, seed: int, path: Path) -> None:
    state = jax.tree.map(lambda leaf: leaf[_index(run, seed)], states)
    policy = algorithm.explore(state)
    assert isinstance(policy, LinearGaussianPolicy)
    task, _, world = setups.assemble(run.spec)
    tensors = policy.tensors()
    if world.problem.action_low is not None:
        tensors |= {"action_low": np.asarray(world.problem.action_low), "action_high": np.asarray(world.problem.action_high)}
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


def _draw(run: Run, task: Task, summary: dict[str, Any], film: bool) -> None:
    from pilotfish.view import curves

    curves.learning([run], run.path / "curves.png")
    curves.diagnostics(run, run.path / "diagnostics.png")
    if film:
        _film(run, task, summary, run.path / "filmstrip.png", None)
        _film(run, task, summary, run.path / "film.gif", None)


def _film(run: Run, task: Task, summary: dict[str, Any], path: Path, seed: int | None) -> Path:
    from pilotfish.view import film

    seed = summary["best_seed"] if seed is None else seed
    x = run.load_tensors("evaluation")["x"][_index(run, seed), 0, 0]
    make = film.filmstrip if path.suffix == ".png" else film.film
    caption = f"{run.spec.task['name']}, {run.spec.algorithm['name']}, seed {seed}"
    return make(path, x, task.problem().dt, task.draw, task.extent, caption)
