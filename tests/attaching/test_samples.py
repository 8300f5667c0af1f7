"""The sample axis: which one it is, and the layers that have none."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from attaching.helpers import (
    Between,
    Module,
    Net,
    assert_layers,
    assert_observes,
    batch,
    hooks,
    penalty_by_hand,
    with_between,
)
from torch import nn

import topoloss


@pytest.mark.parametrize("batch_dim", [0, -2])
def test_the_sample_axis_may_be_counted_from_either_end(batch_dim):
    model, x = Net(), batch(4)
    penalty = topoloss.attach(model, batch_dim=batch_dim)
    model(x)
    torch.testing.assert_close(penalty(), penalty_by_hand(model, x))


class PositionsFirst(nn.Module):
    """Works on (positions, samples, features) inside, as older sequence models do."""

    def __init__(self):
        super().__init__()
        self.embed, self.rnn, self.head = nn.Linear(4, 8), nn.LSTM(8, 5), nn.Linear(5, 3)

    def forward(self, x):
        h = F.relu(self.embed(x)).transpose(0, 1)
        return self.head(torch.tanh(self.rnn(h)[0])).transpose(0, 1)


def positions_first_by_hand(model, x):
    embed = F.relu(model.embed(x))
    rnn = torch.tanh(model.rnn(embed.transpose(0, 1))[0])
    head = model.head(rnn)
    return {"embed": embed, "rnn": rnn.transpose(0, 1), "head": head.transpose(0, 1)}


@pytest.mark.parametrize("positions", [5, 6])
def test_layers_that_work_with_positions_first_are_turned_round(positions):
    assert_observes(PositionsFirst(), positions_first_by_hand, batch(positions, 4))


@pytest.mark.parametrize("positions", [5, 6])
def test_layers_that_work_with_samples_first_are_turned_round(positions):
    """The same model inside out: its inputs and outputs have positions first."""

    class SamplesFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.mix = nn.Linear(4, 8), nn.Linear(8, 5)

        def forward(self, x):
            h = F.relu(self.embed(x)).permute(1, 0, 2)
            return self.mix(h).permute(1, 0, 2)

    def by_hand(model, x):
        embed = F.relu(model.embed(x))
        return {"embed": embed.transpose(0, 1), "mix": model.mix(embed).transpose(0, 1)}

    assert_observes(SamplesFirst(), by_hand, torch.randn(positions, 6, 4), batch_dim=1)


def test_a_layer_of_something_that_is_no_input_is_left_out_by_name():
    class Shifted(nn.Module):
        """Adds what a linear map makes of a constant, as learned positions are."""

        def __init__(self):
            super().__init__()
            self.first, self.table = nn.Linear(4, 8), nn.Linear(3, 8)
            self.register_buffer("places", torch.ones(3))

        def forward(self, x):
            return torch.tanh(self.first(x)) + self.table(self.places)

    seen = topoloss.observe(model := Shifted())
    model(torch.randn(6, 4))
    with pytest.warns(topoloss.AttachmentWarning, match="'table' is left out: .* no samples"):
        assert list(seen.activations()) == ["first"]
    (layer, why), *others = seen.describe().left_out.items()
    assert (layer, others) == ("table", [])
    assert "no samples" in why


def test_a_chosen_module_that_returns_the_models_input_is_a_layer():
    model, x = nn.Sequential(nn.Identity(), nn.Linear(4, 3)), batch(4)
    seen = topoloss.observe(model, "0")
    model(x)
    assert_layers(seen, {"0": x})


class FeaturesAveraged(nn.Module):
    """(positions, samples, features) to (positions, samples), which may be turned round."""

    def __init__(self, positions, turned):
        super().__init__()
        self.turned = turned
        self.embed, self.head = nn.Linear(5, 5), nn.Linear(positions if turned else 5, 3)

    def forward(self, x):
        h = torch.tanh(self.embed(x)).mean(2)
        return self.head(h.T if self.turned else h)


def test_the_axis_of_samples_is_followed_where_another_one_is_reduced():
    def by_hand(model, x):
        embed = torch.tanh(model.embed(x))
        return {"embed": embed.transpose(0, 1), "head": model.head(embed.mean(2).T)}

    assert_observes(FeaturesAveraged(4, turned=True), by_hand, torch.randn(4, 5, 5), batch_dim=1)


@pytest.mark.parametrize("turned", [True, False])
def test_where_any_axis_may_have_been_reduced_the_layer_is_left_out(turned):
    """5 positions, 5 samples, 5 features: (5, 5) may be what is left of any two of them."""
    model = FeaturesAveraged(5, turned)
    seen = topoloss.observe(model, batch_dim=1)
    model(torch.randn(5, 5, 5))
    with pytest.warns(topoloss.AttachmentWarning, match="'head' .* could not be told"):
        assert list(seen.activations()) == ["embed"]


def swapped():
    """An index that counts at first, and is changed in place."""
    index = torch.arange(6)
    index[:2] = index[:2].flip(0)
    return index


TURNED = torch.arange(5, -1, -1)


def assigned(table, index, h):
    table[index] = h
    return table


REORDERED = {
    "by an index that was changed": lambda h: h[swapped()],
    "by an index": lambda h: h[TURNED],
    "by a list": lambda h: h[[1, 2, 3, 4, 5, 0]],
    "by an index of two axes": lambda h: h[torch.randperm(6), torch.arange(3)[:, None]].mT,
    "by index_select": lambda h: h.index_select(0, torch.randperm(6)),
    "by gather": lambda h: h.gather(dim=-2, index=h.argsort(0)),
    "by take_along_dim": lambda h: torch.take_along_dim(h, h.argsort(0), 0),
    "by the values": lambda h: h.sort(0).values,
    "by the values from above": lambda h: h.topk(6, 0)[0],
    "rolled": lambda h: h.roll(1, 0),
    "rolled as a whole": lambda h: torch.roll(h, 3),
    "turned over": lambda h: h.flip(0, 1),
    "upside down": torch.flipud,
    "from right to left, of what was transposed": lambda h: h.T.fliplr().T,
    "by Python": lambda h: reversed(h),
    "turned by half": lambda h: torch.rot90(h, 2),
    "by index_select, by keyword": lambda h: torch.index_select(input=h, dim=0, index=TURNED),
    "by gather, by keyword": lambda h: torch.gather(
        input=h, dim=0, index=TURNED[:, None].expand(-1, 3)
    ),
    "by the values, by keyword": lambda h: torch.sort(input=h, dim=0)[0],
    "by take": lambda h: h.take(torch.arange(18).flip(0).view(6, 3)),
    "as a table": lambda h: F.embedding(TURNED, h),
    "as a table, by torch's own": lambda h: torch.embedding(h, TURNED),
    "into a copy": lambda h: torch.zeros_like(h).index_copy(0, TURNED, h),
    "into a copy in place": lambda h: torch.zeros_like(h).index_copy_(0, TURNED, h),
    "by scatter": lambda h: torch.zeros(6, 3).scatter(0, TURNED[:, None].expand(-1, 3), h),
    "by scatter, by keyword": lambda h: torch.scatter_add(
        input=torch.zeros(6, 3), dim=0, index=TURNED[:, None].expand(-1, 3), src=h
    ),
    "added at an index": lambda h: torch.zeros(6, 3).index_add(0, TURNED, h),
    "put at an index": lambda h: torch.zeros(6, 3).index_put((TURNED,), h),
    "put at an index of a list": lambda h: torch.zeros(6, 3).index_put_([TURNED], h),
    "assigned to an index": lambda h: assigned(torch.zeros_like(h), TURNED, h),
    "assigned to an index of many": lambda h: assigned(h.new_zeros(6, 2, 3), (TURNED, 1), h)[:, 1],
    # Entry (j, k) of what is picked is sample k.
    "by an index that counts along another axis": lambda h: h[
        torch.arange(6).expand(6, 6), torch.zeros(6, 6, dtype=int)
    ][:, :3],
}


@pytest.mark.parametrize("function", REORDERED.values(), ids=REORDERED)
def test_a_layer_of_samples_in_another_order_is_left_out_by_name(function):
    """Its rows are other samples than those of the layers beside it."""
    model = Between(function, width=3)
    seen = topoloss.observe(model)
    model(batch(4))
    with pytest.warns(topoloss.AttachmentWarning, match="'b' .* could not be told"):
        assert list(seen.activations()) == ["a"]


IN_ORDER = {
    "one of each": lambda h: h[torch.arange(6), torch.randint(3, (6,)), None],
    "three of each": lambda h: h[torch.arange(len(h), device=h.device)[:, None], torch.arange(3)],
    "by index_select": lambda h: h.index_select(0, torch.arange(0, 6).to(torch.int32).long()),
    "by index_select, by keyword": lambda h: torch.index_select(h, 0, index=torch.arange(6)),
    "by a range": lambda h: h[range(6), torch.randint(3, (6,)), None],
    "by a list": lambda h: h[list(range(6))],
    "by an array": lambda h: h[torch.arange(6).numpy()],
    "by a tensor of a range": lambda h: h[torch.tensor(range(6))],
    "by arange with a first": lambda h: h[torch.arange(0, 6, 1)],
    "by arange with an end": lambda h: h[torch.arange(end=6)],
    "by a part of a longer one": lambda h: h[torch.arange(100)[: len(h)]],
    "by what was added up": lambda h: h[torch.ones(6, dtype=int).cumsum(0) - 1],
    "each several times": lambda h: h[torch.arange(6)[:, None].expand(-1, 3), torch.arange(3)],
    "with an axis before it": lambda h: h[torch.arange(6)[None], torch.randint(3, (6,))].mT,
    "by gather": lambda h: h.gather(0, torch.arange(6)[:, None].expand(-1, 3)),
    "as a table": lambda h: F.embedding(torch.arange(6), h),
    "in a table": lambda h: F.embedding((h > 0).sum(1), torch.eye(4)),
    "in a table, by torch's own": lambda h: torch.embedding(torch.eye(4), (h > 0).sum(1)),
    "into a copy": lambda h: torch.zeros_like(h).index_copy(0, torch.arange(6), h),
    "assigned": lambda h: assigned(torch.zeros_like(h), range(6), h),
    "put into a copy": lambda h: torch.zeros_like(h).index_put([torch.arange(6)], h),
    "columns assigned": lambda h: assigned(torch.zeros_like(h), (slice(None), [2, 0, 1]), h),
    "columns turned by half": lambda h: torch.rot90(h[..., None], 2, (1, 2))[..., 0],
    "columns": lambda h: h[:, [2, 0, 1]],
    "columns from the end": lambda h: h[..., torch.tensor([2, 0, 1])],
    "columns by gather": lambda h: h.gather(1, h.argsort(1)),
    "columns by their values": lambda h: h.sort().values,
    "columns turned over": lambda h: h.flip(-1),
    "columns rolled": lambda h: h.roll(shifts=1, dims=1),
    "all that count": lambda h: h[torch.ones(6, dtype=bool)],
}


@pytest.mark.parametrize("function", IN_ORDER.values(), ids=IN_ORDER)
def test_samples_that_stay_in_order_stay_samples(function):
    model, x = Between(function, width=3), batch(4)
    model.b = nn.LazyLinear(3)
    model(x)
    seen = topoloss.observe(model)
    out = model(x)
    assert_layers(seen, {"a": model.a(x), "b": out})


COUNTING = {
    "meshgrid": lambda n: torch.meshgrid(n, n, indexing="ij")[0],
    "split": lambda n: n.split(2)[0],
    "chunk": lambda n: n.chunk(2)[0],
    "unbind": lambda n: n.view(2, 3).unbind()[0],
    "unpacked": lambda n: next(iter(n.view(2, 3))),
}


@pytest.mark.parametrize("function", COUNTING.values(), ids=COUNTING)
def test_a_model_may_take_apart_what_it_counts(function):
    between = Module(lambda h: h.relu() + function(torch.arange(6)).sum())
    assert_observes(Between(between), with_between, batch(4))


def test_an_index_whose_values_cannot_be_read_leaves_the_model_to_itself():
    """On the device "meta", and in a fake mode, tensors have no values."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    model = Between(lambda h: h[torch.arange(6, device=h.device)])
    with topoloss.observe(model):
        with FakeTensorMode(allow_non_fake_inputs=True):
            assert model(torch.randn(6, 4)).shape == (6, 3)
        assert model.to("meta")(torch.randn(6, 4, device="meta")).shape == (6, 3)


