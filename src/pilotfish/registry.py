"""How names become tasks and algorithms: a line each, whose object is imported when it is made.

Importing this file imports nothing heavy, so that names can be listed, completed and registered elsewhere at once.
An installed package adds its own by an entry point of the group `pilotfish.tasks` or `pilotfish.algorithms`:

    [project.entry-points."pilotfish.algorithms"]
    my-search = "my_package.search:MySearch"

whose name is the registered one, and whose value a class, or anything else that is called without arguments.

What is not installed is named by its file and class: `mytask.py:Boat`.
"""

import dataclasses
import difflib
import functools
import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module, metadata
from typing import Any, Literal

from pilotfish import sources

Kind = Literal["task", "algorithm"]
GROUPS: dict[Kind, str] = {"task": "pilotfish.tasks", "algorithm": "pilotfish.algorithms"}
"""Of entry points."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A name in the registry, what it stands for, and how to make that."""

    name: str
    summary: str
    source: str
    """Where the class is, or another callable: "module:name"."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What differs from its defaults; "part.field" reaches into a part."""
    package: str = ""
    """The installed package that it comes from; empty for our own."""
    file: str = ""
    """The user's Python file in which it is, by its absolute path; empty where it is in a module."""

    def load(self) -> Callable[..., Any]:
        """The class. ValueError if its package cannot be imported, or its file does not define it."""
        module, _, names = self.source.rpartition(":")
        if self.file:
            defined = vars(sources.executed(self.file).module)
            if not isinstance(defined.get(names), type):
                own = [name for name, one in defined.items() if getattr(one, "__module__", "") == defined["__name__"]]
                raise ValueError(f"{self.file} defines no class {names}: {nearest(names, own) if own else 'nor any.'}")
            return defined[names]
        try:
            return functools.reduce(getattr, names.split("."), import_module(module))
        except Exception as error:  # whatever another package does when it is imported
            if not self.package:
                raise
            raise ValueError(
                f"{self.name!r} of the package {self.package} cannot be used: {type(error).__name__}: {error}. Repair "
                f"{self.package}, or uninstall it."
            ) from error

    def make(self) -> Any:
        """The task or algorithm."""
        plain = {name: value for name, value in self.options.items() if "." not in name}
        kind = self.load()
        try:
            made = kind(**plain)
        except Exception as error:  # whatever the user's class does when it is made
            if not self.file or isinstance(error, ValueError):
                raise
            raise ValueError(
                f"{self.name} cannot be made without arguments: {type(error).__name__}: {error}. Give each of its "
                "fields a default, and each abstract method a body."
            ) from error
        nested = {name: value for name, value in self.options.items() if "." in name}
        return changed(made, nested) if nested else made

    def about(self) -> str:
        """A line: the summary or, of another package, the first line of the class's docstring, or why there is none."""
        if self.summary:
            return self.summary
        try:
            lines = (self.load().__doc__ or "").strip().splitlines()
        except ValueError as error:
            return f"unusable: {error}"
        return f"{lines[0] if lines else 'not described'} ({self.file or f'package {self.package}'})"


def in_file(path: str, name: str) -> Entry:
    """The class of that name in a user's Python file."""
    return Entry(f"{os.path.basename(path)}:{name}", "", f"{path}:{name}", file=os.path.abspath(path))


def of_file(name: str) -> Entry | None:
    """What FILE.py:CLASS names; None if a name is of another form."""
    match = re.fullmatch(r"(.+\.py):([A-Za-z_]\w*)", name)
    return in_file(*match.groups()) if match else None


def changed(module: Any, settings: Mapping[str, Any]) -> Any:
    """A dataclass with other fields; "part.field" is a field of a part."""
    fields = {name: value for name, value in settings.items() if "." not in name}
    parts: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        part, dot, field = name.partition(".")
        if dot:
            parts.setdefault(part, {})[field] = value
    for part, inner in parts.items():
        fields[part] = changed(fields.get(part, getattr(module, part)), inner)
    return dataclasses.replace(module, **fields)


