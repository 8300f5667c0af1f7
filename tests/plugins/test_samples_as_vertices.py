"""Regularisers whose vertices are samples: `beta-connectivity`, `densification`, `signature`."""

import pytest
import torch
from oracles import h0_deaths, spanning_tree
from scipy.spatial.distance import cdist
from torch import nn

import topoloss


def drawn(samples, neurons, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, neurons, dtype=torch.float64, generator=generator)


def test_beta_connectivity_by_hand():
    """Samples at (0, 0), (3, 4) and (3, 5): deaths 1 and 5. With beta 2: 1 + 3."""
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]])
    assert topoloss.regulariser("beta-connectivity", beta=2.0)(x).item() == 4


def test_beta_connectivity_is_that_of_single_linkage():
    x = drawn(20, 3)
    deaths = h0_deaths(cdist(x, x))
    value = topoloss.regulariser("beta-connectivity", beta=0.7)(x)
    assert value.item() == pytest.approx(abs(deaths - 0.7).sum(), rel=1e-12)


def test_samples_of_one_neuron_have_no_correlation():
    regulariser = topoloss.regulariser("beta-connectivity[filtration=correlation]")
    with pytest.raises(topoloss.InputError, match=r"8 vertices of one value .* one neuron"):
        regulariser(drawn(8, 1))


def test_descent_brings_deaths_to_beta():
    x = drawn(12, 2).requires_grad_()
    optimiser = torch.optim.SGD([x], lr=0.01)
    for _ in range(300):
        optimiser.zero_grad()
        topoloss.regulariser("beta-connectivity", beta=2.0)(x).backward()
        optimiser.step()
    deaths = h0_deaths(cdist(x.detach(), x.detach()))
    assert abs(deaths - 2).max() < 0.1


def test_densification_values_each_class_by_itself():
    """Class 0 at 0, 1 and 5: deaths 1 and 4. Class 1 at 7 and 9: death 2. Class 2: one sample."""
    of_classes = [torch.tensor(column)[:, None] for column in ([0.0, 1, 5], [7.0, 9], [3.0])]
    regulariser = topoloss.regulariser("densification", beta=3.0)
    assert regulariser(of_classes).tolist() == [3, 1, 0]


@pytest.mark.parametrize("options", [{}, {"per": "layer"}, {"on_small_batch": "skip"}])
def test_attach_refuses_densification_at_once(options):
    model = nn.Linear(3, 2)
    with pytest.raises(topoloss.InputError, match=r"no labels: take .*observe.*\.sum\(\)"):
        topoloss.attach(model, "densification", **options)
    assert not model._forward_hooks


def test_layers_without_labels_are_an_error_of_densification():
    with pytest.raises(topoloss.InputError, match=r"no labels: take .*observe.*\.sum\(\)"):
        topoloss.regulariser("densification").of_layers({"0": drawn(5, 3)})


def test_any_regulariser_may_declare_that_it_needs_labels():
    class BetweenClasses(topoloss.Regulariser):
        labels = True

        def compute(self, x):
            return x.mean()

    with pytest.raises(topoloss.InputError, match="BetweenClasses takes a list of one tensor"):
        topoloss.attach(nn.Linear(3, 2), BetweenClasses())


def test_signature_by_hand():
    """Samples x at 0, 1, 5 and z at 0, 4, 1. The edges 0-1 and 1-2 of x are 1 and 4 long, and in z
    4 and 3; the edges 0-2 and 1-2 of z are 1 and 3 long, and in x 5 and 4.

    (1 - 4)^2 / 2 + (4 - 3)^2 / 2 + (1 - 5)^2 / 2 + (3 - 4)^2 / 2 = 13.5.
    """
    x, z = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[0.0], [4.0], [1.0]])
    regulariser = topoloss.regulariser("signature")
    assert regulariser.of_layers({"x": x, "z": z}).item() == 13.5
    assert regulariser.of_layers({"z": z, "x": x}).item() == 13.5
    assert regulariser.of_layers({"x": x, "same": x}).item() == 0
    assert regulariser.of_layers({"x": x, "z": z, "same": x, "again": z}).item() == 27
    assert regulariser.of_layers({"x": x}).item() == regulariser(x).item() == 0


def test_signature_is_that_of_scipys_trees():
    x, z = drawn(15, 4), drawn(15, 2, seed=1)
    in_x, in_z = cdist(x, x), cdist(z, z)
    trees = (spanning_tree(m)[0].T for m in (in_x, in_z))
    expected = sum(((in_x - in_z)[i, j] ** 2).sum() / 2 for i, j in trees)
    value = topoloss.regulariser("signature").of_layers({"x": x, "z": z})
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_both_layers_of_a_signature_have_a_gradient():
    regulariser = topoloss.regulariser("signature")
    x, z = drawn(6, 4).requires_grad_(), drawn(6, 2, seed=1).requires_grad_()

    def value(x, z):
        return regulariser.of_layers({"x": x, "z": z})

    assert torch.autograd.gradcheck(value, (x, z))
    assert torch.autograd.gradgradcheck(value, (x, z))


