"""A run's folder, and how it survives being killed at any moment, and a damaged disk.

    spec.json                       everything the run is made of, fully resolved
    config.toml                     the same as settings, for `pilotfish train --config`
    metrics.csv                     one line an iteration and seed
    checkpoint-000040.safetensors   the state before iteration 40, of all seeds, and the metrics until then
    columns.json                    what these metrics are, and how they are shown
    files/                          copies of the user's files: a model, its cost
    episodes/                       of a robot: every episode, written when it has ended
    evaluation.safetensors          rollouts of the final policies
    seeds/                          while seeds learn apart: a run of each (runs/parts)

A file appears under its name only when it is whole: it is written beside it, flushed to the disk, and renamed.
`metrics.csv` grows line by line; a resumed run takes up the metrics of its checkpoint. Nothing is pickled.

Every file has a checksum, which is looked at whenever it is read: in the metadata of tensors, under "sha256" in JSON.
A line of `metrics.csv` ends with the CRC-32 of all before it, so that a line that is missing is noticed as well. What
is damaged is never used: a checkpoint is passed over for the one before, metrics for the checkpoint's copy of them.
"""

import contextlib
import csv
import dataclasses
import hashlib
import json
import os
import shutil
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import pilotfish
from pilotfish.algorithms import Algorithm
from pilotfish.policies import files
from pilotfish.runs import RunError, RunWarning, lock, settings, trust
from pilotfish.runs.columns import Columns, flatten
from pilotfish.runs.loop import Report
from pilotfish.runs.spec import FORMAT, Spec, assemble, computes_in_float64
from pilotfish.tasks import Task
from pilotfish.types import Rollouts
from pilotfish.worlds import World

if TYPE_CHECKING:
    from pilotfish.policies import Policy
    from pilotfish.runs.evaluation import Conditions, Evaluation

CHECKPOINTS_KEPT = 2
CHECKSUM = "sha256"
PART = ".part-"
"""What the name of a file begins with that is being written."""
CONFIG = "config.toml"
METRICS, COLUMNS = "metrics.csv", "columns.json"
"""Files that a checkpoint holds as well."""
APART = "seeds"
"""The folder of the seeds of a run that learn apart (runs/parts)."""


