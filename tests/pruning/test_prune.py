"""A smaller model that puts out the same."""

import copy
import logging
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import nn

import topoloss

X = torch.linspace(-2, 2, 60, dtype=torch.float64).reshape(20, 3).sin() * torch.arange(1, 4)


def assert_same_outputs(smaller, model, x):
    torch.testing.assert_close(
        smaller.eval()(x), copy.deepcopy(model).eval()(x), rtol=1e-10, atol=1e-10
    )


def dense(*between, width=8, shift=0.0, slope=1.0):
    """Unit 2 is `slope` times unit 0 plus `shift`, before what comes between."""
    model = nn.Sequential(nn.Linear(3, width), *between, nn.Linear(width, 2)).double()
    with torch.no_grad():
        model[0].weight[2] = slope * model[0].weight[0]
        model[0].bias[2] = slope * model[0].bias[0] + shift
    return model


@pytest.mark.parametrize(
    ("between", "options"),
    [
        ([], {"slope": -3, "shift": 2}),
        ([nn.LeakyReLU()], {}),
        ([nn.LeakyReLU()], {"slope": 5}),
        ([nn.GELU(), nn.Dropout(0.5)], {}),
        ([nn.Tanh(), nn.Identity()], {"slope": -1}),
        ([nn.LeakyReLU(inplace=True), nn.Dropout(0.1, inplace=True)], {}),
    ],
)
def test_a_copy_goes_and_no_output_changes(between, options):
    model = dense(*between, **options)
    smaller = topoloss.prune(model, X)
    assert smaller[0].out_features == smaller[-1].in_features == 7
    assert smaller[0].weight.shape == (7, 3)
    assert_same_outputs(smaller, model, X)


def test_the_fold_by_hand():
    """h = (a, 2a + 1, 4) with a = x, read by weights (1, 10, 100) and a bias of 7.

    One of the first two stays. By a: 1 a + 10 (2a + 1) + 100 * 4 + 7 = 21 a + 417.
    By b = 2a + 1, a = (b - 1) / 2: 10.5 b - 0.5 + 400 + 7.
    """
    model = nn.Sequential(nn.Linear(1, 3), nn.Linear(3, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [2.0], [0.0]]))
        model[0].bias.copy_(torch.tensor([0.0, 1.0, 4.0]))
        model[1].weight.copy_(torch.tensor([[1.0, 10.0, 100.0]]))
        model[1].bias.fill_(7)
    smaller = topoloss.prune(model, X[:, :1])
    slope, at_zero = smaller[1].weight.item(), smaller[1].bias.item()
    assert (slope, at_zero) in [
        (pytest.approx(21), pytest.approx(417)),
        (pytest.approx(10.5), pytest.approx(406.5)),
    ]
    assert_same_outputs(smaller, model, X[:, :1])


def test_constants_go_into_biases_and_dead_neurons_vanish():
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2, bias=False)).double()
    with torch.no_grad():
        model[0].weight[:2] = 0
        model[0].bias[:2] = torch.tensor([3.0, -3.0])
    smaller = topoloss.prune(model, X)
    assert smaller[0].out_features == 3
    torch.testing.assert_close(smaller[2].bias, 3 * model[2].weight[:, 0])
    assert_same_outputs(smaller, model, X)


@pytest.mark.parametrize("options", [{}, {"share": 1}, {"share": 0.5, "refit": True}])
def test_a_layer_keeps_a_neuron(options):
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.copy_(torch.arange(5) - 2.0)
    smaller = topoloss.prune(model, X, **options)
    assert smaller[0].out_features == (3 if "refit" in options else 1)
    assert_same_outputs(smaller, model, X)


def test_near_copies_stay_by_default():
    model = dense(nn.Tanh())
    with torch.no_grad():
        model[0].weight[2] += 1e-9
    assert topoloss.prune(model, X)[0].out_features == 8
    assert topoloss.prune(model, X, level=1e-6)[0].out_features == 7


