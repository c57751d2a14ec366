"""Gaussian processes: smooth functions of few samples, and how sure one can be of them (Rasmussen & Williams 2006).

    y_j = f_j(s) + e,    f_j ~ GP(0, sigma_j^2 k),    e ~ N(0, sigma_j^2 n_j^2)
    k(s, s') = exp( -1/2 |(s - s') / l|^2 ) + w^2 (1 + s's')

The inputs s are whitened. All outputs j share the lengths l and the weight w of the linear part, so that one kernel
matrix serves all of them; each has its own noise n_j, as a part of its size sigma_j. An output that is linear (the last
action, kept in the state because actions come late) could have any lengths and makes those of all others long: it says
nothing of the kernel and is fitted by itself.

l, w and n maximise the likelihood of some of the samples, of which sigma_j drops out (5.8, with its maximum in
sigma_j^2 = y'(K + n_j^2)^-1 y / N put in). Beyond 10 times the spread of an input its length has a weak prior, and w
beyond 10: there they make no difference to the samples, and much to what is far from them. So has n_j beyond 1: a few
samples are as likely if all of them is noise, and more so the larger it is beside the function.

What is predicted uses all samples by as many basis functions as they need: those of the samples that a pivoted Cholesky
factorisation chooses, each where the others leave most unsaid, until they leave nothing above the noise. That is the
method of the subset of regressors (8.13), exact if every sample is chosen.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import optax
from jaxtyping import Array, Bool, Float, Int

from pilotfish.algebra.batch import chosen, each

LEAST_NOISE = 1e-4
"""Smallest n_j: a part of the function's size that samples are not believed to tell."""
FIRST_NOISE = 0.05
"""n_j before any sample."""
RATE = 0.2
"""First step of a logarithm by Adam."""
ROUNDING = 10.0
"""Noise below so many units in the last place of the kernel matrix is taken to be that."""
LONG, NOISY, WEAK = 10.0, 1.0, 2.0
"""From where on lengths and the weight of the linear part have a prior, from where on noise, and its own weight."""
UNSAID = 0.01
"""The factorisation ends where what it leaves is less than this part of the least noise, as variances."""


class Kernel(NamedTuple):
    """What is learned of the process, as logarithms."""

    length: Float[Array, "d"]
    linear: Float[Array, ""]
    """Of w."""
    noise: Float[Array, "outputs"]

    def __call__(self, a: Float[Array, "n d"], b: Float[Array, "m d"]) -> Float[Array, "n m"]:
        """K between all of two sets of inputs."""
        return self.near(a, b) + jnp.exp(2.0 * self.linear) * (1.0 + a @ b.T)

    def near(self, a: Float[Array, "n d"], b: Float[Array, "m d"]) -> Float[Array, "n m"]:
        """The part of K that is not linear: by a product of matrices, for no cache holds all differences a - b."""
        p, q = a * jnp.exp(-self.length), b * jnp.exp(-self.length)
        squared = (p**2).sum(1)[:, None] + (q**2).sum(1) - 2.0 * p @ q.T
        return jnp.exp(-0.5 * jnp.maximum(squared, 0.0))

    def own(self, s: Float[Array, "n d"]) -> Float[Array, "n"]:
        """K of every input with itself."""
        return 1.0 + jnp.exp(2.0 * self.linear) * (1.0 + (s**2).sum(1))

    @property
    def variance(self) -> Float[Array, "outputs"]:
        """n_j^2."""
        return jnp.exp(2.0 * self.noise) + LEAST_NOISE**2


class Process(eqx.Module):
    """The functions f_j, given samples."""

    kernel: Kernel
    pivots: Float[Array, "m d"]
    """The inputs at which the basis functions are centred."""
    weight: Float[Array, "m outputs"]
    """Of the basis functions, 0 for those that are not needed."""
    linear: Float[Array, "d outputs"]
    constant: Float[Array, "outputs"]

    def __call__(self, s: Float[Array, "d"]) -> Float[Array, "outputs"]:
        """The mean of f in one input."""
        return self.kernel.near(s[None], self.pivots)[0] @ self.weight + s @ self.linear + self.constant


