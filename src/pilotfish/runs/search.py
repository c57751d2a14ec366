"""A search among settings by Optuna: what arms are tried next follows from what those before came to.

    DIR/search.journal   Optuna's own file of all trials
    DIR/trial-000/       a run, as an arm of a sweep has one

The best trial is that of which most episodes succeed, and of such the cheapest, as of a sweep's arms. One that so far
was at no iteration better than the median of those before it is pruned: it ends there.
The same command goes on where it stopped. Each trial draws from a key of its own, so that a search which was stopped
finds the same as one that was not.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from pilotfish import extras
from pilotfish.runs import RunError, arms, sweep
from pilotfish.runs.loop import Turn
from pilotfish.runs.sweep import Arm, Found, Observer
from pilotfish.worlds import World

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution

JOURNAL = "search.journal"
REPORTS = 10
"""How often a trial's cost is compared with others', about."""
SMALL = 5e-5
"""What the largest difference of costs weighs against success: less than one in ten thousand episodes."""
WARM = 4
"""The part of its iterations after which a trial may be pruned: one of so many."""


class Range(NamedTuple):
    """Where a number is searched."""

    low: float
    high: float
    log: bool
    whole: bool
    """Whether it is a whole number."""


Space = Mapping[str, Range | Sequence[str]]
"""By a setting's name the range of its values, or a choice of words."""
Make = Callable[[int, Mapping[str, str]], Arm]
"""The arm of a trial of that number, whose settings have these values in words."""


def perform(
    folder: Path, space: Space, make: Make, trials: int, seed: int, observe: Observer, log: Sequence[str] = ()
) -> list[Found]:
    """Go on until there are so many trials: what each came to. One whose settings do not fit together fails.

    RunError if the folder holds a search of other settings.
    """
    from optuna.pruners import MedianPruner

    study, worlds, compiled = _study(folder, space), dict[str, World](), set[str]()
    found: list[Found] = []
    for number in range(trials):
        trial = _trial(study, number, space, seed)
        try:
            arm = make(number, {name: _word(value) for name, value in trial.params.items()})
        except ValueError:
            study.tell(trial.number, state=_state("FAIL"), skip_if_finished=True)
            continue
        known = study.get_trials(deepcopy=False)[number]
        with sweep.naming(arm):
            arms.check_folder(arm.path, arm.spec)
        if known.state.is_finished():
            note = "pruned" if known.state == _state("PRUNED") else ""
            found.append(sweep.result(arm, arms.opened(arm.path, arm.spec), note))
            continue
        one = sweep.prepared([arm], worlds=worlds)[0]
        prune = _Prune(trial, known.intermediate_values, max(arm.spec.iterations // REPORTS, 1))
        study.pruner = MedianPruner(n_warmup_steps=arm.spec.iterations // WARM)
        result = sweep.perform_one(one, compiled, observe, log, [prune])
        if prune.decided:
            study.tell(trial.number, state=_state("PRUNED"))
        else:
            study.tell(trial.number, _worth(result.success, result.middle))
        found.append(result._replace(note="pruned") if prune.decided else result)
    return found


class _Prune:
    """Ends the training of a trial that does worse than those before it did at the same iteration."""

    def __init__(self, trial: "Trial", known: Mapping[int, float], every: int):
        """`known`: what was reported before the training was stopped, by the iterations done."""
        self.trial, self.known, self.every, self.decided = trial, known, every, False

    def __call__(self, turn: Turn) -> bool:
        done = turn.i + 1
        if done % self.every == 0 and done < turn.iterations:
            if done not in self.known:
                kind = "noise_free_" if "noise_free_cost" in turn.metrics else ""
                cost, success = (turn.metrics[f"{kind}{name}"] for name in ("cost", "success"))
                self.trial.report(_worth(None if np.isnan(success).all() else success, sweep.middle(cost)), done)
            self.decided = self.trial.should_prune()
        return not self.decided


def _worth(success: Float[np.ndarray, "S"] | None, cost: float) -> float:
    """What is to be small: success counts first, and cost only among equals, as `Found.rank` has it, in one number."""
    if success is None:
        return cost
    return -float(success.mean()) + SMALL * float(np.arctan(np.arcsinh(cost))) / np.pi


def check_installed() -> None:
    """ValueError if there is no Optuna."""
    extras.check("--search", "optuna", "optuna")


def _study(folder: Path, space: Space) -> "Study":
    """The search in a folder, a new one if there is none."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
        study_name="pilotfish",
        load_if_exists=True,
    )
    words = json.dumps(space)
    if study.user_attrs.setdefault("space", words) != words:
        raise RunError(
            f"{folder} was made with other settings: {study.user_attrs['space']} is searched there, and {words} is "
            "asked for. Choose another --out."
        )
    study.set_user_attr("space", words)
    return study


def _trial(study: "Study", number: int, space: Space, seed: int) -> "Trial":
    """The trial of that number: a new one, or one that was begun."""
    import optuna

    known = study.get_trials(deepcopy=False)
    if number < len(known):
        return optuna.Trial(study, known[number]._trial_id)
    study.sampler = optuna.samplers.TPESampler(seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
    return study.ask(fixed_distributions={name: _distribution(values) for name, values in space.items()})


def _distribution(values: Range | Sequence[str]) -> "BaseDistribution":
    from optuna import distributions as of

    if not isinstance(values, Range):
        return of.CategoricalDistribution(list(values))
    if values.whole:
        return of.IntDistribution(int(values.low), int(values.high), log=values.log)
    return of.FloatDistribution(values.low, values.high, log=values.log)


def _state(name: str) -> Any:
    from optuna.trial import TrialState

    return TrialState[name]


def _word(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)