class Images(nn.Module):
    """Channels through normalisation, pooling and flattening, as in a VGG."""

    def __init__(self, padding=0, mode="zeros"):
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 5, 3, padding=padding, padding_mode=mode, bias=False)
        self.slopes = nn.PReLU(5)
        self.third = nn.Linear(5 * 4, 4)
        self.flat_norm = nn.BatchNorm1d(4)
        self.last = nn.Linear(4, 2)
        for norm in (self.norm, self.flat_norm):
            nn.init.uniform_(norm.weight)
            nn.init.uniform_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(self.slopes.weight)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm(self.first(x))), 2)
        x = F.adaptive_avg_pool2d(self.slopes(self.second(x)), 2)
        x = self.third(x.flatten(1)).sigmoid()
        return self.last(self.flat_norm(x))


def duplicate(old, new, *modules):
    """Make channel `new` the same as channel `old` in modules that follow each other."""
    with torch.no_grad():
        for module in modules:
            for name in ("weight", "bias", "running_mean", "running_var"):
                tensor = getattr(module, name, None)
                if tensor is not None:
                    tensor[new] = tensor[old]


@pytest.mark.parametrize(("padding", "mode"), [(0, "zeros"), (1, "zeros"), (1, "reflect")])
def test_channels_of_convolutions_go_whole(padding, mode):
    model = Images(padding, mode).double().eval()
    duplicate(0, 3, model.first, model.norm)
    duplicate(1, 4, model.second)
    model.slopes.weight.data[4] = model.slopes.weight.data[1]
    duplicate(2, 0, model.third, model.flat_norm)
    x = torch.randn(9, 1, 12, 12, dtype=torch.float64)
    smaller = topoloss.prune(model, x)
    assert smaller.first.weight.shape == (5, 1, 3, 3)
    assert smaller.second.weight.shape == (4, 5, 3, 3)
    assert smaller.third.weight.shape == (3, 16)
    assert (smaller.norm.num_features, smaller.slopes.num_parameters) == (5, 4)
    assert (smaller.first.out_channels, smaller.second.in_channels) == (5, 5)
    assert type(smaller) is Images
    assert_same_outputs(smaller, model, x)


@pytest.mark.parametrize(("padding", "none"), [(1, (0, 0)), ("same", "valid")])
def test_a_padded_convolution_keeps_constants_and_shifted_copies(padding, none):
    """At the border it reads 0, where such a channel has its value."""
    model = nn.Sequential(nn.Conv2d(1, 5, 1), nn.Conv2d(5, 2, 3, padding=padding)).double()
    first = model[0]
    with torch.no_grad():
        first.weight[1], first.bias[1] = 0, 2  # a constant
        first.weight[2], first.bias[2] = first.weight[0], first.bias[0] + 1  # a shifted copy
        first.weight[3], first.bias[3] = 2 * first.weight[0], 2 * first.bias[0]  # a multiple
        first.weight[4], first.bias[4] = 0, 0  # dead
    x = torch.randn(9, 1, 6, 6, dtype=torch.float64)
    smaller = topoloss.prune(model, x)
    assert smaller[0].out_channels == 3
    assert_same_outputs(smaller, model, x)
    unpadded = copy.deepcopy(model)
    unpadded[1].padding = none
    smaller = topoloss.prune(unpadded, x)
    assert smaller[0].out_channels == 1
    assert_same_outputs(smaller, unpadded, x)