def begin(d: int, outputs: int) -> Kernel:
    """What is believed before any sample: inputs are about sqrt(2 d) apart, and f changes on a scale of that."""
    return Kernel(
        length=jnp.full(d, 0.5 * math.log(d), float),
        linear=jnp.zeros(()),
        noise=jnp.full(outputs, math.log(FIRST_NOISE), float),
    )


def surprise(
    kernel: Kernel, s: Float[Array, "n d"], y: Float[Array, "n outputs"], known: Bool[Array, "n"]
) -> Float[Array, ""]:
    """-log likelihood of the samples that are known, and of the prior, but for a constant. Outputs that are 0
    everywhere say nothing.
    """
    both, y = known[:, None] & known, jnp.where(known[:, None], y, 0.0)
    K = jnp.where(both, kernel(s, s), 0.0)
    rounding = ROUNDING * jnp.finfo(s.dtype).eps * jnp.trace(K)
    lengths = jnp.append(kernel.length, kernel.linear) - math.log(LONG)
    beyond = jnp.maximum(jnp.append(lengths, kernel.noise - math.log(NOISY)), 0.0)
    return _misfit(K, y, kernel.variance + rounding, known) + WEAK * (beyond**2).sum()


def _line(
    s: Float[Array, "n d"], y: Float[Array, "n outputs"], known: Bool[Array, "n"]
) -> tuple[Float[Array, "1+d outputs"], Bool[Array, "outputs"]]:
    """Constants and slopes of the outputs by least squares, and whether these leave more than samples are believed not
    to tell.
    """
    H = jnp.where(known[:, None], jnp.concatenate([jnp.ones_like(s[:, :1]), s], 1), 0.0)
    y, normal = jnp.where(known[:, None], y, 0.0), H.T @ H
    rounding = (
        ROUNDING * jnp.finfo(s.dtype).eps * jnp.maximum(jnp.trace(normal), 1.0) * jnp.eye(len(normal), dtype=s.dtype)
    )
    c = jsl.cho_solve((jnp.linalg.cholesky(normal + rounding), True), H.T @ y)
    return c, ((y - H @ c) ** 2).sum(0) > LEAST_NOISE**2 * (y**2).sum(0)


@jax.custom_vjp
def _misfit(
    K: Float[Array, "n n"], y: Float[Array, "n outputs"], variance: Float[Array, "outputs"], known: Bool[Array, "n"]
) -> Float[Array, ""]:
    """1/2 sum over outputs of  log |K + v_j| + N log y_j'(K + v_j)^-1 y_j,  among the N samples that are known; K and y
    are 0 elsewhere. One eigendecomposition serves all outputs.
    """
    return _misfit_forward(K, y, variance, known)[0]


def _misfit_forward(K: Array, y: Array, variance: Array, known: Array) -> tuple[Array, tuple]:
    """The same, and what its gradient is made of."""
    values, Q = jnp.linalg.eigh(K)
    inverse, z, unknown = 1.0 / (values[:, None] + variance), Q.T @ y, (~known).sum()
    varies, size = (y**2).sum(0) > 0, (inverse * z**2).sum(0)
    volume = jnp.log(values[:, None] + variance).sum(0) - unknown * jnp.log(variance)
    fits = known.sum() * jnp.log(size + ~varies)
    misfit = 0.5 * jnp.where(varies, volume + fits, 0.0).sum()
    return misfit, (Q, inverse, inverse * z, size, varies, variance, known)


def _misfit_backward(found: tuple, slope: Float[Array, ""]) -> tuple[Array, Array, Array, None]:
    """Gradients by K, y and the variances (Rasmussen & Williams 5.9, each with its output's size put in)."""
    Q, inverse, weighted, size, varies, variance, known = found
    a, share = Q @ weighted, jnp.where(varies, known.sum() / size, 0.0)
    by_K = (Q * (inverse @ varies)) @ Q.T - (a * share) @ a.T
    by_variance = varies * (inverse.sum(0) - (~known).sum() / variance) - share * (a**2).sum(0)
    return 0.5 * slope * by_K, slope * share * a, 0.5 * slope * by_variance, None