def test_loops_count_in_a_signature_if_the_engine_finds_them():
    """The corners of a square and of a rectangle: the loop's birth and death edges join the sum.

    In the square, 1 by 1, the sides 01, 03 and 12 are the tree, and the loop is born with 23 and
    dies with the diagonal 02. In the rectangle, 1 by 2, these are 01, 23 and 03, then 12 and 02.
    The sides 03 and 12 are longer by 1 there: the trees differ by (1 + 1)/2 and 1/2, the births
    by 0 and 1/2, and each death by (sqrt(5) - sqrt(2))^2 / 2.
    """
    square = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    layers = {"square": square, "rectangle": square * torch.tensor([1.0, 2.0])}
    tree = topoloss.regulariser("signature").of_layers(layers).item()
    loops = topoloss.regulariser("signature", persistence="ripser").of_layers(layers).item()
    assert tree == 1.5
    assert loops == pytest.approx(1.5 + 0.5 + (5**0.5 - 2**0.5) ** 2, rel=1e-6)


def test_an_attached_signature_compares_the_input_with_a_layer():
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    x = torch.randn(10, 4)
    penalty = topoloss.attach(model, "signature", layers=["2"])
    z = model(x)
    expected = topoloss.regulariser("signature").of_layers({"x": x, "z": z})
    torch.testing.assert_close(penalty(), expected)
    penalty().backward()
    assert model[0].weight.grad.any()


def test_a_signature_refuses_or_skips_what_is_not_finite():
    x, z = drawn(5, 3), drawn(5, 2)
    z[2, 1] = torch.nan
    with pytest.raises(topoloss.NonFiniteError):
        topoloss.regulariser("signature").of_layers({"x": x, "z": z})
    skipping = topoloss.regulariser("signature", on_nonfinite="skip")
    assert skipping.of_layers({"x": x, "z": z}).item() == 0
    assert skipping.skipped == 1


def test_layers_of_a_signature_share_their_samples():
    with pytest.raises(topoloss.InputError, match=r"'a': \(5, 3\), 'b': \(4, 3\)"):
        topoloss.regulariser("signature").of_layers({"a": drawn(5, 3), "b": drawn(4, 3)})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    x, z = drawn(6, 3).to(dtype), drawn(6, 2, seed=1).to(dtype)
    regulariser = topoloss.regulariser("signature")
    value = regulariser.of_layers({"x": x, "z": z})
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, regulariser.of_layers({"x": x.float(), "z": z.float()}))


def test_constant_is_judged_in_the_dtype_of_each_layer():
    """Next to 256 bfloat16 has the numbers 254 and 258: what is between may be rounding."""
    x, z = drawn(3, 4), drawn(3, 4, seed=1)
    x[0] = torch.tensor([256.0, 256, 258, 256])
    assert torch.equal(x[0].bfloat16().double(), x[0])
    regulariser = topoloss.regulariser("signature[filtration=correlation]")
    flat = x.clone()
    flat[0] = 256
    found = regulariser.of_layers({"x": x.bfloat16(), "z": z})
    expected = regulariser.of_layers({"x": flat.bfloat16(), "z": z})
    torch.testing.assert_close(found, expected)


def test_edges_without_a_weight_in_one_layer_do_not_count():
    """A sample that is constant in a layer: with "drop" the value is that of the others alone."""
    x, z = drawn(6, 4), drawn(6, 5, seed=1)
    x[5] = 3
    others = {"x": x[:5], "z": z[:5]}
    dropping = topoloss.regulariser("signature[filtration=correlation[constant=drop]]")
    keeping = topoloss.regulariser("signature[filtration=correlation]")
    # In z the sample is copied, so that there too it is a leaf of the tree.
    z[5] = z[0]
    found = dropping.of_layers({"x": x, "z": z})
    torch.testing.assert_close(found, keeping.of_layers(others))
    assert found < keeping.of_layers({"x": x, "z": z})


def test_a_signature_refuses_edge_values_that_would_be_broadcast():
    class Column(topoloss.Filtration):
        order = "sq_dist_ascending"

        def vertices(self, x):
            return x.T

        def edge_values(self, v, i, j):
            return (v[i] - v[j]).norm(dim=1, keepdim=True)

    with pytest.raises(topoloss.InputError, match=r"Column.edge_values.*one value for each"):
        topoloss.regulariser("signature", filtration=Column()).of_layers(
            {"x": drawn(6, 4), "z": drawn(6, 2)}
        )


def test_signature_shows_the_stages_that_it_asks():
    shown = repr(topoloss.regulariser("signature[filtration=cosine]"))
    assert "Cosine" in shown
    assert "MinimumSpanningTree" in shown
    assert "T1" not in shown