@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_share_takes_that_part_out(share, refit):
    model = nn.Sequential(nn.Linear(3, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh())
    model.append(nn.Linear(20, 2))
    with torch.no_grad():
        model[0].weight[:4] = 0  # constants go first
    smaller = topoloss.prune(model, X.float(), share=share, refit=refit)
    left = smaller[0].out_features + smaller[2].out_features
    assert left == {0.0: 40, 0.2: 32, 0.5: 20, 0.8: 8, 1.0: 2}[share]
    if share == 0.2:
        assert smaller[0].out_features <= 16


@pytest.mark.parametrize(("share", "left"), [(0.29, 71), (0.57, 43), (0.58, 42), (1e-5, 100)])
def test_the_share_is_the_one_that_was_written(share, left):
    """As floats, 0.29 * 100 and its like are a little less than the number of neurons."""
    model = nn.Sequential(nn.Linear(3, 100), nn.Tanh(), nn.Linear(100, 2)).double()
    assert topoloss.prune(model, X, share=share)[0].out_features == left


@pytest.mark.parametrize("options", [{}, {"share": 0.25}])
def test_a_reader_may_be_called_by_keyword(options):
    class ByKeyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = dense(nn.ReLU())

        def forward(self, x):
            first, between, last = self.net
            return last(input=between(first(input=x)))

    model = ByKeyword()
    smaller = topoloss.prune(model, X, **options)
    expected = topoloss.prune(model.net, X, **options)
    assert smaller.net[0].out_features == expected[0].out_features < 8
    torch.testing.assert_close(smaller(X), expected(X))


# Uncorrelated inputs of mean 0 and variance 1.
UNCORRELATED = torch.tensor([[1, 1, 1], [-1, -1, 1], [1, -1, -1], [-1, 1, -1]], dtype=torch.float64)


def reading(rows, weights):
    """Neurons without biases, which read the inputs by these rows, and one output that adds them.

    The cosine of two rows is the correlation of the neurons.
    """
    model = nn.Sequential(nn.Linear(3, len(rows), bias=False), nn.Linear(len(rows), 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(rows))
        model[1].weight.copy_(torch.tensor([weights]))
    return model


@pytest.mark.parametrize(
    ("rows", "weights", "order"),
    [
        # By variance times squared weight: 25 * 1, 1 * 9 and 1 * 4.
        pytest.param(
            [[5.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]], [1.0, 3.0, 2.0], [2, 1], id="uncorrelated"
        ),
        # The first is nearly -3 times the second, whose weight becomes about -2 when it takes the
        # place of both. That is more than the third's.
        pytest.param(
            [[3.0, 0, 0], [-1.0, 0.1, 0], [0, 0, 1.0]], [1 / 3, -1.0, 1.5], [0, 2], id="mirrored"
        ),
        # The second and the third lie at +40 and -40 degrees from the first. Once it is gone they
        # have only each other, at 80 degrees, and the fourth has a smaller weight.
        pytest.param(
            [[1.0, 0, 0], [0.766, 0.643, 0], [0.766, -0.643, 0], [0, 0, 1.0]],
            [0.1, 1.0, 1.0, 0.9],
            [0, 3],
            id="at an angle",
        ),
    ],
)
def test_what_changes_least_goes_first(rows, weights, order):
    model = reading(rows, weights)
    for many in range(len(order) + 1):
        share = many / len(rows) + 0.01
        smaller = topoloss.prune(model, UNCORRELATED, share=share)
        stay = [k for k in range(len(rows)) if k not in order[:many]]
        torch.testing.assert_close(smaller[0].weight, model[0].weight[stay], rtol=0, atol=0)


def test_changes_are_compared_across_layers_as_shares_of_what_is_read():
    """The first neurons change least: 1 of 14 in the first layer, 25 of 1,325 in the second."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3))
        model[1].weight.copy_(torch.diag(torch.arange(1, 4)))
        model[2].weight.copy_(torch.tensor([[5.0, 10.0, 10.0]]))
        for layer in model:
            layer.bias.zero_()
    for many, left in enumerate([(3, 3), (3, 2), (2, 2)]):
        smaller = topoloss.prune(model, UNCORRELATED, share=many / 6 + 0.01)
        assert (smaller[0].out_features, smaller[1].out_features) == left


def test_before_padding_a_constant_part_counts_as_a_change():
    """A large mean can go into a bias only where nothing is padded with zeros."""
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 1, 3)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.diag(torch.tensor([0.5, 1.0])).view(2, 2, 1, 1))
        model[0].bias.copy_(torch.tensor([3.0, 0.0]))
        model[1].weight.fill_(1)
    x = torch.randn(50, 2, 4, 4, dtype=torch.float64)
    for padding, stays in ((0, 1), (1, 0)):
        model[1].padding = (padding, padding)
        smaller = topoloss.prune(model, x, share=0.5)
        assert torch.equal(smaller[0].weight, model[0].weight[[stays]])


def test_what_correlates_with_nothing_is_replaced_by_its_mean():
    model = reading([[5.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]], [1.0, 3.0, 2.0])
    smaller = topoloss.prune(model, UNCORRELATED + torch.arange(3), share=0.7)
    expected = torch.tensor([[1.0]], dtype=torch.float64)
    torch.testing.assert_close(smaller[1].weight, expected)
    # The means are 1 and 2, and the weights 3 and 2.
    torch.testing.assert_close(smaller[1].bias, model[1].bias + 1 * 3 + 2 * 2)


@pytest.mark.parametrize("level", [0.02, 0.05, 0.1, 1.0])
def test_one_stays_of_each_cluster_of_scipys_single_linkage(level):
    model = nn.Sequential(nn.Linear(3, 30), nn.Tanh(), nn.Linear(30, 2)).double()
    x = torch.randn(40, 3, dtype=torch.float64)
    r = np.corrcoef(model[:2](x).detach().numpy().T)
    distances = squareform(1 - np.abs(r), checks=False).clip(0)
    clusters = fcluster(linkage(distances, "single"), level, "distance")
    smaller = topoloss.prune(model, x, level=level)
    rows = model[0].weight.tolist()
    kept = [rows.index(row) for row in smaller[0].weight.tolist()]
    assert sorted(clusters[kept]) == sorted(set(clusters))


def test_a_padded_convolution_loses_near_multiples_alone():
    """Both copies correlate 1. The cosine of the shifted one with the original is about 0.7."""
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 2, 3, padding=1)).double()
    with torch.no_grad():
        model[0].weight[:] = torch.tensor([1.0, 1.0, 2.0]).view(3, 1, 1, 1)
        model[0].bias[:] = torch.tensor([0.0, 1.0, 0.001])
    x = torch.randn(50, 1, 6, 6, dtype=torch.float64)
    assert topoloss.prune(model, x, level=0.1)[0].out_channels == 2
    model[1].padding = (0, 0)
    assert topoloss.prune(model, x, level=0.1)[0].out_channels == 1


def test_a_large_neuron_stays_though_it_correlates():
    """Of two pairs, one correlates more but is 1,000 times larger: to fold it changes more."""
    x = torch.randn(200, 4, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4))
        model[0].weight[1] = torch.tensor([1.0, 0.3, 0.0, 0.0])  # |r| about 0.96
        model[0].weight[3] = torch.tensor([0.0, 0.0, 1.0, 0.6])  # about 0.86
        model[0].weight[:2] *= 1000
        model[1].weight.fill_(1)
    smaller = topoloss.prune(model, x, share=0.25)
    assert int((smaller[0].weight.norm(dim=1) > 500).sum()) == 2


@pytest.mark.parametrize("shifts", [True, False])
def test_refitting_is_the_least_squares_of_numpy(shifts):
    """What a layer reads of the neurons that went is regressed on those that stay."""
    first, second = nn.Linear(3, 12), nn.Linear(12, 4)
    if not shifts:
        first, second = nn.Conv1d(3, 12, 1), nn.Conv1d(12, 4, 1, padding=1)
    model = nn.Sequential(first, nn.Tanh(), second).double()
    x = torch.randn(50, 3, *([] if shifts else [4]), dtype=torch.float64)
    plain = topoloss.prune(model, x, share=0.5)
    refitted = topoloss.prune(model, x, share=0.5, refit=True)
    torch.testing.assert_close(plain[0].weight, refitted[0].weight, rtol=0, atol=0)
    kept = [
        k for k, w in enumerate(first.weight) if any(torch.equal(w, v) for v in plain[0].weight)
    ]
    gone = [k for k in range(12) if k not in kept]
    h = model[:2](x).detach()
    h = (h if shifts else h.movedim(1, -1).flatten(0, -2)).numpy()
    weight = second.weight.detach().flatten(1).numpy()
    regressors = h[:, kept]
    if shifts:
        regressors = np.concatenate((regressors, np.ones((len(h), 1))), 1)
    solved = np.linalg.lstsq(regressors, h[:, gone] @ weight[:, gone].T, rcond=None)[0]
    expected = weight[:, kept] + solved[: len(kept)].T
    np.testing.assert_allclose(
        refitted[2].weight.detach().flatten(1).numpy(), expected, rtol=1e-9, atol=1e-12
    )
    if shifts:
        bias = second.bias.detach().numpy() + solved[-1]
        np.testing.assert_allclose(refitted[2].bias.detach().numpy(), bias, rtol=1e-9, atol=1e-12)

    def error(made):
        return (made(x) - model(x)).square().mean()

    if shifts:
        assert error(refitted) <= error(plain)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 6)
        self.outer = nn.Linear(6, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(x + self.outer(F.relu(self.inner(x))))


def test_a_skip_connection_is_an_error_by_name_and_passed_over_by_default(caplog):
    model = Residual()
    x = torch.randn(9, 4)
    with pytest.raises(topoloss.AttachmentError, match="'outer' is read by add"):
        topoloss.prune(model, x, layers=["inner", "outer"])
    with caplog.at_level(logging.INFO, "topoloss.pruning"):
        smaller = topoloss.prune(model, x, share=0.5)
    assert (smaller.inner.out_features, smaller.outer.out_features) == (3, 4)
    told = caplog.messages
    assert "inner: 3 of 6 channels stay" in told
    assert any(note.startswith("outer: all channels stay, as it is read by") for note in told)
    assert any(n == "head: all channels stay, as it is an output of the model" for n in told)


@dataclass
class Outputs:
    logits: torch.Tensor
    hidden: list


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


class Around(nn.Module):
    """Two layers, and a further reader of the first."""

    def __init__(self, further):
        super().__init__()
        self.a = nn.Linear(4, 6)
        self.b = nn.Linear(6, 3)
        self.further = further

    def forward(self, x):
        h = self.a(x)
        return self.further(self, h)


@pytest.mark.parametrize(
    ("further", "reason"),
    [
        (lambda m, h: torch.cat((m.b(h), h), 1), "read by cat"),
        (lambda m, h: m.b(h) + h.sum(1, keepdim=True), "read by sum"),
        (lambda m, h: m.b(h) @ m.b.weight @ h.T, "read by "),
        (lambda m, h: m.b(h.softmax(1)), "read by softmax"),
        (lambda m, h: m.b(F.layer_norm(h, (6,))), "read by layer_norm"),
        (lambda m, h: (m.b(h), h), "is an output of the model"),
        (lambda m, h: Outputs(m.b(h), [h]), "is an output of the model"),
        (lambda m, h: m.b(h) + m.b(2 * h), "'b', which is called more than once"),
        (lambda m, h: m.b(h) + m.b(torch.ones(5, 6)), "'b', which is called more than once"),
        (lambda m, h: m.b(h) + m.b.weight.sum(), "'b', which has parameters that sum reads"),
        (lambda m, h: m.b(m.norm(h)) + m.norm(m.extra).sum(), "'norm', which is called more"),
        (lambda m, h: F.linear(h, m.b.weight, m.b.bias), "cannot be seen"),
        (lambda m, h: m.b(h[:, torch.arange(6)]), "read by __getitem__"),
        (lambda m, h: m.b(h) + float(h[0, 0]), "read by "),
        (lambda m, h: m.b(h) * torch.tensor(h.tolist()).mean(), "read by tolist"),
        (lambda m, h: m.b(h) + Twice.apply(h).mean(), "read by"),
        (lambda m, h: m.b(torch.where(h > 0, h, 0 * h)), "read by"),
        (lambda m, h: m.b(h.T.contiguous().T), "read by"),
        (lambda m, h: F.linear(h, m.b.weight * 2), "weight of no single layer"),
        (lambda m, h: m.b(h * m.scale), "read by mul"),
        (lambda m, h: m.b(F.max_pool1d(h, 3, 1, 1)), "read by max_pool1d"),
        (lambda m, h: m.b(torch.zeros(len(h), 6)), "no reader that was seen"),
    ],
)
def test_whatever_else_reads_a_layer_keeps_it_whole(further, reason):
    model = Around(further)
    model.scale = nn.Parameter(torch.rand(6))
    model.norm, model.extra = nn.BatchNorm1d(6), torch.rand(5, 6)
    with pytest.raises(topoloss.AttachmentError, match=reason):
        topoloss.prune(model, torch.randn(5, 4), layers="a")


@pytest.mark.parametrize(
    ("layers", "shape", "reason"),
    [
        ([nn.Conv2d(1, 4, 1), nn.ZeroPad2d(1), nn.Conv2d(4, 2, 3)], (5, 1, 6, 6), "read by pad"),
        ([nn.Conv2d(1, 4, 1), nn.Linear(6, 2)], (5, 1, 6, 6), "read by '1' along another axis"),
        ([nn.Linear(4, 6), nn.Linear(6, 2)], (4,), "without an axis of samples"),
        ([nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1)], (1, 6, 6), "without an axis of samples"),
    ],
    ids=["zeros at the border", "another axis", "one vector", "one image"],
)
def test_layers_whose_channels_do_not_stand_alone_stay_whole(layers, shape, reason):
    with pytest.raises(topoloss.AttachmentError, match=reason):
        topoloss.prune(nn.Sequential(*layers), torch.randn(shape), layers="0")


def test_positions_may_be_flattened_alone():
    model = nn.Sequential(nn.Conv2d(1, 5, 1), nn.Flatten(2), nn.Tanh(), nn.Conv1d(5, 2, 3)).double()
    duplicate(0, 3, model[0])
    x = torch.randn(9, 1, 4, 4, dtype=torch.float64)
    smaller = topoloss.prune(model, x)
    assert smaller[0].out_channels == smaller[3].in_channels == 4
    assert_same_outputs(smaller, model, x)


def test_a_slope_that_no_module_holds_treats_all_channels_alike():
    model = Around(lambda m, h: m.b(F.prelu(h, torch.tensor([0.2], dtype=h.dtype)))).double()
    duplicate(0, 3, model.a)
    x = torch.randn(9, 4, dtype=torch.float64)
    smaller = topoloss.prune(model, x, layers="a")
    assert smaller.a.out_features == 5
    assert_same_outputs(smaller, model, x)


def test_what_a_forward_hook_reads_is_noticed():
    """Hooks of the user's run outside of the functions that are seen."""
    model = Around(lambda m, h: m.b(h) + m.seen["h"])
    model.seen = {}
    model.a.register_forward_hook(lambda m, args, out: model.seen.update(h=out.sum()))
    with pytest.raises(topoloss.AttachmentError, match="read by sum"):
        topoloss.prune(model, torch.randn(5, 4), layers="a")


def test_shared_weights_keep_their_layers_whole():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    model[2].weight = model[0].weight
    with pytest.raises(topoloss.AttachmentError, match=r"no layer .* can lose channels"):
        topoloss.prune(model, torch.randn(5, 4))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (nn.utils.parametrizations.weight_norm, "computes its weight from other parameters"),
        (lambda layer: None, "was not called"),
    ],
    ids=["computed", "not called"],
)
def test_why_a_layer_stays_is_told(changed, reason):
    model = Around(lambda m, h: m.b(h))
    model.c = nn.Linear(3, 3)
    changed(model.c)
    with pytest.raises(topoloss.AttachmentError, match=f"'c' {reason}"):
        topoloss.prune(model, torch.randn(5, 4), layers="c")


