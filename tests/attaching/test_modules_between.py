"""A module after a layer: whether it works entry by entry is tried, and the model is unharmed."""

import pytest
import torch
from attaching.helpers import (
    Between,
    Module,
    StraightThrough,
    assert_layers,
    assert_observes,
    batch,
    with_between,
)
from torch import Tensor, nn

import topoloss


class Joining(nn.Module):
    """Two linear maps, and between them a module that is given the first one's output and more."""

    def __init__(self, between, *more):
        super().__init__()
        self.a, self.between, self.b = nn.Linear(4, 4), between, nn.Linear(4, 3)
        self.more = more

    def forward(self, x):
        return self.b(self.between(self.a(x), *(each(x) for each in self.more)))


def ends_before(model, x):
    """The layers of a `Joining` or `Between` whose first one ends where what is between begins."""
    h = model.a(x)
    more = [each(x) for each in getattr(model, "more", ())]
    return {"a": h, "b": model.b(model.between(h, *more))}


class Add(nn.Module):
    def forward(self, h, skip):
        return h + skip


class MaskedSoftmax(nn.Module):
    def forward(self, h, mask=None):
        return torch.softmax(h if mask is None else h.masked_fill(mask, -1e9), 1)


class MaybeSoftmax(nn.Module):
    """Works entry by entry by default, but not as it is called here."""

    def forward(self, h, joins=False):
        return torch.softmax(h, 1) if joins else StraightThrough.apply(h)


MORE = {
    "a sum": (Add(), lambda x: x),
    "a mask": (MaskedSoftmax(), lambda x: x > 0),
    "no mask": (MaskedSoftmax(), lambda x: None),
    "a flag": (MaybeSoftmax(), lambda x: True),
}


@pytest.mark.parametrize(("between", "more"), MORE.values(), ids=MORE)
def test_a_module_that_is_given_more_than_the_layer_ends_it(between, more):
    assert_observes(Joining(between, more), ends_before, batch(4, samples=10))


def test_a_module_that_insists_on_the_size_of_its_batch_can_still_be_run():
    def softmax(h):
        assert len(h) == 10
        return torch.softmax(h, 1)

    assert_observes(Between(Module(softmax)), ends_before, batch(4, samples=10))


class Scaled(nn.Module):
    """A scale that is learnt, and a function of what was scaled."""

    def __init__(self, function, *shape):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(shape) + 0.5)
        self.function = function

    def forward(self, h, *more):
        return self.function(self.scale, h, *more)


SCALED = {
    "a softmax that is scaled": Scaled(lambda s, h: s * torch.softmax(h, 1), 1),
    "a circulant map": Scaled(
        lambda s, h: torch.fft.irfft(torch.fft.rfft(h) * torch.fft.rfft(s), n=8), 8
    ),
    "another order": Scaled(lambda s, h: s * h.flip(1), 8),
}


@pytest.mark.parametrize("between", SCALED.values(), ids=SCALED)
def test_a_module_is_no_norm_for_its_parameters_alone(between):
    assert_observes(Between(between), ends_before, batch(4))


