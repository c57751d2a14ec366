"""The commands that start or continue learning: train, resume."""

import dataclasses
import json
import re
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import IO, Any, Literal, cast, get_args

import tyro
from rich.console import Console

from pilotfish import algorithms, experiments, nodes, tasks
from pilotfish.algorithms import Algorithm
from pilotfish.cli import COMMANDS
from pilotfish.cli.results import draw, learned_of
from pilotfish.cli.watch import Listener, Seeds, Watch
from pilotfish.experiments.rows import Preference, preferred
from pilotfish.policies.files import holds_policy, load
from pilotfish.policies.network import Network, NetworkPolicy
from pilotfish.registry import of_file
from pilotfish.runs import RunError, cluster, evaluation, logs, parts, settings
from pilotfish.runs.arms import train_as_specified
from pilotfish.runs.measured import measuring
from pilotfish.runs.settings import Settings
from pilotfish.runs.spec import SEEDS, Spec, assemble, overlaid
from pilotfish.runs.store import Run
from pilotfish.runs.train import Result, TrainingFailed, check
from pilotfish.runs.verdict import verdict
from pilotfish.tasks import Task
from pilotfish.worlds import World

COST = re.compile(r"^--cost(?=$|=)")
"""What is short for --task.cost."""
CLASS = re.compile(r"(--algorithm\.([\w-]+)\.class)(=.*)?")
"""What says of which class a part of the algorithm is."""
TEACHER, LOCAL, NETWORK = "--algorithm.teacher", "--demonstration", "--algorithm.policy.start"
"""What takes a file of what another run learned: `--teacher RUN` and `--from RUN` stand for these."""
PREFERENCES = get_args(Preference)
MANY = 10
"""Rollouts of an iteration, beside which one noise-free episode hardly counts."""


@dataclasses.dataclass
class _Train:
    algorithm: Algorithm
    task: Task
    rollouts: int
    """Rollouts from each condition in an iteration."""
    iterations: int
    """Number of iterations."""
    prefer: Preference | None = None
    """Begin with the settings that were measured to be the best for the task, by what one prefers: low costs at the
    end, few episodes until it succeeds, or little computing. What else is said comes after them."""
    seed: int = 0
    """The seed, or the first of several."""
    seeds: int = 1
    """Number of seeds to run: curves then show their mean and 95% interval."""
    out: Path | None = None
    """The run's folder; by default runs/TASK-ALGORITHM-NUMBER."""
    demonstration: Path | None = None
    """A file of times, states and actions of one episode (.csv, .npz, .safetensors), whose actions are the first
    controllers'; or of a policy (.safetensors), whose controllers these are."""
    measured: int | None = None
    """Noise-free episodes from each condition in every iteration, by which the best policy is deployed; 0 leaves the
    choice to the algorithm. By default as set up for the task, or 1 where an iteration has 10 rollouts or more."""
    checkpoint_every: int = 10
    """Iterations between checkpoints."""
    film: bool = True
    """Film what was learned."""
    log: tyro.conf.UseAppendAction[tuple[Literal["tensorboard", "wandb"], ...]] = ()
    """Also log to TensorBoard, or to Weights & Biases, in the run's folder; may be given for each."""
    ray: str = ""
    """Learn on a cluster of Ray, every seed on one core: auto for the one that runs here, its HOST:PORT, or local for
    the cores of this machine. Needs pilotfish[ray]."""
    json: bool = False
    """Print the results as JSON; everything else goes to the error stream."""


def train(argv: list[str]) -> int:
    """Learn a controller for a task."""
    args, spec = asked(argv, "train")
    logs.check(args.log)
    check_ray(args.ray, args.log)
    assembled = _, algorithm, world = assemble(spec)
    check(algorithm, world, args.rollouts, spec.measured)  # before the folder exists
    if args.ray:
        parts.check(world)
    run = Run.create(args.out, spec) if args.out else _create_numbered(named(spec), spec)
    with run.writing():
        return _run(run, assembled, args.film, args.json, args.log, args.ray)


def check_ray(address: str, log: Sequence[str] = ()) -> None:
    """ValueError, before anything is begun, where --ray cannot be had, or not with that log."""
    if address:
        nodes.check_installed()
    if address and "wandb" in log:
        raise ValueError("--ray --log wandb: seeds that learn apart are logged to TensorBoard only. Leave out either.")