class Run:
    """The folder of one run.

    RunError, a sentence for the user, where the folder cannot be used as asked.

    Example:

    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> task, counts = LinearQuadratic(), {"rollouts": 20, "iterations": 2, "seeds": [0]}
    >>> spec = pf.Spec.of(("lq", task), ("lqr-gps", pf.LQRGPS()), **counts, checkpoint_every=10)
    >>> run = pf.Run.create("runs/mine", spec)
    >>> result = pf.train(pf.LQRGPS(), task.world(), **counts, run=run)
    >>> again = pf.Run.open("runs/mine")
    >>> again.done(), again.metrics()["cost"].shape  # (seed, iteration)
    (2, (1, 2))
    """

    def __init__(self, path: Path, spec: Spec):
        self.path, self.spec = path, spec
        self._trusted = self._writes = False
        self._assembled: tuple[Task, Algorithm, World] | None = None
        self._carried: dict[str, bytes] = {}
        """What this process wrote of the files that a checkpoint holds as well."""

    @classmethod
    def create(cls, path: Path | str, spec: Spec, copied: Path | None = None) -> "Run":
        """Start a new run in an empty or new folder, with copies of the user's files: of those that the run in the
        folder `copied` has, if one is named.
        """
        path = Path(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise _in_use(path)
        run = cls(path, spec)
        with _written(path):
            path.mkdir(parents=True, exist_ok=True)
        with run.writing():
            if any(file.name != lock.NAME for file in path.iterdir()):  # of another process, a moment ago
                raise _in_use(path)
            try:
                for source, place in spec.copies().items():
                    with _written(path / place):
                        (path / place).parent.mkdir(parents=True, exist_ok=True)
                        shutil.copyfile(copied / place if copied else source, path / place)
                run._save_spec()
            except BaseException:  # without a specification the folder would be of no use, and in use
                shutil.rmtree(path / "files", ignore_errors=True)
                raise
        run._trusted = True
        trust.trust(spec)
        return run

    @classmethod
    def open(cls, path: Path | str, trust: bool = False) -> "Run":
        """Open a run that exists, of whatever version. That runs no code which the run names.

        `trust`: later such code may be run, in this process and in others of this user, though the run was made
        elsewhere: a cost file, an environment, what another package registers.
        """
        path = Path(path)
        if not (path / "spec.json").exists():
            raise RunError(f"{path} holds no run: it has no spec.json. Give the folder that `pilotfish train` made.")
        content = (path / "spec.json").read_bytes()
        try:
            fields = _parsed(content)
            version, whole = fields.get("format"), fields.pop(CHECKSUM, None)
            if version != FORMAT and (whole is None or _json(fields) == content):
                raise RunError(
                    f"{path} was written in format {version} by pilotfish {fields.get('version')}; this is pilotfish "
                    f"{pilotfish.__version__}, which reads format {FORMAT}. Install that version to use it."
                )
            _check_whole(fields, content)
            run = cls(path, Spec.read(fields))
        except ValueError as error:
            raise RunError(f"{path / 'spec.json'} is damaged: {error}.") from error
        if trust:
            run.trust()
        return run

    def trust(self) -> None:
        """Let this run's code be run though the run was made elsewhere, now and whenever this user opens it again."""
        self._trusted = True
        trust.trust(self.spec)

    def assemble(self) -> tuple[Task, Algorithm, World]:
        """The task, algorithm and world, made once. RunError if that runs code of a run that nobody trusts."""
        if self._assembled is None:
            if not self._trusted:
                trust.check(self.spec, self.path)
            self._assembled = assemble(self.spec, self.path)
        return self._assembled

    def is_like(self, other: "Run") -> bool:
        """Whether both are made of the same task and algorithm, so that they can be assembled from the same objects."""
        return (self.spec.task, self.spec.algorithm) == (other.spec.task, other.spec.algorithm)

    def borrow(self, other: "Run") -> None:
        """Take the objects of a run that is like this one, with which nothing is compiled again."""
        self._assembled = other.assemble()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Let no other process write here, RunError if one does. What is left of writing that broke off is removed."""
        if self._writes:
            yield
            return
        with contextlib.ExitStack() as stack:
            with _written(self.path / lock.NAME):
                stack.enter_context(lock.held(self.path))
            for left in (*self.path.glob(f"{PART}*"), *self.path.glob(f"episodes/{PART}*")):
                left.unlink(missing_ok=True)
            self._writes = True
            try:
                yield
            finally:
                self._writes = False

    def check_resumable(self) -> None:
        """Refuse to continue what this installation would not continue exactly."""
        if self.spec.version != pilotfish.__version__:
            raise RunError(
                f"{self.path} was made by pilotfish {self.spec.version}, and this is {pilotfish.__version__}: it would "
                f"not continue exactly. Install pilotfish=={self.spec.version} to resume it, or train anew."
            )
        if self.spec.x64 != computes_in_float64():
            name = "float64" if self.spec.x64 else "float32"
            raise RunError(f"{self.path} was computed in {name}. Set JAX_ENABLE_X64={int(self.spec.x64)} to resume it.")

    def extend(self, iterations: int) -> None:
        """Let the run go on until `iterations`. ValueError if it has done more."""
        if iterations < self.done():
            raise ValueError(f"iterations={iterations}: {self.path} has done {self.done()} already. Ask for more.")
        self.spec = dataclasses.replace(self.spec, iterations=iterations)
        self._save_spec()

    def _save_spec(self) -> None:
        """Write what the run is made of, and the settings that make it again."""
        self.save_json("spec", dataclasses.asdict(self.spec))
        write(self.path / CONFIG, settings.written(self.spec).encode())

    # -- checkpoints

    def save_checkpoint(self, i: int, states: Any) -> None:
        """Keep the states before iteration `i`."""
        self.save_state(i, _tensors(states), self._carried)

    def save_state(self, i: int, tensors: Mapping[str, np.ndarray], carried: Mapping[str, bytes]) -> None:
        """Keep the states before iteration `i`, as `load_state` gives them."""
        meta = {"iteration": str(i), "digest": self.spec.digest()}
        files_ = {name: np.frombuffer(content, np.uint8) for name, content in carried.items()}
        write_tensors(self.path / f"checkpoint-{i:06d}.safetensors", {**tensors, **files_}, meta)
        for old in self._checkpoints()[:-CHECKPOINTS_KEPT]:
            old.unlink(missing_ok=True)

    def load_state(self) -> tuple[int, dict[str, np.ndarray], dict[str, bytes]]:
        """The iteration to go on with, and of the states before it what is array, by name; leading axis: the seed. And
        the metrics until then, and how they are shown: the contents of the files of these names.
        """
        i, tensors = self._newest(lambda path, tensors: (_number_of(path), tensors))
        carried = _carried(tensors)
        return i, {name: value for name, value in tensors.items() if name not in carried}, carried

    @property
    def divided(self) -> bool:
        """Whether its seeds learn apart: what they have learned is not here yet."""
        return (self.path / APART).is_dir()

    def check_whole(self) -> None:
        """RunError if the seeds of this run learn apart."""
        if self.divided:
            raise RunError(f"{self.path}: its seeds learn apart. Finish them by: pilotfish resume {self.path}")

    def done(self) -> int:
        """The number of the newest checkpoint, damaged or not: so many iterations were done. 0 if there is none."""
        return max((_number_of(path) for path in self._checkpoints()), default=0)

    def load_checkpoint(self, like: Any) -> tuple[int, Any]:
        """The iteration to go on with, and the states before it. `like` has the states' structure and shapes.

        A damaged checkpoint is passed over for the one before it, with a RunWarning; RunError if none can be used.
        """
        return self._newest(lambda path, tensors: (_number_of(path), _restore(like, tensors)))

    def begin(self, states: Any) -> tuple[int, Any]:
        """The iteration to begin with, and the states before it: `states` themselves if the run has no checkpoint.

        The metrics become those of the iterations before; nothing later is left.
        """
        first, self._carried = 0, {}
        if self._checkpoints():
            first, states, self._carried = self._newest(
                lambda path, tensors: (_number_of(path), _restore(states, tensors), _carried(tensors))
            )
        for path in self._checkpoints():
            if _number_of(path) > first:
                path.unlink()
        for name in (METRICS, COLUMNS):
            if name in self._carried:
                write(self.path / name, self._carried[name])
            else:
                (self.path / name).unlink(missing_ok=True)
        return first, states

    def _newest(self, use: Any) -> Any:
        """What `use` makes of the path and the tensors of the newest checkpoint that is whole."""
        problems = []
        for path in reversed(self._checkpoints()):
            try:
                tensors, meta = files.read(path)
                if meta.get("digest") != self.spec.digest() or meta.get("iteration") != str(_number_of(path)):
                    raise ValueError(f"{path.name} belongs to another run, or spec.json was changed")
                found = use(path, tensors)
            except ValueError as error:
                problems.append(str(error).rstrip("."))
                continue
            for problem in problems:
                warnings.warn(f"{problem}: {path.name} is used instead.", RunWarning, stacklevel=3)
            return found
        self.check_whole()
        if problems:
            raise RunError(f"no checkpoint of {self.path} can be used ({'; '.join(problems)}). Train anew.")
        raise RunError(f"{self.path} has no checkpoint yet: it was stopped before its first. Train anew.")

    def _checkpoints(self) -> list[Path]:
        return sorted(self.path.glob("checkpoint-??????.safetensors"))

    # -- metrics

    def check_columns(self, report: Report) -> None:
        """RunError if a report has other numbers than those before it: they would be no table."""
        before = self._carried.get(METRICS, b"").partition(b"\r\n")[0].decode().split(",")
        now = _header(flatten(report))
        if before not in ([""], now):
            new, gone = (
                ", ".join(one for one in a if one not in b) or "none" for a, b in ((now, before), (before, now))
            )
            raise RunError(
                f"{self.path} cannot go on: this code reports other numbers than the code that began it (new: {new}; "
                f"no longer: {gone}). Resume it by that code, or train anew."
            )

    def append_metrics(self, i: int, report: Report) -> None:
        """Add iteration `i`'s report, one line a seed."""
        columns = flatten(report)
        before = self._carried.get(METRICS, b"")
        lines = [] if before else [_header(columns)]
        for s, seed in enumerate(self.spec.seeds):
            values = [repr(np.asarray(column)[s].item()) for column in columns.values()]
            lines.append([str(i), str(seed), str((i + 1) * self.spec.rollouts), *values])
        new = chained(before, lines)
        self._carried[METRICS] = before + new
        with _written(self.path / METRICS), (self.path / METRICS).open("ab") as file:
            file.write(new)

    def metrics(self) -> dict[str, np.ndarray]:
        """All metrics: each column an array (seed, iteration)."""
        header, rows = self._metric_rows()
        if not rows:
            return {name: np.zeros((len(self.spec.seeds), 0)) for name in header}
        columns = zip(*[[_number(cell) for cell in row] for row in rows], strict=True)
        shape = (-1, len(self.spec.seeds))
        return {name: np.asarray(column).reshape(shape).T for name, column in zip(header, columns, strict=True)}

    def cut_metrics(self, i: int) -> None:
        """Forget all metrics from iteration `i` on."""
        header, *rows = self._carried.get(METRICS, b"").splitlines(keepends=True) or [b""]
        self._carried[METRICS] = header + b"".join(row for row in rows if int(row.partition(b",")[0]) < i)
        if header:
            write(self.path / METRICS, self._carried[METRICS])

    def _metric_rows(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows of whole iterations: a run may have been killed in the midst of a line."""
        content = (self.path / METRICS).read_bytes() if (self.path / METRICS).exists() else b""
        lines, damage = sound(content)
        seeds = len(self.spec.seeds)
        if not damage and max(len(lines) - 1, 0) // seeds < self.done():
            damage = f"it ends before iteration {self.done()}"
        if damage:
            kept, instead = self._kept(METRICS)
            if len(kept_lines := sound(kept)[0]) > len(lines):
                lines = kept_lines
            else:
                instead = "the lines before are used"
            warnings.warn(f"{self.path / METRICS} is damaged: {damage}; {instead}.", RunWarning, stacklevel=3)
        if not lines:
            return [], []
        header, *rows = csv.reader(lines)
        return header, rows[: len(rows) - len(rows) % seeds]

    def _kept(self, name: str) -> tuple[bytes, str]:
        """A file as the newest whole checkpoint holds it, or nothing; and words for that."""
        try:
            path, carried = self._newest(lambda path, tensors: (path, _carried(tensors)))
        except RunError:
            return b"", "nothing is used in its place"
        return carried.get(name, b""), f"its copy in {path.name} is used"

    def save_columns(self, how: Columns) -> None:
        """Keep how the metrics are shown."""
        self.save_json("columns", how)
        self._carried[COLUMNS] = _json(how)

    def columns(self) -> Columns:
        """How the metrics are shown; empty before the first iteration."""
        try:
            return self.load_json("columns") or {}
        except RunError as error:
            kept, instead = self._kept(COLUMNS)
            warnings.warn(f"{str(error).rstrip('.')}; {instead}.", RunWarning, stacklevel=2)
            return _of_file(kept) if kept else {}

    # -- results

    def policy(self, seed: int | None = None) -> "Policy":
        """What a seed of the run would deploy: by default, of an evaluated run, the seed of lowest cost."""
        from pilotfish.runs import evaluation

        return evaluation.policy_of(self, evaluation.trained(self), self.best_seed() if seed is None else seed)

    def evaluate(
        self, rollouts: int | None = None, conditions: "Conditions" = "trained", local: bool = False
    ) -> "Evaluation":
        """Noise-free episodes of what each seed would deploy, `rollouts` from each condition, by default 100, and one
        of a robot; "held-out" takes those that the task keeps for testing, `local` the local controllers that teach a
        network.
        """
        from pilotfish.runs import evaluation

        return evaluation.evaluate(self, rollouts, conditions, local)

    def best_seed(self) -> int:
        """The seed that was best by the last evaluation that was kept; the first if there was none."""
        found = self.evaluation()
        return self.spec.seeds[0] if found is None else found["best_seed"]

    def evaluation(self) -> dict[str, Any] | None:
        """The last evaluation that was kept; None if there was none. RunError if it is damaged."""
        try:
            return self.load_json("evaluation")
        except RunError as error:
            raise RunError(f"{error} Evaluate anew: pilotfish evaluate {self.path}") from error

    def index(self, seed: int) -> int:
        """The place of a seed among the run's; ValueError if it is not one of them."""
        if seed not in self.spec.seeds:
            raise ValueError(f"--seed {seed}: this run has the seeds {', '.join(map(str, self.spec.seeds))}.")
        return self.spec.seeds.index(seed)

    def save_episode(self, i: int, s: int, n: int, m: int, rollout: Rollouts) -> None:
        """Keep one episode as soon as it has ended: number m of condition n, in iteration i of seed number s."""
        folder = self.path / "episodes"
        folder.mkdir(exist_ok=True)
        arrays = {name: np.asarray(getattr(rollout, name)) for name in ("x", "o", "u", "cost", "steps")}
        name = f"iteration{i:06d}-seed{self.spec.seeds[s]}-condition{n}-{m}.safetensors"
        write_tensors(folder / name, arrays)

    def save_tensors(self, name: str, tensors: dict[str, np.ndarray], meta: dict[str, str] | None = None) -> Path:
        """Write arrays to `name`.safetensors."""
        path = self.path / f"{name}.safetensors"
        write_tensors(path, tensors, meta)
        return path

    def save_json(self, name: str, value: dict[str, Any]) -> None:
        """Write `value`, with its checksum, to `name`.json."""
        write(self.path / f"{name}.json", _json(value))

    def load_json(self, name: str) -> dict[str, Any] | None:
        """What was written to `name`.json; None if nothing was. RunError if it is damaged."""
        path = self.path / f"{name}.json"
        try:
            return _of_file(path.read_bytes()) if path.exists() else None
        except ValueError as error:
            raise RunError(f"{path} is damaged: {error}.") from error

    def load_tensors(self, name: str) -> dict[str, np.ndarray]:
        """Arrays of `name`.safetensors."""
        path = self.path / f"{name}.safetensors"
        if not path.exists():
            raise RunError(f"{self.path} has no {path.name} yet: it has not finished training.")
        try:
            return files.read(path)[0]
        except ValueError as error:
            raise RunError(str(error)) from error


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write(path, json.dumps(value, indent=2).encode())


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], meta: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file with its checksum, whole or not at all."""
    write(path, files.written(tensors, meta))


def write(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    with replacing(path) as beside:
        beside.write_bytes(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, of the same suffix, which takes its place if all goes well, and goes if not."""
    beside = path.with_name(f"{PART}{os.getpid()}-{path.name}")
    with _written(path):
        try:
            yield beside
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def _written(path: Path) -> Iterator[None]:
    """What the system says against writing a file, in words."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}.") from error


def _in_use(path: Path) -> RunError:
    hint = "choose another --out"
    if (path / "spec.json").exists():
        hint = f"continue it by `pilotfish resume {path}`, or {hint}"
    return RunError(f"{path} is in use: {hint}.")


# -- JSON with a checksum


def _json(value: dict[str, Any]) -> bytes:
    """A JSON file with its checksum."""
    found = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    return json.dumps({**value, CHECKSUM: found}, indent=2).encode()


def _of_file(content: bytes) -> dict[str, Any]:
    """What a JSON file with a checksum holds; ValueError if one bit of it is not as it was written."""
    value = _parsed(content)
    value.pop(CHECKSUM, None)
    _check_whole(value, content)
    return value


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except RecursionError:
        raise ValueError("it has too many levels") from None
    if not isinstance(value, dict):
        raise ValueError(f"it holds {type(value).__name__} where names and values should be")
    return value


def _check_whole(value: dict[str, Any], content: bytes) -> None:
    if _json(value) != content:
        raise ValueError("it does not have the checksum of what was written")


# -- metrics, each line with the checksum of all before it


def _header(columns: Iterable[str]) -> list[str]:
    return ["iteration", "seed", "rollouts", *columns, "check"]


def chained(before: bytes, rows: list[list[str]]) -> bytes:
    """Lines that follow those before them. The first of all, the header, names the column and has no checksum."""
    lines, check = [], int(before[:-2].rpartition(b",")[2]) if before.count(b"\n") > 1 else zlib.crc32(before[:-2])
    for row in rows:
        line = ",".join(row).encode()
        is_header = not before and not lines
        check = zlib.crc32(line, check)
        lines.append(line if is_header else b"%b,%d" % (line, check))
    return b"".join(line + b"\r\n" for line in lines)


def sound(content: bytes) -> tuple[list[str], str]:
    """The lines, without their checksums, up to the first that is damaged; and what is wrong there, if anything is.

    A last line without its end is not damaged: its writer was stopped.
    """
    found, check = [], 0
    for number, line in enumerate(content.split(b"\r\n")[:-1], 1):
        body, _, said = line.rpartition(b",")
        check = zlib.crc32(line if number == 1 else body, check)
        if said != (b"check" if number == 1 else b"%d" % check):
            found = found if number > 2 else []  # the header's own checksum is that of the first line after it
            return found, f"line {number} is not as it was written, or not in its place"
        found.append(body.decode("ascii", "replace"))
    return found, ""


def _carried(tensors: dict[str, np.ndarray]) -> dict[str, bytes]:
    """The files that a checkpoint holds."""
    return {name: tensors[name].tobytes() for name in (METRICS, COLUMNS) if name in tensors}


def _number_of(path: Path) -> int:
    """The iteration of a checkpoint's name."""
    digits = path.stem.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else 0


def _tensors(tree: Any) -> dict[str, np.ndarray]:
    """All arrays of a tree by their place in it; what is no array an algorithm makes anew."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_array))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def _restore(like: Any, tensors: dict[str, np.ndarray]) -> Any:
    def leaf(path, expected):
        if not eqx.is_array(expected):
            return expected
        name = jax.tree_util.keystr(path)
        found = tensors.get(name)
        if found is None or found.shape != expected.shape or found.dtype != expected.dtype:
            what = "nothing" if found is None else f"{found.dtype} {found.shape}"
            raise ValueError(f"{name} should be {expected.dtype} {expected.shape}, and it holds {what}")
        return jnp.asarray(found)

    return jax.tree_util.tree_map_with_path(leaf, like)


def _number(cell: str) -> float:
    return float(cell == "True") if cell in ("True", "False") else float(cell)