class RMSNorm(nn.Module):
    """A norm as language models have it, which adds a second argument, if there is one, first."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, h, skip=0):
        h = h + skip
        return self.weight * h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-5)


def test_a_norm_that_somebody_wrote_belongs_to_the_layer():
    assert_observes(Between(RMSNorm(8)), with_between, batch(4))


@pytest.mark.parametrize("between", [RMSNorm(4), Scaled(lambda s, h, skip: h + s * skip, 4)])
def test_a_norm_of_the_layer_and_something_else_ends_it(between):
    assert_observes(Joining(between, lambda x: x), ends_before, batch(4))


class NormedMap(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, h):
        return (h @ self.weight).softmax(1)


class PreNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, h):
        return self.norm(h).flip(1)


def test_a_module_is_no_norm_for_its_name_alone():
    def with_map(model, x):
        h = model.a(x)
        mapped = model.between(h)
        return {"a": h, "between": mapped, "b": model.b(mapped)}

    def with_norm(model, x):
        h = model.between.norm(model.a(x))
        return {"a": h, "b": model.b(h.flip(1))}

    assert_observes(Between(NormedMap()), with_map, batch(4))
    assert_observes(Between(PreNorm()), with_norm, batch(4))


class Anneal(nn.Module):
    """A softmax that becomes sharper with each call, and keeps count."""

    def __init__(self):
        super().__init__()
        self.temperature, self.seen = 8.0, []
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, h):
        self.temperature /= 2
        self.seen.append(len(h))
        with torch.no_grad():
            self.scale *= 2
        return torch.softmax(h / self.temperature, 1)


def test_finding_out_what_a_module_does_leaves_it_as_it_was():
    model = Between(Anneal())
    with topoloss.observe(model):
        model(batch(4, samples=10))
    between = model.between
    assert (between.temperature, between.seen, between.scale.item()) == (4.0, [10], 2.0)


def product(h: Tensor, weight: Tensor) -> Tensor:
    return h @ weight


class Diagonal(nn.Module):
    """A linear map that no torch function mode sees, and whose weight is still diagonal."""

    def __init__(self):
        super().__init__()
        self.weight, self.multiply = nn.Parameter(2 * torch.eye(8)), torch.jit.script(product)

    def forward(self, h):
        return self.multiply(h, self.weight)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_unseen_linear_map_is_no_activation_though_it_works_entry_by_entry_so_far():
    model = Between(Diagonal())
    seen = topoloss.observe(model)
    model(batch(4))
    with pytest.raises(topoloss.AttachmentError, match="layer 'a' goes into something that no"):
        seen.activations()


class Turns(nn.Module):
    """Works entry by entry, though the module that it calls twice does not."""

    def __init__(self):
        super().__init__()
        self.flip = Module(lambda h: h.flip(1))

    def forward(self, h):
        return self.flip(self.flip(h).relu())


def test_a_module_inside_another_is_called_as_often_as_the_model_calls_it():
    model, calls = Between(Turns()), []
    model.between.flip.register_forward_hook(lambda *_: calls.append(1))
    with topoloss.observe(model):
        model(batch(4))
    assert len(calls) == 2


WIDTH = 9
# Each moves or joins entries of one sample or of several samples; some change very few entries.
JOIN = {
    "softmax": lambda h: torch.softmax(h, 1),
    "over the largest of each sample": lambda h: h / h.abs().amax(1, keepdim=True),
    "over the largest": lambda h: h / h.abs().amax(),
    "minus the mean of the samples": lambda h: h - h.mean(0),
    "the first two swapped": lambda h: torch.cat([h[:, :2].flip(1), h[:, 2:]], 1),
    "two samples swapped": lambda h: torch.cat([h[:2].flip(0), h[2:]]),
    **{f"rolled by {k}": lambda h, k=k: h.roll(k, 1) for k in (1, 2, 3, 4)},
    "the samples rolled": lambda h: h.roll(2, 0),
    "sorted": lambda h: h.sort(1).values,
}


class Hidden(torch.autograd.Function):
    """Calls a function, and leaves the gradient as it is."""

    @staticmethod
    def forward(ctx, h, function):
        return function(h)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def turned(h):
    """A ReLU that does not show in the functions called: they put entries elsewhere, and back."""
    return h.flip(1).relu().flip(1)


@pytest.mark.parametrize("first", ["one sample", "zeros", "NaN", "as ever"])
def test_a_layer_goes_on_over_a_module_that_joins_nothing_whatever_its_first_input(first):
    model, x = Between(Module(lambda h: Hidden.apply(h, turned))), batch(4)
    seen = topoloss.observe(model)
    model({"one sample": x[:1], "zeros": 0 * x, "NaN": torch.nan * x, "as ever": x}[first])
    model(x)
    assert_layers(seen, with_between(model, x))


class RunningMean(nn.Module):
    """Takes away the mean of the batch, or in evaluation mode a constant."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.ones(8))

    def forward(self, h):
        if self.training:
            return h - h.mean(0)
        return Hidden.apply(h, lambda h: turned(h) - self.mean)


def test_a_module_with_statistics_is_no_activation_though_a_pass_in_evaluation_mode_came_first():
    model, x = Between(RunningMean()), batch(4)
    seen = topoloss.observe(model)
    for training in (False, True):
        model.train(training)
        model(x)
        torch.testing.assert_close(seen.activations()["a"], model.a(x))


def test_finding_out_what_a_module_does_draws_no_random_numbers_of_the_model():
    def noisy(h):
        return turned(h) + torch.rand_like(h)

    model, x = Between(Module(lambda h: Hidden.apply(h, noisy))), batch(4)
    torch.manual_seed(1)
    expected = model(x), torch.rand(3)
    with topoloss.observe(model):
        torch.manual_seed(1)
        torch.testing.assert_close((model(x), torch.rand(3)), expected, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore::topoloss.AttachmentWarning")  # of the second layer
@pytest.mark.parametrize("first", ["one sample", "zeros", "as ever"])
@pytest.mark.parametrize("function", JOIN.values(), ids=JOIN)
def test_a_layer_ends_before_a_module_that_joins_entries_whatever_its_first_input(function, first):
    model = Between(Module(lambda h: Hidden.apply(h, function)), width=WIDTH)
    seen, x = topoloss.observe(model), batch(4)
    if first == "one sample":
        seen.describe(x[:1])
    if first == "zeros":
        with torch.no_grad():
            kept = [p.clone() for p in model.a.parameters()]
            for p in model.a.parameters():
                p.zero_()
            model(x)
            for p, k in zip(model.a.parameters(), kept, strict=True):
                p.copy_(k)
    model(x)
    torch.testing.assert_close(seen.activations()["a"], model.a(x))


def calls_of_first_pass(width):
    """How often a module is called to find out that it works entry by entry."""
    calls = []

    def between(h):
        calls.append(h.shape)
        return Hidden.apply(h, turned)

    model, x = Between(Module(between), width), batch(4)
    with topoloss.observe(model) as seen:
        model(x)
        torch.testing.assert_close(seen.activations()["a"], model.a(x).relu())
    return len(calls)


def test_finding_out_what_a_module_does_takes_as_many_calls_for_many_neurons_as_for_few():
    assert calls_of_first_pass(10_000) == calls_of_first_pass(8)


def test_a_layer_ends_before_a_module_that_swaps_two_of_many_entries():
    def swapped(h):
        return torch.cat([h[:, :-2], h[:, -2:].flip(1)], 1)

    model = Between(Module(lambda h: Hidden.apply(h, swapped)), width=10_000)
    assert_observes(model, ends_before, batch(4))
