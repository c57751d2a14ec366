"""The commands that say, draw and hand out what a run learned: evaluate, render, report, export."""

import dataclasses
import json
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro

from pilotfish.cli import COMMANDS, complain
from pilotfish.policies import files, onnx
from pilotfish.policies.network import NetworkPolicy
from pilotfish.runs import RunError, evaluation, loop, tables
from pilotfish.runs.store import METRICS, Run, write, write_tensors
from pilotfish.tasks import Task

if TYPE_CHECKING:
    from pilotfish.view.scene import Scene

PICTURES = (".pdf", ".svg", ".png")
PORTS = 65_536
TABLES = (".csv", ".parquet")
"""What metrics are written as."""


@dataclasses.dataclass
class _Evaluate:
    run: tyro.conf.Positional[Path]
    """The run's folder."""
    rollouts: int | None = None
    """Noise-free rollouts of each seed's policy, from each condition; by default 100, and one of a robot."""
    held_out: bool = False
    """From the conditions that the task keeps for testing, instead of those of training."""
    local: bool = False
    """The local controllers that teach a network, instead of the network."""
    trust: bool = False
    """Run the code that the run names, though it was made elsewhere: once said, it holds."""
    json: bool = False
    """Print JSON."""


def evaluate(argv: list[str]) -> None:
    """Cost and success of what a run learned."""
    args = tyro.cli(_Evaluate, args=argv, prog="pilotfish evaluate", description=COMMANDS["evaluate"])
    if args.rollouts is not None and args.rollouts < 1:
        raise ValueError(f"--rollouts {args.rollouts}: must be 1 or more.")
    run = Run.open(args.run, trust=args.trust)
    found = run.evaluate(args.rollouts, "held-out" if args.held_out else "trained", args.local)
    if args.json:
        print(json.dumps(found.numbers()))
    else:
        for name, value in found.summary.items():
            print(f"{name}: {value}")
    if not (args.held_out or args.local):  # what films show
        _keep(run, found)


def _keep(run: Run, found: evaluation.Evaluation) -> None:
    """Leave an evaluation in the run's folder; what is against it is said, and the evaluation is done all the same."""
    try:
        if not evaluation.keep(run, found):
            complain(f"not kept: {run.path} has an evaluation of more episodes.", 0)
    except RunError as error:
        complain(f"not kept: {error}", 0)


@dataclasses.dataclass
class _Render:
    run: tyro.conf.Positional[Path]
    """The run's folder."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """A .gif, .mp4 (needs pilotfish[video]) or .png (filmstrip); by default film.gif in the run's folder, or
    film-held-out.gif, film-local.gif."""
    seed: int | None = None
    """Which seed's policy; by default the one of lowest cost."""
    held_out: bool = False
    """From the conditions that the task keeps for testing, instead of those of training."""
    local: bool = False
    """The local controllers that teach a network, instead of the network."""
    trust: bool = False
    """Run the code that the run names, though it was made elsewhere: once said, it holds."""


def render(argv: list[str]) -> None:
    """Film what a run learned."""
    from pilotfish.view.scene import scene

    args = tyro.cli(_Render, args=argv, prog="pilotfish render", description=COMMANDS["render"])
    run = Run.open(args.run, trust=args.trust)
    name = "film" + "-held-out" * args.held_out + "-local" * args.local + ".gif"
    path = _output(args.output, run.path / name, ".gif", ".mp4", ".png")
    if not (args.held_out or args.local):
        if (summary := run.evaluation()) is None:
            raise RunError(f"{run.path} is not evaluated yet. First: pilotfish evaluate {run.path}")
        x, best = run.load_tensors("evaluation")["x"], summary["best_seed"]
    else:
        found = run.evaluate(1, "held-out" if args.held_out else "trained", args.local)
        x, best = np.asarray(found.rollouts.x), found.best_seed
    task, *_ = run.assemble()
    if args.held_out and isinstance(task, evaluation.Generalises):
        task = task.held_out()
    print(_film(run, task, scene(task), x, best if args.seed is None else args.seed, path))