def test_who_shares_a_weight_is_told():
    model = Around(lambda m, h: m.b(h))
    model.tokens, model.head = nn.Embedding(5, 3), nn.Linear(3, 5)
    model.head.weight = model.tokens.weight
    with pytest.raises(topoloss.AttachmentError, match="'head' shares its weight with 'tokens'"):
        topoloss.prune(model, torch.randn(5, 4), layers="head")


def test_grouped_convolutions_keep_their_channels():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 2, 1))
    x = torch.randn(5, 1, 6, 6)
    with pytest.raises(topoloss.AttachmentError, match="'0' is read by '1', which convolves in gr"):
        topoloss.prune(model, x, layers="0")
    with pytest.raises(topoloss.AttachmentError, match="'1' convolves in groups"):
        topoloss.prune(model, x, layers="1")


def test_depthwise_convolutions_lie_between_layers():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, groups=4, padding=1))
    model = model.append(nn.Conv2d(4, 2, 1)).double()
    duplicate(1, 3, *model[:2])
    x = torch.randn(5, 1, 6, 6, dtype=torch.float64)
    smaller = topoloss.prune(model, x)
    assert (smaller[1].groups, smaller[1].in_channels, smaller[1].out_channels) == (3, 3, 3)
    assert_same_outputs(smaller, model, x)