class Equation(nn.Module):
    """A layer, and an einsum of what it puts out and a weight."""

    def __init__(self, equation, weight, leads):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.weight = nn.Parameter(torch.randn(weight))
        self.equation, self.leads = equation, leads

    def forward(self, x):
        h = torch.tanh(self.first(x))
        operands = (self.weight, h) if self.leads else (h, self.weight)
        return torch.relu(torch.einsum(self.equation, *operands))


# The equation, the shape of its weight, whether that comes first, and where the samples are put.
EQUATIONS = {
    "linear": ("bi,oi->bo", (6, 4), False, 0),
    "weight first": ("oi,bi->ob", (6, 4), True, 1),
    "spaces": ("o i , b i -> o b", (6, 4), True, 1),
    "without an end": ("ai,bi", (6, 4), True, 1),
    "without an end, in the order of letters": ("zi,bi", (6, 4), True, 0),
    "two axes of a weight": ("hoi,bi->hbo", (6, 6, 4), True, 1),
    "any axes": ("...i,oi->o...", (6, 4), False, 1),
    "any axes of both": ("o...i,...i->o...", (6, 1, 4), True, 1),
}


@pytest.mark.parametrize("samples", [5, 6])
@pytest.mark.parametrize(("equation", "weight", "leads", "axis"), EQUATIONS.values(), ids=EQUATIONS)
def test_an_equation_says_where_the_samples_are(equation, weight, leads, axis, samples):
    """Also where there are as many samples as outputs."""

    def by_hand(model, x):
        return {"first": torch.tanh(model.first(x)), "(model)": model(x).movedim(axis, 0)}

    assert_observes(Equation(equation, weight, leads), by_hand, batch(4, samples=samples))


