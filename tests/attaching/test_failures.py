"""Passes that fail, activations that are not finite, and options that don't exist."""

import contextlib
import copy
import re

import pytest
import torch
from attaching.helpers import Net, alive, batch, hooks, outputs_of, penalty_by_hand
from torch import nn

import topoloss


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_forward_pass_leaves_nothing_behind(error, warm):
    model, x = Net(), batch(4, samples=16)
    penalty = topoloss.attach(model)
    if warm:
        model(x)
    installed = hooks(model)
    model.fails = error()
    with outputs_of(model) as references, contextlib.suppress(error):
        model(x)
    model.fails = None  # its traceback holds what the model computed
    if error is ValueError:  # no hook runs after an interrupt: the next pass tidies up
        assert torch.overrides._get_current_function_mode_stack() == []
        assert hooks(model) == installed
    with pytest.raises(topoloss.AttachmentError, match="failed"):
        penalty()
    model(x)
    assert torch.overrides._get_current_function_mode_stack() == []
    assert hooks(model) == installed
    assert alive(references) == []
    torch.testing.assert_close(penalty(), penalty_by_hand(model, x))
    penalty.remove()
    assert hooks(model) == []


def test_after_an_interrupt_what_the_pass_left_is_freed_without_another_pass():
    """Torch does not report an interrupt; the library finds out while more functions run."""
    model, x = Net(), batch(4, samples=16)
    penalty = topoloss.attach(model)
    model.fails = KeyboardInterrupt()
    with outputs_of(model) as references, contextlib.suppress(KeyboardInterrupt):
        model(x)
    model.fails = None
    for _ in range(300):
        torch.ones(1).add(1)
    assert alive(references) == []
    penalty.remove()


def test_a_part_that_fails_may_be_caught_by_the_model():
    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.other = Net(), nn.Linear(4, 3)

        def forward(self, x):
            try:
                return self.net(x)
            except ValueError:
                return self.other(x)

    model, x = Careful(), batch(4)
    seen = topoloss.observe(model)
    model.net.fails = ValueError()
    model(x)
    torch.testing.assert_close(seen.activations()["other"], model.other(x))
    model.net.fails = None
    model(x)
    assert list(seen.activations()) == ["net.first", "net.second", "net.last"]


def test_what_cannot_be_observed_is_told_by_what_is_called_next_and_leaves_nothing_behind():
    """The model's own pass works as if nothing was attached."""

    class Silent(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.unused = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.first(x).tolist()

    model, x = Silent(), batch(4)
    expected = model(x)
    penalty = topoloss.attach(model, layers=["first", "unused"])
    installed = hooks(model)
    for _ in range(2):
        with outputs_of(model) as references:
            assert model(x) == expected
        with pytest.raises(topoloss.AttachmentError, match="'unused'"):
            penalty()
    assert torch.overrides._get_current_function_mode_stack() == []
    assert hooks(model) == installed
    penalty.remove()
    assert hooks(model) == []
    assert alive(references) == []


def test_nan_and_infinity_are_counted_by_layer():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    penalty = topoloss.attach(model)
    with torch.no_grad():
        model[0].bias[[1, 4]] = torch.inf
        model[2].weight[:, [1, 4]] = 0.0  # 0 * inf: all of the last layer is NaN
    model(batch(4, samples=16))
    message = r"5 of 11 neurons.*3 hold NaN.*By layer: '0' 2, '2' 3\."
    with pytest.raises(topoloss.NonFiniteError, match=message):
        penalty()


@pytest.mark.parametrize("per", [None, "network", "layer"])
def test_only_the_layers_with_nan_are_named(per):
    model = Net()
    penalty = topoloss.attach(model, per=per)
    with torch.no_grad():
        model.last.bias[1] = torch.nan
    model(batch(4, samples=16))
    with pytest.raises(topoloss.NonFiniteError, match=r"By layer: 'last' 1\.$"):
        penalty()


@pytest.mark.parametrize("make", [topoloss.attach, topoloss.observe])
@pytest.mark.parametrize("model", [nn.Linear, torch.relu, None, "net"])
def test_only_modules_can_be_attached(model, make):
    with pytest.raises(topoloss.InputError, match=r"expected a torch\.nn\.Module"):
        make(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.3}, r"no option 'alpha'.*'layers'.*topoloss\.regulariser\('t2', alpha=0\.5\)"),
        ({"layer": "first"}, r"Did you mean 'layers'\?"),
        ({"units": "pixel"}, "'unit', 'channel'"),
        ({"per": "model"}, "'network', 'layer'"),
        ({"watch": "always"}, "watch.*every"),
        ({"regulariser": None}, r"topoloss\.Regulariser"),
        ({"regulariser": topoloss.Regulariser}, r"topoloss\.Regulariser"),
        ({"fraction": 2.0}, "fraction <= 1"),
        ({"fraction": "half"}, "fraction <= 1"),
        ({"batch_dim": "first"}, "-64 <= batch_dim <= 63"),
        ({"max_neurons": "many"}, "max_neurons >= 1"),
        ({"max_neurons": 0}, "max_neurons >= 1"),
    ],
)
def test_unknown_options_and_values_are_refused(options, message):
    with pytest.raises(topoloss.OptionError, match=message):
        topoloss.attach(Net(), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "first"}, r"observe has no option 'layer'.*Did you mean 'layers'\?"),
        ({"units": "pixel"}, "'unit', 'channel'"),
        ({"batch_dim": "first"}, "-64 <= batch_dim <= 63"),
        ({"sampler": 3}, r"topoloss\.Sampler"),
    ],
)
def test_observe_refuses_unknown_options_and_values_too(options, message):
    with pytest.raises(topoloss.OptionError, match=message):
        topoloss.observe(Net(), **options)


