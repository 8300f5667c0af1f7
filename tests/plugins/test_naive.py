"""Naive decorrelation by blocks: values and gradients of the dense formula, without its memory."""

import memory
import oracles
import pytest
import torch
from topoloss_plugins.magnitudes import magnitudes, sum_of_magnitudes

import topoloss


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def dense(v):
    return (v @ v.mT).tril(-1).abs().sum((-2, -1)) * 2


def test_pairs_that_fill_several_blocks_all_count_once():
    """Of rows of one number |v_i v_j| is |v_i| |v_j|, so that no pair need be looked at."""
    shape = (2, 4200, 1)
    assert 4200 * 4200 * 2 > 2 * 2**24, "a block holds 2^24 products"
    sizes, signs = 0.5 + randn(*shape).abs(), randn(*shape, seed=1).sign()
    w = randn(*shape, seed=2)
    total, product = magnitudes(signs * sizes, w)
    expected = sizes.sum(-2).square() - sizes.square().sum(-2)
    torch.testing.assert_close(total, expected[..., 0], rtol=1e-12, atol=0)
    expected = signs * (signs * w).sum(-2, keepdim=True) - w
    torch.testing.assert_close(product, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 41])
def test_value_and_derivatives_are_those_of_the_dense_formula(n):
    direction = randn(n, 5, seed=1)
    results = []
    for function in (sum_of_magnitudes, dense):
        x = randn(n, 5).requires_grad_()
        total = function(x)
        (gradient,) = torch.autograd.grad(total, x, create_graph=True)
        (second,) = torch.autograd.grad((gradient * direction).sum(), x)
        results.append((total, gradient, second))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_derivatives_are_those_of_finite_differences():
    v = randn(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(sum_of_magnitudes, v)
    assert torch.autograd.gradgradcheck(sum_of_magnitudes, v)
    # The third derivative vanishes, as S does not change.
    hessian = torch.func.jacrev(torch.func.jacrev(sum_of_magnitudes))
    third = torch.func.jacrev(hessian)(v.detach())
    assert (third == 0).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_what_rounding_leaves_of_a_product_has_no_sign(sign):
    eps = torch.finfo(torch.float64).eps
    v = torch.tensor([[1.0, 0], [sign * eps, 1]], dtype=torch.float64)
    assert (torch.func.grad(sum_of_magnitudes)(v) == 0).all()
    # A product that is small, and more than rounding, has one.
    v = torch.tensor([[1.0, 0], [sign * 100 * eps, 1]], dtype=torch.float64)
    expected = 2 * sign * v.flip(0)
    assert torch.equal(torch.func.grad(sum_of_magnitudes)(v), expected)


def test_a_batch_equals_the_loop():
    v, w = randn(3, 6, 4), randn(3, 6, 4, seed=1)
    loop = [torch.stack(made) for made in zip(*map(magnitudes, v, w), strict=True)]
    for together in (magnitudes(v, w), torch.vmap(magnitudes)(v, w)):
        for ours, expected in zip(together, loop, strict=True):
            torch.testing.assert_close(ours, expected)
    mapped = torch.vmap(magnitudes, in_dims=(None, 1))(v[0], w.movedim(0, 1))
    torch.testing.assert_close(mapped[1], torch.stack([magnitudes(v[0], b)[1] for b in w]))


@pytest.mark.parametrize("shape", [(6, 4), (2, 6, 4)])
def test_the_operator_passes_opcheck(shape):
    torch.library.opcheck(magnitudes, (randn(*shape), randn(*shape, seed=1)))


@pytest.mark.parametrize("n", [1, 2, 129, 600])
def test_the_regulariser_agrees_with_numpy(n):
    x = randn(20, n)
    x[:, :1] = 3.0
    expected = oracles.naive(oracles.correlations(x))
    assert topoloss.regulariser("naive")(x).item() == pytest.approx(expected, rel=1e-12)


def test_memory_does_not_grow_with_all_pairs():
    # All pairs are 1 GiB in float32; two blocks are 128 MiB.
    extra = memory.extra_bytes("naive", samples=4, warm_up=6_000, neurons=16_000)
    assert extra < 150 * 2**20


def test_many_samples_leave_small_correlations_their_gradient():
    # Correlations of about 0.0025, which are far above the rounding of float32.
    x = torch.randn(200_000, 6, generator=torch.Generator().manual_seed(0))
    x = x + 0.05 * torch.randn(200_000, 1, generator=torch.Generator().manual_seed(1))
    naive = topoloss.regulariser("naive")
    single, double = (
        torch.autograd.grad(naive(y), y)[0]
        for y in (x.clone().requires_grad_(), x.double().requires_grad_())
    )
    assert double.norm() > 1e-4
    torch.testing.assert_close(single.double(), double, rtol=1e-2, atol=1e-9)


def test_the_operator_has_the_layout_that_it_says():
    v = randn(5, 9).T
    torch.library.opcheck(magnitudes, (v, v))