def asked(argv: list[str], command: str) -> tuple[_Train, Spec]:
    """The settings that the words of a command give, and the run that they ask for."""
    given, words = _configured(_preferring(argv))
    task_name, algorithm_name, rest = _names(words, given.given, command)
    rest, parts = _of_classes(rest)
    entries = tasks.find(task_name), algorithms.find(algorithm_name)
    default = experiments.setup(task_name, algorithm_name)
    algorithm = overlaid(default.algorithm, given.algorithm, "settings.algorithm.")
    algorithm = overlaid(algorithm, parts, "--algorithm.")
    task = overlaid(entries[0].make(), given.task, "settings.task.")
    seeds: list[int] = given.given.get("seeds", [0])
    counts = {name: value for name, value in given.given.items() if name in settings.NUMBERS}
    shown = {"demonstration": Path(given.given["demonstration"])} if "demonstration" in given.given else {}
    sizes = {"measured": default.measured, "seed": seeds[0], "seeds": len(seeds)}
    base = _Train(algorithm, task, default.rollouts, default.iterations, **sizes)
    args = tyro.cli(
        _Train,
        args=rest,
        prog=f"pilotfish {command} {entries[0].name}",
        default=dataclasses.replace(base, **counts, **shown),
        description=f"Learn {entries[0].name} with {entries[1].name}. --algorithm NAME chooses another algorithm.",
    )
    if (args.seed, args.seeds) != (seeds[0], len(seeds)):
        seeds = [*range(args.seed, args.seed + args.seeds)]
    for name, least in (("measured", 0), ("iterations", 1), ("seeds", 1), ("checkpoint_every", 1), ("seed", 0)):
        if (value := getattr(args, name)) is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} {value}: must be {least} or more.")
    if args.seed + args.seeds > SEEDS:
        raise ValueError(f"--seed {args.seed} --seeds {args.seeds}: seeds must be below {SEEDS}.")
    spec = Spec.of(
        (task_name, args.task),
        (algorithm_name, args.algorithm),
        rollouts=args.rollouts,
        iterations=args.iterations,
        seeds=seeds,
        checkpoint_every=args.checkpoint_every,
        measured=int(args.rollouts >= MANY) if args.measured is None else args.measured,
        demonstration=str(args.demonstration or ""),
    )
    return args, spec


def named(spec: Spec) -> str:
    """A run's task and algorithm as the name of a folder."""
    return f"{_word(spec.task['name'])}-{_word(spec.algorithm['name'])}"


@dataclasses.dataclass
class _Resume:
    run: tyro.conf.Positional[Path]
    """The run's folder."""
    iterations: int | None = None
    """Go on until this many iterations, instead of those the run was started with."""
    film: bool = True
    """Film what was learned."""
    trust: bool = False
    """Run the code that the run names, though it was made elsewhere: once said, it holds."""
    ray: str = ""
    """Go on on a cluster of Ray: auto, its HOST:PORT, or local."""
    json: bool = False
    """Print the results as JSON."""


def resume(argv: list[str]) -> int:
    """Go on with a run exactly where it stopped."""
    args = tyro.cli(_Resume, args=argv, prog="pilotfish resume", description=COMMANDS["resume"])
    check_ray(args.ray)
    run = Run.open(args.run, trust=args.trust)
    run.check_resumable()
    assembled = run.assemble()  # before anything is written
    with run.writing():
        if args.iterations is not None:
            if args.iterations < 1:
                raise ValueError(f"--iterations {args.iterations}: must be 1 or more.")
            run.extend(args.iterations)
        return _run(run, assembled, args.film, args.json, ray=args.ray)


