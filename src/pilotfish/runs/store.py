"""A run's folder, and how it survives being killed at any moment.

    spec.json                       everything the run is made of, fully resolved
    metrics.csv                     one line an iteration and seed
    checkpoint-000040.safetensors   the state before iteration 40, of all seeds
    columns.json                    what these metrics are, and how they are shown
    episodes/                       of a robot: every episode, written when it has ended
    evaluation.safetensors          rollouts of the final policies

A file appears under its name only when it is whole: it is written beside it, flushed to the disk, and renamed.
`metrics.csv` grows line by line; a resumed run first cuts it back to its checkpoint. Nothing is pickled:
loading a run never runs code from it.
"""

import csv
import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

import pilotfish
from pilotfish.runs import RunError
from pilotfish.runs.columns import Columns
from pilotfish.runs.loop import Report
from pilotfish.runs.spec import FORMAT, Spec, computes_in_float64
from pilotfish.types import Rollouts

if TYPE_CHECKING:
    from pilotfish.policies import Policy
    from pilotfish.runs.evaluation import Conditions, Evaluation

CHECKPOINTS_KEPT = 2


class Run:
    """The folder of one run."""

    def __init__(self, path: Path, spec: Spec):
        self.path, self.spec = path, spec

    @classmethod
    def create(cls, path: Path, spec: Spec) -> "Run":
        """Start a new run in an empty or new folder."""
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            hint = (
                f"continue it by `pilotfish resume {path}`, or choose another --out"
                if (path / "spec.json").exists()
                else "choose another --out"
            )
            raise RunError(f"{path} is in use: {hint}.")
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path, spec)
        run.save_json("spec", dataclasses.asdict(spec))
        return run

    @classmethod
    def open(cls, path: Path | str) -> "Run":
        """Open a run that exists, of whatever version."""
        path = Path(path)
        if not (path / "spec.json").exists():
            raise RunError(f"{path} holds no run: it has no spec.json. Give the folder that `pilotfish train` made.")
        try:
            fields = json.loads((path / "spec.json").read_text())
            if fields["format"] != FORMAT:
                raise RunError(
                    f"{path} was written in format {fields['format']} by pilotfish {fields['version']}; this is "
                    f"pilotfish {pilotfish.__version__}, which reads format {FORMAT}. Install that version to use it."
                )
            return cls(path, Spec(**fields))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise RunError(f"{path / 'spec.json'} is damaged: {error}.") from error

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
        """Let the run go on until `iterations`."""
        self.spec = dataclasses.replace(self.spec, iterations=iterations)
        self.save_json("spec", dataclasses.asdict(self.spec))

    # -- checkpoints

    def save_checkpoint(self, i: int, states: Any) -> None:
        """Keep the states before iteration `i`."""
        meta = {"iteration": str(i), "digest": self.spec.digest()}
        _write(self.path / f"checkpoint-{i:06d}.safetensors", save(_tensors(states), meta))
        for old in self._checkpoints()[:-CHECKPOINTS_KEPT]:
            old.unlink()

    def has_checkpoint(self) -> bool:
        """True if there is something to go on from."""
        return bool(self._checkpoints())

    def load_checkpoint(self, like: Any) -> tuple[int, Any]:
        """The iteration to go on with, and the states before it. `like` has the states' structure and shapes.

        A damaged checkpoint is passed over for the one before it; RunError if none can be used.
        """
        problems = []
        for path in reversed(self._checkpoints()):
            try:
                return self._load(path, like)
            except (SafetensorError, ValueError) as error:
                problems.append(f"{path.name}: {error}")
        if problems:
            raise RunError(f"no checkpoint of {self.path} can be used ({'; '.join(problems)}). Train anew.")
        raise RunError(f"{self.path} has no checkpoint yet: it was stopped before its first. Train anew.")

    def _load(self, path: Path, like: Any) -> tuple[int, Any]:
        with safe_open(path, framework="numpy") as file:
            meta = file.metadata() or {}
            if meta.get("digest") != self.spec.digest():
                raise ValueError("it belongs to another run, or spec.json was changed")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return int(meta["iteration"]), _restore(like, tensors)

    def _checkpoints(self) -> list[Path]:
        return sorted(self.path.glob("checkpoint-??????.safetensors"))

    # -- metrics

    def append_metrics(self, i: int, report: Report) -> None:
        """Add iteration `i`'s report, one line a seed."""
        columns = flatten(report)
        path = self.path / "metrics.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["iteration", "seed", "rollouts", *columns])
            for s, seed in enumerate(self.spec.seeds):
                values = [repr(np.asarray(column)[s].item()) for column in columns.values()]
                writer.writerow([i, seed, (i + 1) * self.spec.rollouts, *values])

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
        header, rows = self._metric_rows()
        if header:
            lines = [header, *(row for row in rows if int(row[0]) < i)]
            _write(self.path / "metrics.csv", "".join(",".join(row) + "\r\n" for row in lines).encode())

    def _metric_rows(self) -> tuple[list[str], list[list[str]]]:
        """Header and whole rows, of whole iterations: a run may have been killed in the midst of a line."""
        path = self.path / "metrics.csv"
        if not path.exists():
            return [], []
        text = path.read_text()
        rows = list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))
        if not rows:
            return [], []
        whole = [row for row in rows[1:] if len(row) == len(rows[0])]
        return rows[0], whole[: len(whole) - len(whole) % len(self.spec.seeds)]

    def save_columns(self, how: Columns) -> None:
        """Keep how the metrics are shown."""
        self.save_json("columns", how)

    def columns(self) -> Columns:
        """How the metrics are shown; empty before the first iteration."""
        path = self.path / "columns.json"
        return json.loads(path.read_text()) if path.exists() else {}

    # -- results

    def policy(self, seed: int | None = None) -> "Policy":
        """What a seed of the run would deploy: by default, of an evaluated run, the seed of lowest cost."""
        from pilotfish.runs import evaluation

        return evaluation.policy_of(self, evaluation.trained(self), self.best_seed() if seed is None else seed)

    def evaluate(self, rollouts: int = 100, conditions: "Conditions" = "trained") -> "Evaluation":
        """Noise-free episodes of what each seed would deploy, `rollouts` from each condition; "held-out" takes those
        that the task keeps for testing.
        """
        from pilotfish.runs import evaluation

        return evaluation.evaluate(self, rollouts, conditions)

    def best_seed(self) -> int:
        """The seed of lowest cost by the last evaluation that was kept; the first if there was none."""
        path = self.path / "evaluation.json"
        return json.loads(path.read_text())["best_seed"] if path.exists() else self.spec.seeds[0]

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

    def save_json(self, name: str, value: Any) -> None:
        """Write `value` to `name`.json."""
        write_json(self.path / f"{name}.json", value)

    def load_tensors(self, name: str) -> dict[str, np.ndarray]:
        """Arrays of `name`.safetensors."""
        path = self.path / f"{name}.safetensors"
        try:
            with safe_open(path, framework="numpy") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            raise RunError(f"{self.path} has no {path.name} yet: it has not finished training.") from None
        except SafetensorError as error:
            raise RunError(f"{path} is damaged: {error}.") from error


def flatten(report: Report) -> dict[str, Any]:
    """A report's fields by name, the columns of `metrics.csv`: arrays (seed,). `ok` is the part of the conditions."""
    fields = {**report.outcome._asdict(), **report.info._asdict()}
    return fields | {"ok": np.asarray(fields["ok"], float).mean(-1)}


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    _write(path, json.dumps(value, indent=2).encode())


def write_tensors(path: Path, tensors: dict[str, np.ndarray], meta: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all."""
    _write(path, save({k: np.ascontiguousarray(v) for k, v in tensors.items()}, meta))


def _write(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


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
