"""Activations as no training run would order them: what breaks arithmetic, in any mixture.

A column is drawn as a few small integers, so that hypothesis can shrink it; its entries come from
a generator of numpy with one of these integers as seed.
"""

import numpy as np
import torch
from hypothesis import strategies as st

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# The numba backend works in chunks of 32 and 128 pairs, Triton's kernels in tiles of 64 and more,
# the keys of the torch backend in blocks of 256 rows.
BORDERS = (31, 32, 33, 63, 64, 65, 127, 128, 129, 191, 192, 193, 255, 256, 257)
# Tiles of 512 rows, Prim's blocks of 1024 vertices, and the end of what is held at once.
FAR_BORDERS = (511, 512, 513, 1023, 1024, 1025, 2047, 2048, 2049)

# Decimal exponents: most columns are of order 1, others overflow or underflow when squared. The
# last two are subnormal in float32 and in float64.
SCALES = (0, 0, 0, 3, -3, 15, 30, -15, -30, -38, -40, -310)
# Scales multiply where copies are scaled again; sums of so large distances still are finite.
LARGEST = 1e34
SEEDS = st.integers(0, 999)


def _gaussian(rng, samples, earlier):
    return rng.standard_normal(samples)


def _small_integers(rng, samples, earlier):
    return rng.integers(-1, 2, samples).astype(float)


def _one_hot(rng, samples, earlier):
    return (np.arange(samples) == rng.integers(samples)).astype(float)


def _constant(rng, samples, earlier):
    return np.full(samples, rng.choice([0.0, 0.1, 1.0, -3.0]))


def _tiny_variance(rng, samples, earlier):
    """A spread of a few rounding errors of one of the dtypes, or some more, on an offset."""
    spread = 2.0 ** -rng.integers(5, 53)
    return rng.choice([1.0, -1.5, 1.9]) + spread * rng.integers(-2, 3, samples)


def _copy(rng, samples, earlier):
    return earlier[rng.integers(len(earlier))] if earlier else np.ones(samples)


def _opposite(rng, samples, earlier):
    return -_copy(rng, samples, earlier)


def _affine_copy(rng, samples, earlier):
    return 3 - 2 * _copy(rng, samples, earlier)


def _near_copy(rng, samples, earlier):
    column = _copy(rng, samples, earlier).copy()
    column[rng.integers(samples)] *= 1 + 2.0 ** -rng.integers(5, 53)
    return column


COLUMNS = (
    _gaussian, _small_integers, _one_hot, _constant, _tiny_variance, _copy, _opposite, _affine_copy,
    _near_copy,
)  # fmt: skip


def _as_given(x):
    return x


def _transposed(x):
    return x.T.contiguous().T


def _every_third_column(x):
    wide = torch.full((x.shape[0], 3 * x.shape[1]), torch.nan, dtype=x.dtype)
    wide[:, ::3] = x
    return wide[:, ::3]


def _every_other_sample(x):
    tall = torch.full((2 * x.shape[0], x.shape[1]), torch.nan, dtype=x.dtype)
    tall[1::2] = x
    return tall[1::2]


def _one_neuron_expanded(x):
    return x[:, :1].expand(-1, x.shape[1])


def _one_sample_expanded(x):
    return x[:1].expand(x.shape[0], -1)


LAYOUTS = (
    _as_given, _transposed, _every_third_column, _every_other_sample, _one_neuron_expanded,
    _one_sample_expanded,
)  # fmt: skip


@st.composite
def activations(draw, *, min_samples=1, max_samples=20, borders=BORDERS):
    """Draw a tensor (samples, neurons) of any floating dtype and memory layout."""
    samples = draw(st.one_of(st.integers(min_samples, 4), st.integers(min_samples, max_samples)))
    drawn = draw(
        st.lists(
            st.tuples(st.sampled_from(COLUMNS), st.sampled_from(SCALES), SEEDS),
            min_size=1,
            max_size=10,
        )
    )
    columns = []
    for column, scale, seed in drawn:
        made = column(np.random.default_rng(seed), samples, columns)
        columns.append(made * 10.0**scale)
    if draw(st.integers(0, 7)) == 7:
        fill = draw(st.sampled_from(COLUMNS))
        rng = np.random.default_rng(draw(SEEDS))
        for _ in range(len(columns), draw(st.sampled_from(borders))):
            columns.append(fill(rng, samples, columns))
    dtype = draw(st.sampled_from(DTYPES))
    largest = min(torch.finfo(dtype).max, LARGEST)
    x = torch.from_numpy(np.stack(columns, 1)).clamp(-largest, largest).to(dtype)
    return draw(st.sampled_from(LAYOUTS))(x)


@st.composite
def small_integers(draw, *, high, min_rows=1, max_rows=5, min_columns=1, max_columns=7):
    """Draw a float64 tensor of integers from -high to high: ties, zeros and copies abound."""
    rows, columns = (
        draw(st.integers(min_rows, max_rows)),
        draw(st.integers(min_columns, max_columns)),
    )
    entry = st.integers(-high, high)
    entries = draw(st.lists(entry, min_size=rows * columns, max_size=rows * columns))
    return torch.tensor(entries, dtype=torch.float64).reshape(rows, columns)