@dataclasses.dataclass
class _Report:
    runs: tyro.conf.Positional[list[Path]]
    """The runs' folders."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The page (.html), by default report.html in the first run's folder; or the curves alone as a picture for print:
    .pdf, .svg or .png."""
    live: bool = False
    """Serve the page to this machine's browser and renew it while the runs train; Ctrl-C ends that."""
    port: int = 0
    """Where --live serves it; 0 takes a free port."""


def report(argv: list[str]) -> None:
    """Write one HTML page about runs."""
    from pilotfish.view import report as view

    args = tyro.cli(_Report, args=argv, prog="pilotfish report", description=COMMANDS["report"])
    if not args.runs:
        raise ValueError("RUNS: name at least one run's folder.")
    runs = [Run.open(path) for path in args.runs]
    if args.live:
        _serve(args)
        return
    path = _output(args.output, runs[0].path / "report.html", ".html", *PICTURES)
    if path.suffix == ".html":
        print(view.report(runs, path))
    else:
        for picture in _curves(runs, path):
            print(picture)


def _serve(args: _Report) -> None:
    from pilotfish.view import live

    if args.output:
        raise ValueError(f"--live and -o {args.output}: give one of them; a page that is served is not written.")
    if not 0 <= args.port < PORTS:
        raise ValueError(f"--port {args.port}: give 0, or a number up to {PORTS - 1}.")
    try:
        served = live.server(args.runs, args.port)
    except OSError as error:
        raise ValueError(f"--port {args.port}: {error.strerror}. Leave it out: a free one is taken.") from error
    with served:
        print(f"http://127.0.0.1:{served.server_port}/ (Ctrl-C ends it)", flush=True)
        with suppress(KeyboardInterrupt):
            served.serve_forever()


def _curves(runs: list[Run], path: Path) -> list[Path]:
    """Learning curves, a picture for each task; of a single run its diagnostics, too."""
    from pilotfish.view import curves
    from pilotfish.view.report import by_task

    groups = by_task(runs)
    if empty := [run for run in runs if "cost" not in run.metrics()]:
        raise RunError(f"{empty[0].path}: no iteration has ended yet, so there is nothing to draw.")
    written = []
    for number, group in enumerate(groups.values()):
        beside = path if len(groups) == 1 else path.with_stem(f"{path.stem}-{number + 1}")
        written.append(curves.learning([run for _, run in group], beside))
    if len(runs) == 1:
        written.append(curves.diagnostics(runs[0], path.with_stem(f"{path.stem}-diagnostics")))
    return written


@dataclasses.dataclass
class _Export:
    run: tyro.conf.Positional[Path]
    """The run's folder."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The policy's file; by default policy.safetensors in the run's folder, or local.safetensors. The metrics' file; by
    default metrics-long.csv there, or metrics-long.parquet."""
    format: Literal["safetensors", "onnx", "csv", "parquet"] | None = None
    """What it is written as: arrays that ten lines of NumPy act by, or an ONNX model, for onnxruntime and others; csv
    and parquet (needs pilotfish[parquet]) are the metrics in place of a policy. By default what the name of -o ends
    in."""
    seed: int | None = None
    """Which seed's policy, by default the one of lowest cost; or which seed's metrics, by default all."""
    local: bool = False
    """The local controllers that teach a network, one for each condition, instead of the network."""
    trust: bool = False
    """Run the code that the run names, though it was made elsewhere: once said, it holds."""


