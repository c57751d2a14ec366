"""Cases of a test of which some run with every suite, and the others, which say the same of more, when asked for."""

from collections.abc import Container, Iterable
from typing import Any

import pytest


def mostly_slow(cases: Iterable[Any], always: Container[Any]) -> list[Any]:
    """The cases, of which all but those of `always` are slow."""
    return [case if case in always else pytest.param(case, marks=pytest.mark.slow) for case in cases]
