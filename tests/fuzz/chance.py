"""Chance that can be repeated, and what it likes to put where something else is expected."""

import copy
import math
import os
import random

import pytest

SEED = int(os.environ.get("PILOTFISH_FUZZ_SEED", "0"))
ODD = (
    *(None, True, False, 0, 1, -1, 3, 2**31, -(2**63), 10**30, 0.0, -0.0, 0.5, -2.5, 1e-300, 1e300),
    *(math.nan, math.inf, -math.inf, "", "a", "inf", "nan", "-inf", "../x", "os:system", "class", "\x00", "é" * 50),
    *([], {}, [[]], [1.0, "b"], {"class": "CartPole"}, {"name": "cartpole"}, [0] * 20),
)
"""Of every kind that JSON knows."""


def cases(name: str, count: int):
    """Generators of random numbers, one a case. The case that fails is the last one that is printed."""
    print(f"PILOTFISH_FUZZ_SEED={SEED}, {name}:", end=" ")
    for case in range(count):
        print(case, end=" ")
        yield random.Random(f"{name} {SEED} {case}")


def counts(quick: int, all_: int):
    """So many cases in the suite, and all among the slow tests."""
    return pytest.mark.parametrize("count", [quick, pytest.param(all_, marks=pytest.mark.slow)])


def mutated(tree, chance: random.Random):
    """A copy of a tree of JSON in which something is removed, added, renamed, replaced or wrapped."""
    tree = copy.deepcopy(tree)
    inner = [tree, *_below(tree)]
    node = chance.choice([one for one in inner if one] or [tree])
    place = chance.choice(list(node) if isinstance(node, dict) else range(len(node)))
    match chance.randrange(6):
        case 0:
            del node[place]
        case 1 if isinstance(node, dict):
            node[chance.choice(["extra", "class", "name", ""])] = chance.choice(ODD)
        case 2 if isinstance(node, dict):
            node[f"{place}_"] = node.pop(place)
        case 3:
            node[place] = chance.choice([[node[place]], {"class": node[place]}, str(node[place])])
        case 4 if type(node[place]) in (int, float):
            node[place] = node[place] * chance.choice([-1, 2, 1e6, 0.1]) + chance.choice([0, 1])
        case _:
            node[place] = copy.deepcopy(chance.choice(ODD))
    return tree


def _below(tree):
    for one in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(one, dict | list):
            yield one
            yield from _below(one)


def damaged(content: bytes, chance: random.Random) -> bytes:
    """A file of which a bit is flipped, or a piece is missing, repeated, moved or overwritten."""
    at, to = sorted(chance.randrange(len(content)) for _ in range(2))
    match chance.randrange(5):
        case 0:
            return content[:at]
        case 1:
            return content[:at] + content[to + 1 :]
        case 2:
            return content[: to + 1] + content[at:]
        case 3:
            return content[:at] + bytes(chance.randrange(256) for _ in range(to - at + 1)) + content[to + 1 :]
        case _:
            return flipped(content, at, chance.randrange(8))


def flipped(content: bytes, at: int, bit: int) -> bytes:
    """A file of which one bit is flipped."""
    return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]
