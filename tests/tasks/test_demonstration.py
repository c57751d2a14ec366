"""Demonstrations: what a file may hold, and the controllers that it becomes."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import pilotfish as pf
from pilotfish import cli
from pilotfish.cli import learn
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.runs import RunWarning
from pilotfish.runs.spec import Spec, assemble
from pilotfish.tasks import demonstration
from pilotfish.tasks.lq import LinearQuadratic

TASK = LinearQuadratic()
PROBLEM = TASK.problem()
T, DT, DX, DU = PROBLEM.horizon, PROBLEM.dt, PROBLEM.dx, PROBLEM.du


def shown(rate=10, length=1.0, seed=0):
    """`rate` samples an action, for so much of an episode."""
    rng, n = np.random.default_rng(seed), round(T * rate * length)
    return {"times": np.arange(n) * DT / rate, "states": rng.normal(size=(n, DX)), "actions": rng.normal(size=(n, DU))}


def write(path, arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".safetensors":
        save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, path)
    else:
        names = ["time", *(f"x{i}" for i in range(DX)), *(f"u{i}" for i in range(DU))]
        table = np.column_stack([arrays["times"], arrays["states"], arrays["actions"]])
        path.write_text("\n".join([",".join(names), *(",".join(map(repr, row.tolist())) for row in table)]))
    return path


@pytest.mark.parametrize("kind", demonstration.KINDS)
def test_actions_are_averaged_over_every_step(kind, tmp_path):
    arrays = shown()
    first = demonstration.first_controller(PROBLEM, demonstration.read(write(tmp_path / f"d{kind}", arrays)))
    np.testing.assert_allclose(first.k[0], arrays["actions"].reshape(T, 10, DU).mean(1), rtol=1e-9)
    assert not np.any(first.K)
    np.testing.assert_array_equal(first.chol, PROBLEM.first_controller.chol)


def test_samples_at_odd_times_count_as_long_as_they_act():
    """Against the integral on a fine grid."""
    rng = np.random.default_rng(3)
    times = np.concatenate([[0.0], np.sort(rng.uniform(0, T * DT, 8 * T))])
    found = demonstration.Demonstration(times, rng.normal(size=(len(times), DX)), rng.normal(size=(len(times), DU)))
    gaps = np.diff(np.append(times, T * DT)).max()
    assert gaps < DT
    fine = 20000
    at = (np.arange(T * fine) + 0.5) * DT / fine
    held = found.actions[np.searchsorted(times, at, side="right") - 1].reshape(T, fine, DU).mean(1)
    np.testing.assert_allclose(demonstration.first_controller(PROBLEM, found).k[0], held, atol=1e-3)


def test_one_sample_an_action_and_a_state_more_is_the_demonstration_itself(tmp_path):
    arrays = shown(rate=1)
    arrays["states"] = np.zeros((T + 1, DX))
    world = demonstration.beginning(TASK.world(), write(tmp_path / "d.npz", arrays))
    np.testing.assert_allclose(world.problem.first_controller.k[0], arrays["actions"])
    policy = LinearGaussianPolicy(world.problem.first_controller).noise_free()
    u = np.asarray(world.rollout(policy, 1, jax.random.key(0)).u)[0, 0]
    np.testing.assert_allclose(u, arrays["actions"])


def without(name):
    return {key: value for key, value in shown().items() if key != name}


def changed(name, row, value):
    arrays = shown()
    arrays[name][row] = value
    return arrays


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (without("actions"), "actions is missing. It holds times, states"),
        (changed("actions", 3, np.nan), r"actions\[3\] is .*nan.*all numbers must be finite"),
        (changed("times", 5, 0.0), r"times\[5\] = 0 follows .*: each must be later"),
        (shown() | {"actions": np.zeros((4, DU))}, "times, .* states and 4 actions: give as many of each"),
        (shown() | {"times": np.zeros((4, 1))}, r"it holds times \(4, 1\)"),
        (shown(length=0.5), "lasts .* s, and an episode .* s: give a longer one"),
        ({k: v[::20] for k, v in shown().items()}, "samples are up to .* s apart, and an action lasts"),
        (shown() | {"times": shown()["times"] + 1.0}, "begins at 1 s: count its times from the episode's start"),
        (shown() | {"states": np.zeros((T * 10, DX + 1))}, f"states have {DX + 1} entries, and those of the task {DX}"),
        (shown() | {"actions": np.zeros((T * 10, DU + 2))}, f"actions have {DU + 2} entries"),
    ],
)
def test_what_is_wrong_is_said(arrays, said, tmp_path):
    path = write(tmp_path / "wrong.npz", arrays)
    with pytest.raises(ValueError, match=said) as error:
        demonstration.beginning(TASK.world(), path)
    assert "wrong.npz" in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("d.txt", b"", "give a file that ends with .csv, .npz, .safetensors"),
        ("d.npz", b"damaged", "it cannot be read"),
        ("d.npz", b"", "it cannot be read"),
        ("d.safetensors", b"damaged", "it cannot be read"),
        ("d.csv", b"", "must be time,x0,x1"),
        ("d.csv", b"time,x0,u0\n0,1\n", "its lines differ in length"),
        ("d.csv", b"time,x0,v0\n0,1,2\n", "its first line is 'time,x0,v0', and must be time,x0"),
        ("d.csv", b"time,x0,u0\n0,1,two\n", "it cannot be read: could not convert string to float"),
        ("d.csv", b"time,x0,u0\n", "it holds|give as many"),
        ("d.csv", b"\xff\xfe\x00", "it cannot be read"),
    ],
)
def test_damaged_files_are_named(name, content, said, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said) as error:
        demonstration.read(tmp_path / name)
    assert name in str(error.value)


def test_no_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"d.csv: there is no such file"):
        demonstration.read(tmp_path / "d.csv")


def test_a_run_is_made_of_it_and_keeps_a_copy(tmp_path, capsys, monkeypatch):
    """Begun by the command line, resumed from the copy where the file is gone, and refused where both are damaged."""
    path, folder = write(tmp_path / "d.csv", shown()), tmp_path / "run"
    monkeypatch.setattr(learn, "draw", lambda *_: None)
    words = ["train", "lq", "--demonstration", str(path), "--out", str(folder), "--no-film"]
    sizes = ["--algorithm", "reps", "--rollouts", "30", "--iterations", "2", "--json"]
    assert cli.run([*words, *sizes]) == 0
    assert json.loads(capsys.readouterr().out)["run"] == str(folder)
    run = pf.Run.open(folder)
    spec = run.spec
    assert spec.task["demonstration"] == str(path)
    world = assemble(spec)[2]
    wanted = shown()["actions"].reshape(T, 10, DU).mean(1)
    np.testing.assert_allclose(world.problem.first_controller.k[0], wanted, rtol=1e-9)
    path.unlink()
    with pytest.warns(RunWarning, match="the copy in"):
        _, _, again = run.assemble()
    np.testing.assert_array_equal(again.problem.first_controller.k, world.problem.first_controller.k)
    for copy in (folder / "files").rglob("*.csv"):
        copy.write_text("time\n")
    with pytest.raises(pf.RunError, match="is not there any more"):
        pf.Run.open(folder).assemble()


def test_a_specification_without_its_checksum_is_refused(tmp_path):
    path = write(tmp_path / "d.npz", shown())
    spec = Spec.of(("lq", TASK), ("moto", pf.MOTO(reuse="both")), rollouts=5, iterations=1, seeds=[0],
                   checkpoint_every=1, demonstration=str(path))  # fmt: skip
    fields = json.loads(json.dumps(vars(spec)))
    assert Spec.read(fields) == spec
    fields["task"]["files"] = {}
    with pytest.raises(ValueError, match=r"task\.files must hold a checksum of the demonstration"):
        Spec.read(fields)
    with pytest.raises(ValueError, match="no such file"):
        Spec.of(("lq", TASK), ("moto", pf.MOTO(reuse="both")), rollouts=5, iterations=1, seeds=[0], checkpoint_every=1,
                demonstration=str(tmp_path / "none.csv"))  # fmt: skip
