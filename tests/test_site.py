"""The documentation site leaves nothing out. That its links lead somewhere is found when it is built (.ci/run)."""

import re
import sys
from pathlib import Path

import pytest

import pilotfish as pf
from pilotfish import registry

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def pages():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)
        import pages

        yield pages
    del sys.modules["pages"]


def test_the_reference_has_every_public_name_once():
    text = "\n".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    documented = re.findall(r"^\.\. auto\w+:: pilotfish\.(\w+)$", text, re.MULTILINE)
    assert sorted(documented) == sorted(pf.__all__)


def test_every_algorithm_has_a_page_and_every_task_a_picture(pages):
    listed = pages._algorithms(DOCS / "algorithms")
    for name, entry in registry.ALGORITHMS.items():
        assert f"| [{name}](" in listed
        assert entry.about() in listed
    assert len(pages._tiles(DOCS / "tasks.png", len(registry.TASKS))) == len(registry.TASKS)
    with pytest.raises(ValueError, match="is not a sheet of 40 tasks"):
        pages._tiles(DOCS / "tasks.png", 40)


def test_an_algorithm_without_a_page_is_refused(pages, tmp_path):
    with pytest.raises(ValueError, match=r"no page on the algorithm 'moto'\. Write it"):
        pages._algorithms(tmp_path)


def test_a_task_page_says_what_list_says(pages):
    text = pages._task(DOCS, "lq")
    for words in (
        "![lq at the start of an episode](lq.png)",
        "State `x = [position (2), velocity (2)]`, action: acceleration (2).",
        "| episode | 20 actions, one every 0.1 s: 2 s |",
        "| `--task.initial-std` | `1.0` | Standard deviation of the first controller's actions, m/s^2. |",
    ):
        assert words in text


def test_a_task_page_shows_what_was_measured(pages):
    text = pages._task(DOCS, "double-link")
    row = (
        "| `--algorithm lqr-gps` `--algorithm.dynamics.prior gmm` `--rollouts 5` `--iterations 60` `--seeds 10` | 10 | "
    )
    assert row in text
    assert "(../results/double-link-tradeoff.png)" in text
    assert "double-link-25" not in text.split("## What was measured")[1]
    assert "## What was measured" not in pages._task(DOCS, "octopus-hard")


def test_a_film_belongs_to_one_task(pages):
    def films(name):
        return [path.name for path in pages._films(DOCS / "results", name)]

    assert films("double-link") == ["double-link-filmstrip.png", "double-link.gif"]
    assert films("quad-link") == ["quad-link-filmstrip.png", "quad-link.gif"]
    assert films("quad-link-free") == ["quad-link-free-ilqg-learned-filmstrip.png", "quad-link-free-ilqg-learned.gif"]
    assert films("octopus-hard") == []


def test_types_of_fields_are_links_where_they_are_ours(pages):
    assert pages._linked("Problem | None") == ":py:class:`~pilotfish.Problem`\\  ``| None``"
    assert pages._linked("tuple[Policy, ...]") == "``tuple[``\\ :py:class:`~pilotfish.Policy`\\ ``, ...]``"
    assert pages._linked('Float[Array, "N"]') == '``Float[Array, "N"]``'


def test_signatures_are_as_the_source_writes_them(pages):
    arguments, result = pages.signature("method", pf.Problem.admissible)
    assert arguments == "(u: Float[Array, '*batch du'])"
    assert result == "Float[Array, '*batch du']"
    assert pages.signature("class", pf.StopAtSuccess)[0].startswith("(level=")
    assert pages.signature("class", pf.Problem)[0].startswith("(horizon: int, dt: float, conditions: Gaussian")
    assert pages.signature("function", len) is None


def test_docstrings_are_plain_text_with_code(pages):
    lines = ["A `step` of *no* emphasis, x_ and `a_t`s:", "", "    K x + k", "", "Fields", "------", "step: int"]
    pages.restructure("class", "pilotfish.MOTO", lines)
    assert lines == [
        r"A \ ``step``\  of \*no\* emphasis, x\_ and \ ``a_t``\ s:",
        "",
        "::",
        "",
        "        K x + k",
        "",
    ]
    field = ["Bound on it."]
    pages.restructure("attribute", "pilotfish.MOTO.kl_step", field)
    assert field[0] == "``float``: Bound on it."