def named(registry: Mapping[str, Any], name: str, kind: str) -> Any:
    """The entry of that name; ValueError with the nearest names if there is none."""
    if name in registry:
        return registry[name]
    raise ValueError(f"unknown {kind} {name!r}: {nearest(name, registry)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """What else may be meant: the nearest names, whether in capitals or not, or all."""
    lower = {one.lower(): one for one in known}
    near = [lower[one] for one in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    return f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(sorted(lower.values()))}."


# -- what there is


def tasks() -> dict[str, Entry]:
    """All tasks by name: ours, then those of installed packages.

    Example:

    >>> from pilotfish import registry
    >>> entry = registry.tasks()["double-link"]
    >>> entry.about()
    'swing up two links, both motors at most 10 N m (MOTO, Fig. 1c)'
    >>> entry.make().problem().horizon > 0
    True
    """
    return TASKS | _installed("task")


def algorithms() -> dict[str, Entry]:
    """All algorithms by name: ours, then those of installed packages.

    Example:

    >>> from pilotfish import registry
    >>> registry.algorithms()["moto"].make().reuse  # what differs from the paper's settings
    'both'
    """
    return ALGORITHMS | _installed("algorithm")


@functools.cache
def _installed(kind: Kind) -> dict[str, Entry]:
    """What installed packages add. A name that is taken is refused, aloud: it would silently mean something else."""
    ours = {"task": TASKS, "algorithm": ALGORITHMS}[kind]
    found: dict[str, Entry] = {}
    for package, name, source in sorted(
        (point.dist.name if point.dist else "unknown", point.name, point.value)
        for point in metadata.entry_points(group=GROUPS[kind])
    ):
        if name in ours or name in found:
            owner = "pilotfish" if name in ours else f"the package {found[name].package}"
            warnings.warn(
                f"the package {package} offers the {kind} {name!r}, a name that belongs to {owner}: it is left out. "
                f"Rename it in {package}'s entry points.",
                stacklevel=2,
            )
        else:
            found[name] = Entry(name, "", source, package=package)
    return found


def _table(*entries: Entry) -> dict[str, Entry]:
    return {entry.name: entry for entry in entries}


_FOUR = {"links": 4, "torque": 25.0, "initial_std": 5.0}
_LIMITED = _FOUR | {"joint_limit": 2 / 3 * math.pi}
_LINKS = "pilotfish.tasks.multi_link:MultiLink"
_SWIMMER, _WALKER = "pilotfish.tasks.swimmer:Swimmer", "pilotfish.tasks.walker:Walker"
_OCTOPUS, _TENNIS = "pilotfish.tasks.octopus:Octopus", "pilotfish.tasks.table_tennis:TableTennis"

TASKS = _table(
    Entry("cartpole", "swing a pole up from a cart that is pushed", "pilotfish.tasks.cartpole:CartPole"),
    Entry("double-link", "swing up two links, both motors at most 10 N m (MOTO, Fig. 1c)", _LINKS),
    Entry("double-link-25", "the same with 25 N m (MOTO, Fig. 1b)", _LINKS, {"torque": 25.0}),
    Entry("quad-link", "swing up four links with soft joint limits, 25 N m (MOTO, Fig. 2b)", _LINKS, _LIMITED),
    Entry("quad-link-low", "the same with 15 N m (MOTO, Fig. 2a)", _LINKS, _LIMITED | {"torque": 15.0}),
    Entry("quad-link-free", "four links without joint limits, 25 N m (MOTO, Fig. 5)", _LINKS, _FOUR),
    Entry(
        "lq",
        "a point mass with linear dynamics and quadratic cost: its optimum is known",
        "pilotfish.tasks.lq:LinearQuadratic",
    ),
    Entry(
        "obstacles",
        "steer a slow point mass between walls, from five starts (MDGPS)",
        "pilotfish.tasks.obstacles:Obstacles",
    ),
    Entry("octopus", "reach for a point with an arm of six chambers and 18 muscles (GPS'14)", _OCTOPUS),
    Entry("octopus-hard", "the same with a point nearer than the arm can shorten", _OCTOPUS, {"target": (2.0, 3.0)}),
    Entry("peg", "insert a peg by an arm of seven joints, hole in nine places (MDGPS)", "pilotfish.tasks.peg:Peg"),
    Entry(
        "peg-blind", "the same, hole in four places that the policy is not told (MDGPS)", "pilotfish.tasks.peg:blind"
    ),
    Entry(
        "peg-2d",
        "insert a peg that hangs from an arm in the plane into a slot (GPS'14)",
        "pilotfish.tasks.peg_planar:PegPlanar",
    ),
    Entry("peg-2d-slots", "the same, slot in four places (GPS'14)", "pilotfish.tasks.peg_planar:slots"),
    Entry(
        "peg-2d-blind",
        "the same, slot in four places that the policy is not told (GPS'14)",
        "pilotfish.tasks.peg_planar:blind",
    ),
    Entry(
        "peg-3d",
        "insert a peg by an arm in space into a square hole (GPS'14)",
        "pilotfish.tasks.peg_spatial:PegSpatial",
    ),
    Entry("swimmer", "swim at 2 m/s with three links (GPS'14)", _SWIMMER),
    Entry(
        "swimmer-cgps",
        "the same at 1 m/s (CGPS'14)",
        _SWIMMER,
        {"velocity": 1.0, "action_weight": 1e-4, "horizon": 200},
    ),
    Entry("table-tennis", "return a ball by a forehand stroke of an arm (MOTO, Fig. 3a)", _TENNIS),
    Entry("table-tennis-context", "the same, launched not always alike (MOTO, Fig. 3c)", _TENNIS, {"spread": 0.17}),
    Entry("table-tennis-noise", "the same, with noise at the bounce (MOTO, Fig. 3b)", _TENNIS, {"bounce_std": 0.25}),
    Entry("walker", "walk at 2.1 m/s on two legs, in a plane (GPS'14)", _WALKER),
    Entry("walker-cgps", "the same, its height ten times as dear (CGPS'14)", _WALKER, {"height_weight": 10.0}),
    Entry(
        "walker-push",
        "the same, pushed back with 100 N for .1 s every 1.5 s (CGPS'14)",
        _WALKER,
        {"height_weight": 10.0, "push": -100.0},
    ),
    Entry(
        "walker-rough",
        "the same on ground with slopes of up to 5 degrees (CGPS'14)",
        _WALKER,
        {"height_weight": 10.0, "slope": 5.0},
    ),
)
"""Our tasks by name."""

ALGORITHMS = _table(
    Entry(
        "moto",
        "model-free trajectory optimisation (Akrour et al., JMLR 2018)",
        "pilotfish.algorithms.moto:MOTO",
        {"reuse": "both", "entropy_drop": 0.05},
    ),
    Entry(
        "lqr-gps",
        "KL-constrained LQR on fitted dynamics, GPS's local half (Levine & Abbeel, 2014)",
        "pilotfish.algorithms.lqr_gps:LQRGPS",
        {"dynamics.prior": "gmm", "kl_step": 0.3},
    ),
    Entry(
        "mdgps",
        "mirror descent guided policy search: local controllers teach a network (Montgomery & Levine, 2016)",
        "pilotfish.algorithms.mdgps:MDGPS",
        {"kl_step": 0.2, "policy.width": 100, "policy.activation": "tanh"},
    ),
    Entry(
        "badmm",
        "guided policy search by multipliers: local controllers and network are drawn together (Levine et al., 2016)",
        "pilotfish.algorithms.badmm:BADMM",
    ),
    Entry(
        "gps",
        "guided policy search under unknown dynamics: a price ties network and controllers (Levine & Abbeel, 2014)",
        "pilotfish.algorithms.gps:GPS",
    ),
    Entry(
        "cgps",
        "constrained guided policy search: the same on known dynamics (Levine & Koltun, 2014)",
        "pilotfish.algorithms.gps:GPS",
        {"model": "known", "terms": "samples", "linearise.how": "autodiff"},
    ),
    Entry(
        "dagger",
        "imitation of another run's local controllers, --teacher RUN, where the network goes (Ross et al., 2011)",
        "pilotfish.algorithms.dagger:DAgger",
    ),
    Entry(
        "mdgps-linear",
        "its exact case, mirror descent: one linear-Gaussian controller for all conditions",
        "pilotfish.algorithms.mdgps_linear:MDGPSLinear",
    ),
    Entry(
        "trpo",
        "trust region policy optimisation: a policy's natural gradient, no model (Schulman et al., 2015)",
        "pilotfish.algorithms.trpo:TRPO",
    ),
    Entry(
        "reps",
        "episodic search by weighted episodes, also contextual (Peters et al., 2010; Kupcsik et al., 2013)",
        "pilotfish.algorithms.reps:REPS",
    ),
    Entry(
        "more",
        "episodic search on a quadratic model of the cost (Abdolmaleki et al., 2015)",
        "pilotfish.algorithms.more:MORE",
    ),
    Entry(
        "ilqg",
        "iterative LQG on known dynamics, within action limits (Tassa et al., 2012, 2014)",
        "pilotfish.algorithms.ilqg:ILQG",
        {"initial_noise": 0.1},
    ),
    Entry(
        "ilqg-learned",
        "the same on dynamics learned from all transitions so far: a handful of episodes (ours)",
        "pilotfish.algorithms.ilqg:ILQG",
        {"dynamics": "learned"},
    ),
    Entry(
        "dyna",
        "a network from a handful of episodes: gps, or another algorithm, learns in dynamics that are learned (ours)",
        "pilotfish.algorithms.dyna:Dyna",
    ),
)
"""Our algorithms by name, with what differs from the papers' settings where nothing is known of the task: few rollouts
are assumed, so samples are reused and dynamics have a prior; steps are short, and networks large enough to follow
precise controllers."""
