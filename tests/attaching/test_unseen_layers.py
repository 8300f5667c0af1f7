"""Layers that no torch function mode sees: they are told, and never missing without a word."""

import pytest
import torch
from attaching.helpers import assert_layers, batch, hooks
from torch import nn

import topoloss


class Ensemble(nn.Module):
    """Linear layers whose weights are stacked and mapped over."""

    def __init__(self):
        super().__init__()
        self.members = nn.ModuleList(nn.Linear(4, 8) for _ in range(3))

    def forward(self, x):
        stacked = torch.func.stack_module_state(list(self.members))

        def member(parameters, buffers, x):
            return torch.func.functional_call(self.members[0], (parameters, buffers), (x,))

        return torch.vmap(member, (0, 0, None))(*stacked, x).mean(0)


UNSEEN_LAYERS = {
    "2": lambda: torch.jit.trace(nn.Linear(4, 8), torch.ones(2, 4), check_trace=False),
    "2.members.0": Ensemble,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", UNSEEN_LAYERS)
def test_a_layer_that_is_not_seen_is_told_by_name(name):
    unseen = UNSEEN_LAYERS[name]()
    model = nn.Sequential(nn.Linear(4, 4), nn.Softmax(1), unseen, nn.Linear(8, 3))
    seen = topoloss.observe(model)
    model(batch(4))
    with pytest.warns(topoloss.AttachmentWarning, match=f"layer '{name}' is left out"):
        assert list(seen.activations()) == ["0", "3"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_layer_that_is_not_seen_is_found_by_the_name_that_the_warning_gives():
    first = UNSEEN_LAYERS["2"]()
    model, x = nn.Sequential(first, nn.ReLU(), nn.Linear(8, 3)), batch(4)
    with topoloss.observe(model, ["0", "2"]) as seen:
        model(x)
        assert_layers(seen, {"0": model[:2](x), "2": model(x)})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_where_no_layer_is_seen_the_error_says_why():
    model = nn.Sequential(UNSEEN_LAYERS["2"]())
    penalty = topoloss.attach(model)
    model(batch(4))
    with pytest.raises(topoloss.AttachmentError, match=r"no layer has any .* layer '0' is left"):
        penalty()


class Indexed(nn.Module):
    """An embedding of somebody's own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 4))

    def forward(self, index):
        return self.weight[index]


def test_what_is_no_linear_map_is_no_layer_that_was_missed():
    model = nn.Sequential(Indexed(), nn.LayerNorm((3, 4)), nn.Linear(4, 3))
    seen = topoloss.observe(model)
    model(torch.randint(5, (6, 3)))
    assert list(seen.activations()) == ["2"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("part", [nn.ReLU(), nn.Linear(8, 8)])
def test_a_scripted_part_is_refused_by_name_before_any_hook(part):
    model = nn.Sequential(nn.Linear(4, 8), torch.jit.script(part), nn.Linear(8, 3))
    with pytest.raises(topoloss.AttachmentError, match="module '1' is scripted"):
        topoloss.attach(model)
    assert hooks(model) == []
    # Weights need no hook.
    expected = sum(p.square().sum() for p in model.parameters())
    torch.testing.assert_close(topoloss.attach(model, "l2")(), expected)


class Table(nn.Module):
    """A parameter called weight, and what is done with it and the input."""

    def __init__(self, function, *shape):
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.randn(shape))

    def forward(self, x):
        return self.function(x, self.weight)


TABLES = {
    "positions that are added": Table(torch.add, 3, 4),
    "prototypes": Table(torch.cdist, 4, 4),
    "a part of one": Table(lambda x, weight: x - weight[:3], 5, 4),
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_a_table_that_is_read_is_no_layer_that_was_missed(table):
    model, x = nn.Sequential(table, nn.Linear(4, 3)), batch(3, 4)
    seen = topoloss.observe(model)
    model(x)
    assert_layers(seen, {"1": model(x)})


class Summary(nn.Module):
    """Queries that are learnt and mapped, as attention pooling has them."""

    def __init__(self):
        super().__init__()
        self.latent = nn.Parameter(torch.randn(1, 2, 4))
        self.hidden, self.q, self.k = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        queries = self.q(torch.relu(self.hidden(self.latent)))
        return (queries @ self.k(x).mT).softmax(-1) @ x


def test_a_layer_of_a_parameter_is_no_layer_that_was_missed():
    model, x = nn.Sequential(Summary(), nn.Linear(4, 3)), batch(3, 4)
    seen = topoloss.observe(model)
    model(x)
    assert_layers(seen, {"1": model(x)})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_many_layers_that_are_not_seen_are_told_at_once():
    first, third = (torch.jit.trace(nn.Linear(4, 4), torch.ones(2, 4)) for _ in range(2))
    model = nn.Sequential(first, nn.Softmax(1), third, nn.Linear(4, 3))
    seen = topoloss.observe(model)
    model(batch(4))
    with pytest.warns(topoloss.AttachmentWarning) as told:
        assert list(seen.activations()) == ["3"]
    (warning,) = told
    assert "layers '0', '2' are left out" in str(warning.message)
    assert list(seen.describe().left_out) == ["0", "2"]