_misfit.defvjp(_misfit_forward, _misfit_backward)


def likeliest(
    kernel: Kernel, s: Float[Array, "n d"], y: Float[Array, "n outputs"], known: Bool[Array, "n"], steps: int
) -> Kernel:
    """The most likely kernel that so many steps of Adam meet; they settle towards the end. Outputs that are linear say
    nothing.
    """
    y = jnp.where(_line(s, y, known)[1], y, 0.0)
    solver: Any = optax.adam(optax.linear_schedule(RATE, 0.0, steps))

    def step(carry, _):
        kernel, state, best = carry
        value, grad = jax.value_and_grad(surprise)(kernel, s, y, known)
        best = chosen(value < best[1], (kernel, value), best)
        change, state = solver.update(grad, state, kernel)
        return (jax.tree.map(jnp.add, kernel, change), state, best), None

    first = kernel, solver.init(kernel), (kernel, jnp.asarray(jnp.inf, s.dtype))
    (last, _, best), _ = jax.lax.scan(step, first, None, length=steps)
    return chosen(surprise(last, s, y, known) < best[1], last, best[0])


def given(
    kernel: Kernel,
    s: Float[Array, "n d"],
    y: Float[Array, "n outputs"],
    known: Bool[Array, "n"],
    candidates: Int[Array, "c"],
    most: int,
) -> Process:
    """The process, given the samples that are known, by at most so many basis functions, centred on some of the
    candidates.
    """
    order, G = factor(kernel, s[candidates], known[candidates], most)
    L, pivots = G[order], s[candidates[order]]
    used = jnp.diagonal(L) > 0
    L = jnp.where(used[:, None] & used, L, 0.0) + jnp.diag(jnp.where(used, 0.0, 1.0))
    across = jnp.where(used[:, None] & known, kernel(pivots, s), 0.0)
    G = jsl.solve_triangular(L, across, lower=True).T
    normal, rounding = G.T @ G, ROUNDING * jnp.finfo(s.dtype).eps * (G**2).sum()
    target = G.T @ jnp.where(known[:, None], y, 0.0)

    def solved(target: Float[Array, "m"], variance: Float[Array, ""]) -> Float[Array, "m"]:
        noise = (variance + rounding) * jnp.eye(len(normal), dtype=s.dtype)
        return jsl.cho_solve((jnp.linalg.cholesky(normal + noise), True), target)

    inner = each(solved, target.T, kernel.variance)
    weight = jnp.where(used[:, None], jsl.solve_triangular(L, inner.T, lower=True, trans=1), 0.0)
    w2, (line, curved) = jnp.exp(2.0 * kernel.linear), _line(s, y, known)
    weight = jnp.where(curved, weight, 0.0)
    linear = jnp.where(curved, w2 * pivots.T @ weight, line[1:])
    return Process(kernel, pivots, weight, linear, jnp.where(curved, w2 * weight.sum(0), line[0]))


def factor(
    kernel: Kernel, s: Float[Array, "n d"], known: Bool[Array, "n"], most: int
) -> tuple[Int[Array, "m"], Float[Array, "n m"]]:
    """Pivots, and G with K ~ GG' among the samples that are known: a pivoted Cholesky factorisation of at most so many
    columns. Those that are not needed are 0.
    """
    least = UNSAID * kernel.variance.min()
    n = len(s)

    def unfinished(carry):
        i, left, *_ = carry
        return (i < most) & (left.max() > least)

    def column(carry):
        i, left, order, G = carry
        p = jnp.argmax(left)
        rest: Array = (kernel(s, s[p][None])[:, 0] - G @ G[p]) / jnp.sqrt(left[p])
        new = jnp.where(known, rest, 0.0)
        left = jnp.maximum(left - new**2, 0.0).at[p].set(0.0)
        return i + 1, left, order.at[i].set(p), G.at[:, i].set(new)

    left = jnp.where(known, kernel.own(s), 0.0)
    start: Any = 0, left, jnp.zeros(most, int), jnp.zeros((n, most), s.dtype)
    _, _, order, G = jax.lax.while_loop(unfinished, column, start)
    return order, G
