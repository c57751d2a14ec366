"""Settings by chance, as a user types them: accepted, or refused in one line; never a traceback.

What is tried goes as far as `pilotfish train` does before it computes, but for the algorithm's own look at the task.
"""

import math
from typing import Literal, get_args, get_origin

import equinox as eqx

from fuzz.chance import cases, counts
from pilotfish import experiments, tasks
from pilotfish.cli import run
from pilotfish.registry import ALGORITHMS, TASKS
from pilotfish.runs import RunError, loop
from pilotfish.runs.spec import _fields, _members
from pilotfish.runs.store import Run

ODD_NUMBERS = (0, -1, 1e-9, 0.3, 1, 2, 7, 1e6, -1e-3, math.inf, -math.inf, math.nan, "", "x", "1e999", "None", "0x10")
OTHERS = ("--seed", "--seeds", "--rollouts", "--iterations", "--checkpoint-every", "--out", "--colour", "-x")


def settings(module, prefix, chance):
    """A flag of the command line and what may stand after it, for every field of every part."""
    for name, kind in _fields(type(module)).items():
        value, flag = getattr(module, name), f"{prefix}.{name.replace('_', '-')}"
        if isinstance(value, eqx.Module):
            yield from settings(value, flag, chance)
        elif isinstance(value, bool):
            yield [flag if chance.random() < 0.5 else f"{prefix}.no-{name.replace('_', '-')}"]
        else:
            words = [word for one in _members(kind) if get_origin(one) is Literal for word in get_args(one)]
            many = chance.choices(ODD_NUMBERS, k=chance.randrange(4)) if isinstance(value, tuple) else []
            yield [flag, *map(str, many or [chance.choice([*ODD_NUMBERS, *words, *words])])]


@counts(40, 1000)
def test_settings_are_accepted_or_refused_in_a_line(count, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "check", lambda algorithm, *_: algorithm)
    monkeypatch.setattr(Run, "create", lambda *_: (_ for _ in ()).throw(RunError("accepted")))
    found = {0: 0, 1: 0, 2: 0}
    for chance in cases("settings", count):
        task, algorithm = chance.choice(sorted(TASKS)), chance.choice(sorted(ALGORITHMS))
        setup = experiments.setup(task, algorithm).algorithm
        known = [*settings(tasks.find(task).make(), "--task", chance), *settings(setup, "--algorithm", chance)]
        words = [word for flag in chance.sample(known, chance.choice([0, 1, 1, 2])) for word in flag]
        if chance.random() < 0.3:
            words += [chance.choice(OTHERS), str(chance.choice(ODD_NUMBERS))]
        capsys.readouterr()
        try:
            code = run(["train", task, "--algorithm", algorithm, *words])
        except SystemExit as stop:  # said by tyro, in its box
            code = stop.code
        out, err = capsys.readouterr()
        print(words)
        found[code] += 1
        if code == 1:
            assert err == "pilotfish: accepted\n" or "cannot be made with these settings" in err, err
        assert "Traceback" not in out + err
        assert code != 2 or err.strip()
    assert found[0] == 0
    assert min(found[1], found[2]) > 0.1 * count