def test_a_model_without_anything_to_cut_is_told():
    with pytest.raises(topoloss.AttachmentError, match="it has no linear layers or convolutions"):
        topoloss.prune(nn.ReLU(), torch.randn(5, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 0.1, "share": 0.1}, "expected one of them"),
        ({"level": -1}, "level=-1"),
        ({"level": False}, "level=False"),
        ({"level": ""}, "level=''"),
        ({"share": False}, "share=False"),
        ({"share": 1.5}, "share=1.5"),
        ({"refit": 1}, "refit=1"),
        ({"layers": "1"}, "not among the linear layers"),
        ({"layers": "9"}, "matches no module"),
    ],
)
def test_wrong_options_are_told(options, message):
    with pytest.raises(topoloss.TopolossError, match=message):
        topoloss.prune(dense(nn.ReLU()), X, **options)


@pytest.mark.parametrize("eval_pass", [False, True])
@pytest.mark.parametrize("look", [topoloss.prune, topoloss.redundancy])
def test_penalties_see_nothing_of_it(look, eval_pass):
    model = dense(nn.Tanh())
    penalty = topoloss.attach(model, eval_pass=eval_pass)
    model(X[:10])
    expected = penalty().detach()
    look(model, X)
    assert penalty() == expected
    penalty().backward()
    assert penalty.activations()["0"].shape[0] == 10