def export(argv: list[str]) -> None:
    """Write a policy that acts without jax, or the metrics as a table."""
    args = tyro.cli(_Export, args=argv, prog="pilotfish export", description=COMMANDS["export"])
    run = Run.open(args.run, trust=args.trust)
    kind = f".{args.format}" if args.format else args.output.suffix if args.output else ".safetensors"
    kinds = (kind,) if args.format else (".safetensors", ".onnx", *TABLES)
    name = "metrics-long" if kind in TABLES else "local" if args.local else "policy"
    path = _output(args.output, run.path / f"{name}{kind}", *kinds)
    own = path.parent.resolve() == run.path.resolve()
    if own and path.name.startswith(("checkpoint", "evaluation", METRICS)):
        raise ValueError(f"-o {path}: this is the run's own {path.name}. Choose another name.")
    content = _table(run, args, kind) if kind in TABLES else _policy(run, args, kind)
    with run.writing() if own else nullcontext():
        write(path, content)
    print(path)


def _policy(run: Run, args: _Export, kind: str) -> bytes:
    seed = _best_seed(run) if args.seed is None else args.seed
    tensors, words = evaluation.pack(run, evaluation.trained(run, args.local), seed)
    return onnx.written(tensors, words) if kind == ".onnx" else files.written(tensors, words)


def _table(run: Run, args: _Export, kind: str) -> bytes:
    if args.local:
        raise ValueError(f"--local: {kind} files hold metrics, not policies. Leave it out.")
    if args.seed is not None:
        run.index(args.seed)
    return tables.written(run, kind, None if args.seed is None else [args.seed])


class Learned(NamedTuple):
    """Files, in a run's folder, of what its best seed learned; at least one of them."""

    local: Path | None
    """Its local controllers: what it deploys, or what taught that."""
    network: Path | None


def learned_of(run: Run) -> Learned:
    """The files of what a run learned, from which another begins."""
    found, seed = evaluation.trained(run), _best_seed(run)
    state = loop.of_seed(found.states, run.index(seed))
    teaches = found.algorithm.local(state) is not None
    deploys_network = isinstance(found.algorithm.exploit(state), NetworkPolicy)
    teachers = found._replace(algorithm=evaluation.Teachers(found.algorithm)) if teaches else found
    files = {
        "local": None if deploys_network and not teaches else teachers,
        "network": found if deploys_network else None,
    }
    with run.writing():
        for name, one in files.items():
            if one is not None:
                write_tensors(run.path / f"{name}.safetensors", *evaluation.pack(run, one, seed))
    return Learned(*(one and run.path / f"{name}.safetensors" for name, one in files.items()))


def _best_seed(run: Run) -> int:
    """By the evaluation that the run's folder holds if that is of its newest policies, else by a new one."""
    found = run.evaluation()
    if found is not None and found["iteration"] == run.done():
        return found["best_seed"]
    return run.evaluate().best_seed


# -- what several commands do


def _output(chosen: Path | None, otherwise: Path, *kinds: str) -> Path:
    """Where to write a file of one of these kinds; its folder is made."""
    path = chosen or otherwise
    if path.suffix not in kinds:
        raise ValueError(f"-o {path}: choose a name that ends in {', '.join(kinds)}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def draw(run: Run, task: Task, summary: dict[str, Any], film: bool) -> None:
    from pilotfish.view import curves

    curves.learning([run], run.path / "curves.png")
    curves.diagnostics(run, run.path / "diagnostics.png")
    if film:
        from pilotfish.view.scene import scene

        try:
            look = scene(task)
            x = run.load_tensors("evaluation")["x"]
            for name in ("filmstrip.png", "film.gif"):
                _film(run, task, look, x, summary["best_seed"], run.path / name)
        except RunError as error:
            complain(str(error), 0)


def _film(run: Run, task: Task, look: "Scene", x: np.ndarray, seed: int, path: Path) -> Path:
    """The first episode of a seed from each condition; x (S, N, M, T+1, dx)."""
    from pilotfish.view import film
    from pilotfish.view.scene import to_the_end

    make = film.filmstrip if path.suffix == ".png" else film.film
    caption = f"{run.spec.task['name']}, {run.spec.algorithm['name']}, seed {seed}"
    return make(path, to_the_end(task, x[run.index(seed), :, 0]), task.problem().dt, look, caption)