def test_an_unknown_regulariser_lists_the_known_ones():
    with pytest.raises(topoloss.UnknownNameError, match="t1, t2"):
        topoloss.attach(Net(), "t3")


class Failing:
    """Fails at every third call of one of its methods."""

    calls = 0

    def fail_sometimes(self):
        self.calls += 1
        if self.calls % 3 == 0:
            raise ZeroDivisionError("every third time")


class FailingFiltration(Failing, topoloss.Filtration):
    def vertices(self, x):
        return x.T

    def edge_values(self, v, i, j):
        self.fail_sometimes()
        return (v[i] - v[j]).square().sum(-1)


class FailingEngine(Failing, topoloss.Persistence):
    orders = frozenset({"sq_dist_ascending"})

    def from_features(self, v, order):
        self.fail_sometimes()
        return topoloss.persistence("mst").from_features(v, order)


class FailingLoss(Failing, topoloss.Loss):
    def forward(self, diagrams):
        self.fail_sometimes()
        return diagrams[0].deaths.sum()


class FailingSampler(Failing, topoloss.Sampler):
    def select(self, x):
        self.fail_sometimes()
        return torch.arange(x.shape[1] // 2)


class FailingRegulariser(Failing, topoloss.Regulariser):
    def compute(self, x):
        self.fail_sometimes()
        return x.square().mean()


class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, loss):
        ctx.loss = loss
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.loss.fail_sometimes()
        return gradient, None


class LossFailingInBackward(Failing, topoloss.Loss):
    def forward(self, diagrams):
        return Backward.apply(diagrams[0].deaths.sum(), self)


FAILING = {
    "filtration": lambda: {"regulariser": topoloss.pipeline(FailingFiltration(), "mst", "t1")},
    "engine": lambda: {"regulariser": topoloss.pipeline("euclidean", FailingEngine(), "t1")},
    "loss": lambda: {"regulariser": topoloss.pipeline("euclidean", "mst", FailingLoss())},
    "regulariser": lambda: {"regulariser": FailingRegulariser()},
    "sampler": lambda: {"sampler": FailingSampler()},
    "backward": lambda: {
        "regulariser": topoloss.pipeline("euclidean", "mst", LossFailingInBackward())
    },
}
NAMED = {
    "filtration": "the filtration .*FailingFiltration",
    "engine": "the persistence engine .*FailingEngine",
    "loss": "the loss .*FailingLoss",
    "regulariser": "the regulariser .*FailingRegulariser",
    "sampler": "the sampler .*FailingSampler",
}


def step(model, penalty, optimiser, x):
    optimiser.zero_grad()
    (model(x).square().mean() + 0.1 * penalty()).backward()
    optimiser.step()


@pytest.mark.parametrize("which", FAILING)
def test_a_component_that_fails_in_mid_training_is_named_and_the_training_goes_on(which):
    """The other steps are those of a model whose component never fails."""
    torch.manual_seed(1)
    model, batches = Net(), [batch(4, samples=16) for _ in range(7)]
    twin = copy.deepcopy(model)
    penalty = topoloss.attach(model, **FAILING[which]())
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    installed, failed = None, {}
    for k, x in enumerate(batches):
        try:
            step(model, penalty, optimiser, x)
        except ZeroDivisionError as error:
            failed[k] = error
        installed = installed or hooks(model)
        assert hooks(model) == installed
        assert torch.overrides._get_current_function_mode_stack() == []
    assert 0 < len(failed) < len(batches)
    if which in NAMED:
        assert all(re.search(NAMED[which], "".join(e.__notes__)) for e in failed.values())
    penalty.remove()
    assert hooks(model) == []

    never = FAILING[which]()
    for component in [*never.values(), *getattr(never.get("regulariser"), "children", tuple)()]:
        component.fail_sometimes = lambda: None
    penalty = topoloss.attach(twin, **never)
    optimiser = torch.optim.SGD(twin.parameters(), lr=0.1)
    for k, x in enumerate(batches):
        if k not in failed:
            step(twin, penalty, optimiser, x)
    torch.testing.assert_close(model.state_dict(), twin.state_dict(), rtol=0, atol=0)


def test_errors_of_the_library_itself_blame_no_component():
    model = Net()
    penalty = topoloss.attach(model)
    model(batch(4, samples=1))
    with pytest.raises(topoloss.InputError) as raised:
        penalty()
    assert not hasattr(raised.value, "__notes__")


def test_a_mask_that_fails_is_told_by_the_penalty_and_the_next_pass_works():
    def mask(args, kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise ZeroDivisionError("the mask")
        return torch.ones(16, 5)

    calls, model = [], nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    penalty = topoloss.attach(model, units="channel", mask=mask)
    x = torch.randn(16, 5, 4)
    model(x)
    value = penalty()
    model(x)
    with pytest.raises(topoloss.AttachmentError, match=r"mask= raised ZeroDiv.*test_failures\.py"):
        penalty()
    model(x)
    assert torch.equal(penalty(), value)
    assert torch.overrides._get_current_function_mode_stack() == []
