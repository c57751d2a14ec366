"""Training as TensorBoard and Weights & Biases show it, one run a seed, over steps of the environment.

Numbers have the names by which Stable-Baselines3 and rl-zoo3 log them, where they have one: a reward is minus a cost.
What the algorithm says of itself is `train/NAME`. What is not finite is left out.

A resumed run makes what it makes again to the bit. So TensorBoard is told to forget what it saw from where training
goes on, and Weights & Biases, which forgets nothing, is told only what it does not know.
"""

import contextlib
import dataclasses
import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pilotfish import extras
from pilotfish.runs import RunError
from pilotfish.runs.loop import Turn
from pilotfish.runs.measured import bare
from pilotfish.runs.spec import described
from pilotfish.runs.store import Run, write_json

REWARDS = {"cost": "rollout/ep_rew_mean", "noise_free_cost": "eval/mean_reward"}
"""Metrics of which the other sign is known elsewhere."""
NAMES = {
    "success": "rollout/success_rate",
    "cost_std": "rollout/ep_rew_std",
    "valid": "rollout/valid",
    "clipped": "rollout/clipped",
    "broken_at": "rollout/broken_at",
    "noise_free_success": "eval/success_rate",
    "noise_free_distance": "eval/distance",
}
"""Other metrics that are not the algorithm's own."""
KNOWN = "pilotfish.json"
"""The file of what Weights & Biases was told."""


@dataclasses.dataclass(frozen=True)
class TensorBoard:
    """Log to files that `tensorboard --logdir FOLDER` shows: a run for each seed, FOLDER/seed0 and so on.

    ValueError, with the command that installs it, without the package tensorboardX.

    Example:

    >>> from pathlib import Path
    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> log = pf.TensorBoard("logs")
    >>> result = pf.train(pf.LQRGPS(), LinearQuadratic().world(), rollouts=20, iterations=2, callbacks=[log])
    >>> [path.name for path in Path("logs").iterdir()]
    ['seed0']
    """

    folder: str | Path
    """Where the files go; made if it is not there."""
    _open: dict[int, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def __post_init__(self):
        extras.check("TensorBoard", "tensorboardX", "tensorboard")

    def __call__(self, turn: Turn) -> None:
        from tensorboardX import SummaryWriter

        if turn.i == 0:
            self.close()  # another training's
        step = steps(turn)
        for seed, numbers in scalars(turn):
            if seed not in self._open:
                # two sessions that begin in one second have one name but for the suffix
                where, suffix = str(Path(self.folder) / f"seed{seed}"), f".{turn.i:06d}"
                self._open[seed] = SummaryWriter(where, purge_step=step, filename_suffix=suffix)
            for name, value in numbers.items():
                self._open[seed].add_scalar(name, value, step)
            self._open[seed].flush()
        if turn.i + 1 == turn.iterations:
            self.close()

    def close(self) -> None:
        """Close the files: the last iteration does, too."""
        while self._open:
            self._open.popitem()[1].close()


@dataclasses.dataclass(frozen=True)
class WeightsAndBiases:
    """Log to Weights & Biases: a run for each seed, all in one group, whose configuration is the algorithm's settings.

    What is logged offline lies in FOLDER/wandb, and `wandb sync FOLDER/wandb/offline-run-*` uploads it; with
    `--append` where training was resumed.

    ValueError, with the command that installs it, without the package wandb; RunError for what W&B refuses.

    Example:

    >>> from pathlib import Path
    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> log = pf.WeightsAndBiases(project="lq", mode="offline")
    >>> result = pf.train(pf.LQRGPS(), LinearQuadratic().world(), rollouts=20, iterations=2, callbacks=[log])
    >>> len(list(Path("wandb").glob("offline-run-*")))  # one a seed
    1
    """

    project: str = "pilotfish"
    """The project; made if it is not there."""
    folder: str | Path = "."
    """Where the files go: into its folder `wandb`."""
    group: str = ""
    """What the seeds' runs belong to; empty: the folder's name."""
    mode: Literal["online", "offline"] | None = None
    """Whether anything is sent; None: as the variable WANDB_MODE says, and online if it says nothing."""
    _open: dict[int, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)
    _known: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def __post_init__(self):
        extras.check("Weights & Biases", "wandb", "wandb")

    def __call__(self, turn: Turn) -> None:
        from wandb.errors import Error

        try:
            self._tell(turn)
        except Error as error:
            raise RunError(f"Weights & Biases: {error}. Log in by `wandb login`, or set WANDB_MODE=offline.") from error

    def _tell(self, turn: Turn) -> None:
        if turn.i == 0:  # another training's
            self.close()
            self._known.clear()
        step = steps(turn)
        for seed, numbers in scalars(turn):
            if seed not in self._open:
                self._open[seed] = self._begun(turn, seed)
            known = self._known[str(seed)]
            if known["step"] < step:
                self._open[seed].log(numbers, step=step)
                known["step"] = step
        write_json(Path(self.folder) / "wandb" / KNOWN, self._known)
        if turn.i + 1 == turn.iterations:
            self.close()

    def _begun(self, turn: Turn, seed: int) -> Any:
        """The run of a seed at Weights & Biases: a new one, or where training goes on that which it had."""
        import wandb

        path, group = Path(self.folder) / "wandb" / KNOWN, self.group or Path(self.folder).resolve().name
        path.parent.mkdir(parents=True, exist_ok=True)
        stored = json.loads(path.read_bytes()) if turn.i and path.exists() else {}
        self._known[str(seed)] = known = stored.get(str(seed), {"id": uuid.uuid4().hex[:8], "step": 0})
        settings: dict[str, Any] = {}
        with contextlib.suppress(ValueError):  # a class of the user's that no run could store
            settings = described(bare(turn.algorithm))
        return wandb.init(
            project=self.project,
            dir=str(self.folder),
            group=group,
            name=f"{group}-seed{seed}",
            id=known["id"],
            resume="allow" if known["step"] else None,
            mode=self.mode,
            config={"seed": seed, "algorithm": settings},
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True),
        )

    def close(self) -> None:
        """End the runs: the last iteration does, too."""
        while self._open:
            self._open.popitem()[1].finish()