@pytest.mark.parametrize("positions", [5, 6])
def test_a_linear_map_on_the_positions_is_a_layer_of_the_samples(positions):
    """As MLP-Mixer does it."""

    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.channels = nn.Linear(positions, 7), nn.Linear(4, 3)

        def forward(self, x):
            return self.channels(F.gelu(self.tokens(x.transpose(1, 2))).transpose(1, 2))

    def by_hand(model, x):
        tokens = F.gelu(model.tokens(x.transpose(1, 2)))
        return {"tokens": tokens, "channels": model.channels(tokens.transpose(1, 2))}

    assert_observes(Mixer(), by_hand, batch(positions, 4))


@pytest.mark.filterwarnings("ignore::topoloss.AttachmentWarning")
@pytest.mark.parametrize("positions", [5, 6])
@pytest.mark.parametrize("features", [4, 6])
def test_a_mean_over_positions_that_stand_first_leaves_the_samples(features, positions):
    """Where every axis has one length a layer may be left out; it may not be turned round."""

    class Pools(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Linear(4, features), nn.Linear(features, 3)

        def forward(self, x):
            return self.head(self.embed(x).transpose(0, 1).mean(0))

    model, x = Pools(), batch(positions, 4)
    seen = topoloss.observe(model)
    out = model(x)
    found = seen.activations()
    torch.testing.assert_close(found["embed"], model.embed(x).flatten(1))
    if features == positions == 6:
        assert "head" not in found or torch.equal(found["head"], out)
    else:
        torch.testing.assert_close(found["head"], out)


@pytest.mark.parametrize("batch_first", [False, True])
def test_positions_are_not_taken_for_samples_without_a_word(batch_first):
    model, x = nn.Sequential(nn.LSTM(4, 3, batch_first=batch_first)), batch(5, 4)

    def ask(**options):
        penalty = topoloss.attach(model, **options)
        model(x)
        penalty()

    if batch_first:
        ask()
    else:
        with pytest.warns(UserWarning, match=r"'0' has batch_first=False.*batch_dim=1"):
            ask()
        ask(batch_dim=1)


def test_the_layout_of_what_is_not_observed_does_not_matter():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.LSTM(4, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.head(self.rnn(x[None])[0][0])

    def by_hand(model, x):
        return {"head": model(x)}

    assert_observes(Both(), by_hand, batch(4), layers="head")


# Layers that have no sample axis.


class Positions(nn.Module):
    """Adds an embedding of the positions to that of the tokens."""

    def __init__(self, positions, leading_axis):
        super().__init__()
        self.tokens, self.pos = nn.Embedding(10, 4), nn.Embedding(positions, 4)
        self.fc = nn.Linear(4, 3)
        self.leading_axis = leading_axis

    def forward(self, tokens):
        index = torch.arange(tokens.shape[1])
        return self.fc(self.tokens(tokens) + self.pos(index[None] if self.leading_axis else index))


class ConstantBias(nn.Module):
    """A linear map of constants makes the bias of each position, as in Swin."""

    def __init__(self, positions, leading_axis):
        super().__init__()
        shape = (1, positions, 2) if leading_axis else (positions, 2)
        self.register_buffer("coordinates", torch.rand(shape))
        self.tokens, self.pos, self.fc = nn.Linear(4, 4), nn.Linear(2, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(torch.softmax(self.tokens(x), -1) + self.pos(self.coordinates))


def inputs_of(model, positions):
    if isinstance(model, Positions):
        return torch.randint(0, 10, (6, positions))
    return batch(positions, 4)


without_samples = pytest.mark.parametrize("leading_axis", [False, True])
positions_or_samples = pytest.mark.parametrize("positions", [5, 6, 1])
constant = pytest.mark.parametrize("make", [Positions, ConstantBias])


@constant
@positions_or_samples
@without_samples
def test_what_depends_on_no_sample_adds_no_neurons(leading_axis, positions, make):
    model = make(positions, leading_axis)
    x = inputs_of(model, positions)
    seen = topoloss.observe(model)
    out = model(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", topoloss.AttachmentWarning)
        activations = seen.activations()
    expected = {"fc": out.flatten(1)}
    if make is ConstantBias:
        expected = {"tokens": model.tokens(x).flatten(1)} | expected
    torch.testing.assert_close(activations, expected)


@constant
@positions_or_samples
@without_samples
def test_by_the_papers_rule_what_depends_on_no_sample_is_left_out_and_told_once(
    leading_axis, positions, make
):
    model = make(positions, leading_axis)
    seen = topoloss.observe(model, layers="trainable")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            model(inputs_of(model, positions))
            assert list(seen.activations()) == ["tokens", "fc"]
    (warning,) = told
    assert warning.category is topoloss.AttachmentWarning
    assert "'pos'" in str(warning.message)
    assert "'tokens'" not in str(warning.message)


@constant
@positions_or_samples
@without_samples
def test_a_chosen_layer_that_depends_on_no_sample_is_an_error(leading_axis, positions, make):
    model = make(positions, leading_axis)
    penalty = topoloss.attach(model, layers="pos")
    model(inputs_of(model, positions))
    for ask in (penalty, penalty.activations, penalty.diagrams):
        with pytest.raises(topoloss.AttachmentError, match="'pos'"):
            ask()


def test_a_summary_of_the_batch_has_no_samples():
    class Summary(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.summary = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(x) * self.summary(x.mean(0, keepdim=True)).sigmoid()

    model, x = Summary(), batch(4)
    seen = topoloss.observe(model)
    model(x)
    with pytest.warns(topoloss.AttachmentWarning, match="'summary'"):
        seen.activations()
    assert_layers(seen, {"fc": model.fc(x)})


def sequence_model():
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


@pytest.mark.parametrize(
    ("model", "shape", "options", "message"),
    [
        (sequence_model(), (0, 4), {}, "no samples; expected at least one"),
        (sequence_model(), (1, 4), {}, "the batch holds one sample"),
        (sequence_model(), (4,), {}, r"\(3,\), in which no axis counts the 4 samples"),
        (sequence_model(), (6, 4), {"batch_dim": 2}, "'0' .*no input of the model has the axis"),
        (nn.Sequential(nn.Tanh()), (6, 0), {"layers": "0"}, "no layer has any neurons"),
        (nn.Conv1d(2, 3, 1), (0, 2, 5), {"units": "channel"}, "no samples; expected at least one"),
    ],
    ids=["empty", "one sample", "no axis of samples", "no such axis", "no neurons", "no images"],
)
def test_batches_that_cannot_be_valued_are_errors_that_say_so(model, shape, options, message):
    penalty = topoloss.attach(model, **options)
    model(torch.randn(shape))
    with pytest.raises(topoloss.TopolossError, match=message):
        penalty()


def test_a_model_that_computes_nothing_is_an_error():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            return None

    model = Idle()
    penalty = topoloss.attach(model)
    installed = hooks(model)
    model(batch(4))
    with pytest.raises(topoloss.AttachmentError, match="no layer has any neurons"):
        penalty()
    assert hooks(model) == installed


def test_layers_with_differing_numbers_of_samples_are_an_error_that_names_them():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    x = torch.randn(16, 1, 5, 5)
    penalty = topoloss.attach(model, units="channel")
    model(x)
    with pytest.raises(topoloss.AttachmentError, match=r"'0': \(144, 4\), '3': \(16, 3\).*'layer'"):
        penalty()
    penalty.remove()
    each = topoloss.attach(model, units="channel", per="layer")
    out = model(x)
    conv = F.relu(model[0](x)).movedim(1, -1).flatten(0, -2)
    reg = topoloss.regulariser("t1")
    torch.testing.assert_close(each(), reg(conv) + reg(out))