def _run(
    run: Run,
    assembled: tuple[Task, Algorithm, World],
    film: bool,
    as_json: bool,
    log: Sequence[str] = (),
    ray: str = "",
) -> int:
    """Train, evaluate, draw, and say what came of it; `log` as well as what logged the run before. `ray`: where."""
    task, algorithm, world = assembled
    learner = measuring(algorithm, world, run.spec.measured)
    listener = Listener(sys.stderr if as_json else sys.stdout, f"learning goes on, and all is kept in {run.path}.")
    console = Console(file=cast(IO[str], listener), highlight=False, emoji=False)
    console.print(
        f"{run.spec.algorithm['name']} on {run.spec.task['name']}, {len(run.spec.seeds)} seed(s) -> {run.path}",
        soft_wrap=True,
    )
    if caution := algorithm.caution(world.problem, run.spec.rollouts):
        console.print(caution, style="yellow", soft_wrap=True)
    try:
        result = _learned(run, assembled, console, log, ray)
    except KeyboardInterrupt:
        console.print(f"interrupted. Go on with: pilotfish resume {run.path}", style="bold", soft_wrap=True)
        return 130
    except (RunError, OSError) as error:
        kept = f"What was learned before is in {run.path}. Go on with: pilotfish resume {run.path}"
        begun = run.done() or run.divided
        raise RunError(f"{error} {kept if begun else 'Nothing is kept: train anew.'}") from error
    learned = evaluation.Trained(task, learner, world, result.states)
    found = evaluation.judge(run, learned, evaluation.usual(world))
    evaluation.keep(run, found)
    run.save_tensors("policy", *evaluation.pack(run, learned, found.best_seed))
    summary = found.as_json()
    draw(run, task, summary, film)
    if as_json:
        print(json.dumps({"run": str(run.path), **found.numbers()}))
    else:
        for name, value in summary["summary"].items():
            console.print(f"  {name}: {value}", soft_wrap=True)
        for one in verdict(run):
            console.print(f"  {one.words}", style="yellow" if one.mood == "bad" else None, soft_wrap=True)
        files = ", ".join(sorted(p.name for p in run.path.iterdir() if p.name[0] != "."))
        console.print(f"  in {run.path}: {files}", soft_wrap=True)
    return 0


def _learned(
    run: Run, assembled: tuple[Task, Algorithm, World], console: Console, log: Sequence[str], ray: str
) -> Result:
    """What a run comes to that goes on until its last iteration: here, or its seeds on a cluster."""
    _, algorithm, world = assembled
    if ray or run.divided:
        with Seeds(console, [run]) as watch:
            why = cluster.finish([run], ray, log, watch)[0] if ray else parts.finish(run, log, watch)
        if why:
            raise TrainingFailed(why)
    learner = measuring(algorithm, world, run.spec.measured)
    with logs.of_run(run, log) as logging, Watch(console, run.spec, learner, world.problem) as watch:
        return train_as_specified(run, algorithm, world, [watch, *logging])


def _preferring(argv: list[str]) -> list[str]:
    """The words with those in place of --prefer that it stands for, before all others but the task."""
    preference, words = _taken(argv, "--prefer", f"say what: {', '.join(PREFERENCES)}")
    if preference is None:
        return words
    if preference not in PREFERENCES:
        raise ValueError(f"--prefer {preference}: choose one of {', '.join(PREFERENCES)}.")
    if not words or words[0].startswith("-"):
        raise ValueError(
            f"--prefer {preference}: name the task first, as in `pilotfish train double-link --prefer ...`."
        )
    _check_free(words, "--prefer", "--algorithm")
    return [words[0], *preferred(words[0], cast(Preference, preference)), *words[1:]]


def _configured(argv: list[str]) -> tuple[Settings, list[str]]:
    """What a file of settings says, if --config names one, and the other words."""
    path, words = _taken(argv, "--config", "name a file of settings, such as a run's config.toml")
    return (Settings({}, {}, {}) if path is None else settings.read(path)), words