Log = TensorBoard | WeightsAndBiases
LOGS: dict[str, Callable[[Path], Log]] = {
    "tensorboard": lambda folder: TensorBoard(folder / "tensorboard"),
    "wandb": lambda folder: WeightsAndBiases(folder=folder),
}
"""By name, which is that of its folder in a run's, how a run of that folder is logged."""


def scalars(turn: Turn) -> Iterator[tuple[int, dict[str, float]]]:
    """Every seed with its numbers of this iteration, as they are logged."""
    metrics = turn.metrics
    length = np.asarray(turn.rollouts.steps).mean((1, 2))
    for s, seed in enumerate(turn.seeds):
        named = {"time/iterations": turn.i + 1, "time/total_timesteps": steps(turn), "rollout/ep_len_mean": length[s]}
        for name, values in metrics.items():
            if name in REWARDS:
                named[REWARDS[name]] = -values[s]
            else:
                named[NAMES.get(name, f"train/{name}")] = values[s]
        yield seed, {name: float(value) for name, value in named.items() if np.isfinite(value)}


def steps(turn: Turn) -> int:
    """Steps of the environment in which one seed acted until now, of episodes that all last to their end."""
    return (turn.i + 1) * int(np.prod(turn.rollouts.steps.shape[1:])) * turn.world.problem.horizon


@contextlib.contextmanager
def of_run(run: Run, asked: Iterable[str] = ()) -> Iterator[list[Log]]:
    """What logs a run: what is asked for, and what logged it before. All are closed at the end, whatever comes.

    RunError if what a log needs is not installed.
    """
    names = [name for name in LOGS if name in asked or (run.path / name).is_dir()]
    try:
        found = [LOGS[name](run.path) for name in names]
    except ValueError as error:
        raise RunError(f"{error} Or delete {', '.join(str(run.path / name) for name in names)}.") from error
    try:
        for name in names:
            (run.path / name).mkdir(exist_ok=True)
        yield found
    finally:
        for log in found:
            log.close()


def check(asked: Iterable[str]) -> None:
    """ValueError, before anything is begun, if what a log needs is not installed."""
    for name in asked:
        LOGS[name](Path())
