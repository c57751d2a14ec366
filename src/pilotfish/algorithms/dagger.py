"""DAgger: a network learns what a fixed teacher would do where the network goes (Ross, Gordon & Bagnell, AISTATS 2011).

The teacher is a run's local controllers, which do not change. Each iteration:

    roll out teacher and network: in every step the teacher acts with probability beta^i, else the network
    what the teacher would have done in all states visited so far, the network learns      updates/s_step.py

So the network is corrected where its own errors lead it, which imitation of the teacher's episodes alone is not. But
the teacher is never told what the network cannot do: where that observes less than the state, it may imitate a teacher
whose way it cannot go. Guided policy search (algorithms/mdgps.py) improves the teacher about the network instead
(MDGPS, section 5).

| symbol  | paper         | code    |
| beta_i  | Algorithm 3.1 | beta^i  |
| D       | Algorithm 3.1 | lessons |
| pi*     | Algorithm 3.1 | teacher |
"""

from typing import Annotated, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pilotfish import sources
from pilotfish.algorithms import Algorithm, check_number
from pilotfish.policies import files
from pilotfish.policies.either import Either
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.policies.network import Network, NetworkPolicy
from pilotfish.types import Key, LinearGaussian, Problem, Rollouts, Shown
from pilotfish.updates import s_step
from pilotfish.updates.s_step import SStep


class State(NamedTuple):
    """What the next iteration needs."""

    iteration: Int[Array, ""]
    teacher: LinearGaussian
    """Leading axes (N, T); its noise is that of exploration."""
    policy: NetworkPolicy
    lessons: s_step.Memory


class Info(NamedTuple):
    """What an iteration reports."""

    ok: Bool[Array, "N"]
    """False where no step happened."""
    teaches: Annotated[Float[Array, ""], Shown("steps in which the teacher acts", "%", column="teacher", form="{:.2g}")]
    """Probability with which the teacher acted: beta^i."""
    loss_before: Annotated[Float[Array, ""], Shown("loss of the network", scale="log", label="before its lesson")]
    """Mean squared distance of the network's actions to the teacher's, in standard deviations of the first noise."""
    loss: Annotated[
        Float[Array, ""],
        Shown("loss of the network", scale="log", column="loss", form="{:.3g}", label="after its lesson"),
    ]
    """Likewise, after its lesson."""
    idle: Annotated[Float[Array, ""], Shown("hidden units that are idle", "%")]
    """Fraction of the network's hidden units that have one value everywhere: dead, or saturated."""


class DAgger(Algorithm):
    """Imitation of a fixed teacher where the learner goes.

    Source: Ross, Gordon & Bagnell (AISTATS 2011). ValueError for a setting out of its range, or where `teacher` holds
    no local controllers of this task.

    Example:

    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> world = LinearQuadratic().world()
    >>> teacher = pf.train(pf.LQRGPS(kl_step=0.5), world, rollouts=20, iterations=3)
    >>> path = teacher.policy.save("teacher.safetensors")
    >>> algorithm = pf.DAgger(teacher="teacher.safetensors", policy=pf.Network(width=10))
    >>> result = pf.train(algorithm, world, rollouts=10, iterations=2)
    >>> bool(result.metrics["loss"][0, -1] < result.metrics["loss_before"][0, 0]), result.policy.kind
    (True, 'network')
    """

    teacher: str = eqx.field(static=True, default="", converter=sources.absolute)
    """The file of the local controllers that teach, as by `pilotfish export RUN --local`. `--teacher RUN` does both."""
    beta: float = 0.5
    """In iteration i, counted from 0, the teacher acts with probability beta^i, the network else; 0: in the first
    alone."""
    noise: float = 0.5
    """Standard deviation of the noise that is added to all actions while learning, as a part of the problem's first."""
    policy: Network = Network()
    """The network."""
    teach: SStep = SStep(batch=128, memory=20)
    """How it learns; its memory should be the number of iterations, for DAgger forgets nothing."""

    @property
    def defaults(self) -> tuple[int, int]:
        return 5, 20

    def __check_init__(self):
        check_number(self, "beta", lambda v: 0 <= v <= 1, "a probability")
        check_number(self, "noise", lambda v: v >= 0, "a part of the first noise; 0 adds none")

    @property
    def files(self) -> tuple[str, ...]:
        return (*super().files, *([self.teacher] if self.teacher else []))

    def init(self, problem: Problem, episodes: int, key: Key) -> State:
        """The teacher, and a network that knows nothing unless it is given one."""
        policy = self.policy.policy(problem, key)
        return State(
            iteration=jnp.zeros((), int),
            teacher=self._teacher(problem),
            policy=policy,
            lessons=self.teach.begin(problem, policy, episodes, self.policy.knows),
        )

    def _teacher(self, problem: Problem) -> LinearGaussian:
        """The teacher's controllers, with the noise of exploration. ValueError if they are for another problem."""
        if not self.teacher:
            raise ValueError("teacher='': name the run whose local controllers teach, --teacher RUN.")
        found = files.load(self.teacher)
        if not isinstance(found, LinearGaussianPolicy):
            raise ValueError(
                f"teacher={self.teacher}: it holds a policy of the kind {found.kind!r}; local controllers teach. "
                "Export those of its run: pilotfish export RUN --local."
            )
        p, shape = found.controller, (len(problem.conditions.mean), problem.horizon, problem.du, problem.dx)
        if p.K.shape != shape:
            raise ValueError(
                f"teacher={self.teacher}: its gains have the shape {p.K.shape}; this task's have the shape {shape}: "
                "condition, time step, action, state. Choose a run on the same task."
            )
        std = self.noise * problem.initial_std
        return LinearGaussian(p.K, p.k, jnp.broadcast_to(jnp.diag(std), (*shape[:3], problem.du)))

    def explore(self, state: State) -> Either:
        N, T = state.teacher.k.shape[:2]
        noisy = eqx.tree_at(lambda policy: policy.factor, state.policy, state.teacher.chol[0, 0])
        chance = 1.0 - jnp.asarray(self.beta) ** state.iteration
        return Either.of(LinearGaussianPolicy(state.teacher), noisy, jnp.full(N, chance, float), T)

    def exploit(self, state: State) -> NetworkPolicy:
        """The network."""
        return state.policy.noise_free()

    def local(self, state: State) -> LinearGaussianPolicy:
        """The teacher."""
        return LinearGaussianPolicy(state.teacher).noise_free()

    def update(self, problem: Problem, state: State, rollouts: Rollouts, key: Key) -> tuple[State, Info]:
        data = rollouts.cleaned()
        alike = jnp.broadcast_to(jnp.diag(problem.initial_std), state.teacher.chol.shape)
        teacher = LinearGaussian(state.teacher.K, state.teacher.k, alike)
        policy, lessons, taught = self.teach(state.lessons, state.policy, data, teacher, key)
        info = Info(
            ok=data.happened.any((1, 2)),
            teaches=jnp.asarray(self.beta, float) ** state.iteration,
            loss_before=taught.loss_before,
            loss=taught.loss_after,
            idle=taught.idle,
        )
        return State(state.iteration + 1, state.teacher, policy, lessons), info