def _of_classes(words: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The words without those of parts whose class is given, `--algorithm.PART.class NAME`, and these parts as a file
    of settings has them: what else they can be told depends on the class.
    """
    parts: dict[str, Any] = {}
    while found := next((match for word in words if (match := CLASS.fullmatch(word))), None):
        flag, part = found[1], found[2]
        name, words = _taken(words, flag, "name a class")
        parts[part] = {"class": name}
        own = f"--algorithm.{part}."
        for field in [word[len(own) :].split("=")[0] for word in words if word.startswith(own)]:
            value, words = _taken(words, own + field, "give a value")
            parts[part][field.replace("-", "_")] = _as_setting(value or "")
    return words, parts


def _as_setting(word: str) -> Any:
    """A number, a list or a word, as a file of settings would have it."""
    try:
        return json.loads(word)
    except json.JSONDecodeError:
        return word


def _taken(words: list[str], flag: str, remedy: str) -> tuple[str | None, list[str]]:
    """The value of a flag, None if it is not there, and the other words."""
    at = next((i for i, word in enumerate(words) if word == flag or word.startswith(f"{flag}=")), None)
    if at is None:
        return None, list(words)
    if words[at] != flag:
        return words[at].split("=", 1)[1], [*words[:at], *words[at + 1 :]]
    if at + 1 == len(words):
        raise ValueError(f"{flag}: {remedy}.")
    return words[at + 1], [*words[:at], *words[at + 2 :]]


def _names(argv: list[str], given: dict[str, Any], command: str) -> tuple[str, str, list[str]]:
    """The task and the algorithm, which decide what other options there are and their defaults; and the rest."""
    known = ", ".join(algorithms.registry())
    algorithm, rest = _taken(argv, "--algorithm", f"name one of {known}; or a class of your own, FILE.py:CLASS")
    named = [rest.pop(0)] if rest and not rest[0].startswith("-") else []
    task = (named or [given.get("task", "")])[0]
    if not task:
        raise ValueError(
            f"usage: pilotfish {command} TASK [OPTIONS], where TASK is one of {', '.join(tasks.registry())}; gym:NAME; "
            "a MuJoCo model, MODEL.xml --cost FILE.py; or a class of your own, FILE.py:CLASS. pilotfish train --help "
            "explains."
        )
    if task in algorithms.registry() and not tasks.known(task):
        raise ValueError(f"{task} is an algorithm: pilotfish train TASK --algorithm {task}.")
    said = [word.split("=")[0].split(".")[1].replace("-", "_") for word in rest if word.startswith("--algorithm.")]
    name = algorithm or given.get("algorithm") or experiments.default_algorithm(task, said)
    rest = [COST.sub("--task.cost", word) for word in _taught(_begun(rest, name))]
    return task, name, rest


def _taught(words: list[str]) -> list[str]:
    """The words with the file of a run's local controllers, which is written to its folder, for `--teacher RUN`."""
    value, others = _taken(words, "--teacher", "name a run's folder, or the file of its local controllers")
    if value is None:
        return words
    _check_free(others, "--teacher", TEACHER)
    local = learned_of(Run.open(value)).local if Path(value).is_dir() else value
    if local is None:
        raise ValueError(f"--teacher {value}: that run has a network and no local controllers.")
    return [*others, TEACHER, str(local)]


def _begun(words: list[str], algorithm: str) -> list[str]:
    """The words with the files of what a run learned, which are written to its folder, for `--from RUN`: its local
    controllers, and its network where the algorithm learns one.
    """
    value, others = _taken(words, "--from", "name a run's folder, or the file of a policy")
    if value is None:
        return words
    learns = isinstance(getattr(algorithms.find(algorithm).make(), "policy", None), Network)
    if Path(value).is_dir():
        local, network = learned_of(Run.open(value))
    else:
        is_network = holds_policy(value) and isinstance(load(value), NetworkPolicy)
        local, network = (None, Path(value)) if is_network else (Path(value), None)
    if local is None and not learns:
        raise ValueError(
            f"--from {value}: it is a network, and {algorithm} learns none. Choose one that does, such as mdgps, or a "
            "run with local controllers."
        )
    found = [(LOCAL, local), (NETWORK, network if learns else None)]
    for flag, _ in found:
        _check_free(others, "--from", flag)
    return [*others, *(word for flag, path in found if path is not None for word in (flag, str(path)))]


def _check_free(words: list[str], flag: str, stands_for: str) -> None:
    if any(word.split("=")[0] == stands_for for word in words):
        raise ValueError(f"{flag} and {stands_for}: give one of them.")


def _word(name: str) -> str:
    """A task's or an algorithm's name as a part of a folder's name, on every system: no colon, no slash."""
    if of_file(name):
        return name.rpartition(":")[2]
    return re.sub(r"[^\w.-]+", "-", Path(name).stem if name.endswith(tasks.MODELS) else name)


def _create_numbered(name: str, spec: Spec) -> Run:
    """A run in the first folder runs/NAME-NUMBER that is free, also if another process takes one just now."""
    for number in count(1):
        path = Path("runs") / f"{name}-{number}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if path.parent.is_dir():
                continue
            raise
        return Run.create(path, spec)
    raise AssertionError