def test_the_penalty_of_a_compiled_model_sees_nothing_of_it():
    model = dense(nn.Tanh())
    penalty = topoloss.attach(model)
    model(X)
    model.compile(backend="eager")
    model(X[:10])
    expected = penalty().detach()
    assert topoloss.prune(model, X)[0].out_features == 7
    assert penalty() == expected


@pytest.mark.parametrize("look", [topoloss.prune, topoloss.redundancy])
def test_drawing_batches_leaves_the_random_state(look):
    model, random = dense(nn.Tanh()), torch.random.get_rng_state()
    look(model, (X[torch.randperm(20)] for _ in range(2)))
    assert torch.equal(random, torch.random.get_rng_state())


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
def test_outputs_may_hold_what_is_not_finite(value):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = dense(nn.Tanh())

        def forward(self, x):
            return self.inner(x).masked_fill(torch.tensor([False, True]), value)

    model = Masked()
    smaller = topoloss.prune(model, X)
    assert smaller.inner[0].out_features == 7
    assert_same_outputs(smaller.inner, model.inner, X)


def test_a_hidden_reader_is_noticed_beside_infinite_outputs():
    model = Around(lambda m, h: torch.cat((F.linear(h, m.b.weight, m.b.bias), m.infinite), 1))
    model.infinite = torch.full((5, 1), float("inf"))
    with pytest.raises(topoloss.AttachmentError, match="cannot be seen"):
        topoloss.prune(model, torch.randn(5, 4), layers="a")


def test_a_smaller_model_trains_on():
    model = dense(nn.BatchNorm1d(8), nn.ReLU()).float()
    model[0].bias.requires_grad_(False)
    smaller = topoloss.prune(model, X.float())
    assert smaller.training
    assert not smaller[0].bias.requires_grad
    whole, before = copy.deepcopy(model.state_dict()), copy.deepcopy(smaller.state_dict())
    optimiser = torch.optim.Adam(smaller.parameters())
    smaller(X.float()).square().mean().backward()
    optimiser.step()
    for name, parameter in smaller.named_parameters():
        assert torch.equal(parameter, before[name]) == (name == "0.bias")
    torch.testing.assert_close(model.state_dict(), whole, rtol=0, atol=0)
    again = topoloss.prune(model, X.float())
    again.load_state_dict(smaller.state_dict())
    torch.testing.assert_close(again.eval()(X.float()), smaller.eval()(X.float()))
