"""The choice of layers: by name, glob and type, or by the paper's rule."""

import pytest
import torch
import torch.nn.functional as F
from attaching.helpers import Between, assert_layers, assert_observes, batch, with_between
from torch import nn

import topoloss


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh())
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.encoder(x))


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        ("auto", ["encoder.0", "encoder.2", "head"]),
        ("trainable", ["encoder.0", "encoder.2", "head"]),
        ("head", ["head"]),
        ("encoder.0", ["encoder.0"]),
        ("encoder", ["encoder"]),
        ("encoder.[02]", ["encoder.0", "encoder.2"]),
        # The activation of a layer that is chosen as well adds nothing.
        ("encoder.*", ["encoder.0", "encoder.2"]),
        ("*", ["encoder.0", "encoder.2", "head"]),
        (nn.Linear, ["encoder.0", "encoder.2", "head"]),
        (nn.Tanh, ["encoder.3"]),
        (Named, ["(model)"]),
        (["head", nn.ReLU], ["encoder.1", "head"]),
        (("head", "head", nn.Linear), ["encoder.0", "encoder.2", "head"]),
    ],
)
def test_layers_are_chosen_by_name_glob_and_type(layers, names):
    model = Named()
    seen = topoloss.observe(model, layers=layers)
    for _ in range(3):
        model(batch(4))
        assert list(seen.neurons) == names
        assert list(seen.activations()) == names


def test_a_name_is_taken_as_it_is_though_it_looks_like_a_glob():
    """Unless no module has it: "[03]" is a glob where no module is named so."""
    model = nn.Sequential()
    for name in ("a[0]", "a0"):
        model.add_module(name, nn.Linear(4, 4))
    with topoloss.observe(model, layers="a[0]") as seen:
        model(batch(4))
        assert list(seen.neurons) == ["a[0]"]
    with topoloss.observe(model, layers="a[0-9]") as seen:
        model(batch(4))
        assert list(seen.neurons) == ["a0"]


def test_a_chosen_activation_module_has_the_values_of_its_layer():
    def by_hand(model, x):
        return {"encoder.1": model.encoder[:2](x), "encoder.3": model.encoder(x)}

    assert_observes(Named(), by_hand, batch(4), layers=[nn.ReLU, nn.Tanh])


def test_a_chosen_module_around_a_layer_is_taken_after_what_follows_it():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
            self.last = nn.Linear(3, 2)

        def forward(self, x):
            return self.last(torch.sigmoid(self.inner(x)))

    def by_hand(model, x):
        return {"inner": torch.sigmoid(model.inner(x))}

    assert_observes(Outer(), by_hand, batch(4), layers="inner")


def test_a_chosen_module_without_parameters_is_observed_too():
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))

    def by_hand(model, x):
        h = model[0](x)
        return {"0": h, "1": model[1](h)}

    assert_observes(model, by_hand, batch(4), layers=["0", "1"])


def test_a_chosen_norm_and_a_chosen_pooling_are_layers():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))

    def by_hand(model, x):
        conv = model[0](x)
        normed = F.relu(model[1](conv))
        return {"0": conv, "1": normed, "3": F.max_pool2d(normed, 2)}

    assert_observes(model, by_hand, batch(2, 6, 6), layers=["0", "1", "3"])


@pytest.mark.parametrize("layers", ["haed", "", "encoder.9", nn.Conv2d, ["head", "no*"]])
def test_a_pattern_that_matches_nothing_lists_what_there_is(layers):
    with pytest.raises(topoloss.AttachmentError, match=r"matches no module of Named.*encoder\.0"):
        topoloss.observe(Named(), layers=layers)


def test_the_error_for_a_misspelt_layer_proposes_the_nearest_name():
    with pytest.raises(topoloss.AttachmentError, match=r"Did you mean 'head'\?"):
        topoloss.attach(Named(), layers="haed")


@pytest.mark.parametrize("layers", [[], 5, [None], int, nn.Linear(2, 2), [nn.Linear(2, 2)]])
def test_layers_that_are_no_patterns_are_refused(layers):
    with pytest.raises(topoloss.OptionError, match="layers"):
        topoloss.observe(Named(), layers=layers)


def test_a_chosen_layer_that_is_not_called_is_an_error():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    penalty = topoloss.attach(model, layers="self_attn.out_proj")
    model(batch(5, 8))
    with pytest.raises(topoloss.AttachmentError, match=r"'self_attn\.out_proj'"):
        penalty()


@pytest.mark.parametrize("output", ["int", "scalar", "none"])
def test_a_chosen_layer_that_puts_out_no_neurons_is_an_error_that_names_it(output):
    class Odd(nn.Module):
        def forward(self, x):
            return {"int": x.argmax(1), "scalar": x.sum(), "none": "text"}[output]

    model = nn.Sequential(nn.Linear(4, 8), Odd())
    seen = topoloss.observe(model, layers=["0", "1"])
    model(batch(4))
    with pytest.raises(topoloss.AttachmentError, match="'1'"):
        seen.activations()


@pytest.mark.parametrize("per", ["network", "layer"])
def test_a_layer_of_which_the_sampler_takes_nothing_takes_no_part(per):
    """A tenth of eight neurons, rounded down, is none; the last layer is taken whole."""
    model, x = Between(nn.ReLU()), batch(4)
    penalty = topoloss.attach(model, fraction=0.1, per=per)
    out = model(x)
    assert [len(index) for index in penalty.neurons.values()] == [0, 3]
    torch.testing.assert_close(penalty(), topoloss.regulariser("t1")(out))


# The paper's rule: each module with trainable parameters.


def test_by_the_papers_rule_norms_and_embeddings_count():
    model = nn.Sequential(
        *(nn.Embedding(10, 4), nn.LayerNorm(4), nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(40, 3)),
    )

    def by_hand(model, x):
        found = {"0": model[0](x)}
        found["1"] = model[1](found["0"])
        found["2"] = model[2](found["1"])
        found["3"] = F.relu(model[3](found["2"]))
        return found | {"6": model[6](found["3"].flatten(1))}

    assert_observes(model, by_hand, torch.randint(0, 10, (6, 5)), layers="trainable")


@pytest.mark.parametrize("training", [True, False])
def test_by_the_papers_rule_a_convolution_and_its_norm_are_two_layers(training):
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5)),
        *(nn.Flatten(), nn.Linear(16, 3)),
    ).train(training)

    def by_hand(model, x):
        conv = model[0](x)
        bn = F.relu(model[1](conv))
        return {"0": conv, "1": bn, "6": model[3:](bn)}

    assert_observes(model, by_hand, batch(2, 6, 6), layers="trainable")


def test_by_the_papers_rule_frozen_modules_do_not_count():
    model = Between(nn.BatchNorm1d(8))
    model.a.requires_grad_(False)

    def by_hand(model, x):
        h = model.between(model.a(x))
        return {"between": h, "b": model.b(h)}

    assert_observes(model, by_hand, batch(4), layers="trainable")


def test_by_the_papers_rule_a_model_without_trainable_parameters_is_an_error():
    model, x = Named().requires_grad_(False), batch(4)

    def ask():
        seen = topoloss.observe(model, layers="trainable")
        model(x)
        seen.activations()

    with pytest.raises(topoloss.AttachmentError, match="no trainable parameters"):
        ask()
    seen = topoloss.observe(model, layers="encoder.0")
    model(x)
    assert_layers(seen, {"encoder.0": F.relu(model.encoder[0](x))})


def test_by_the_papers_rule_an_unused_module_adds_no_neurons():
    model = Between(nn.ReLU())
    model.unused = nn.Linear(2, 2)
    assert_observes(model, with_between, batch(4), layers="trainable")
    assert_observes(model, with_between, batch(4))


class ScalesInput(nn.Module):
    """Has a parameter of its own, and hands on the output of another module, perhaps doubled."""

    def __init__(self, factor):
        super().__init__()
        self.inner = nn.Linear(4, 8)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.factor = factor

    def forward(self, x):
        h = self.inner(x * self.scale)
        return h if self.factor == 1 else self.factor * h


@pytest.mark.parametrize("layers", ["auto", "trainable"])
@pytest.mark.parametrize("factor", [1, 2.0])
def test_a_module_that_hands_on_an_output_adds_no_neurons(factor, layers):
    def by_hand(model, x):
        h = F.relu(model.a(x))
        return {"a.inner": h, "b": model.b(h)}

    model = Between(F.relu)
    model.a = ScalesInput(factor)
    assert_observes(model, by_hand, batch(4), layers=layers)


def test_by_the_papers_rule_a_root_with_parameters_is_a_layer():
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)
            self.weight = nn.Parameter(torch.rand(()))

        def forward(self, x):
            return self.weight * self.a(x) + (1 - self.weight) * self.b(x)

    def by_hand(model, x):
        a, b = model.weight * model.a(x), (1 - model.weight) * model.b(x)
        return {"a": a, "b": b, "(model)": a + b}

    assert_observes(Sums(), by_hand, batch(4), layers="trainable")


def normed():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).double()


@pytest.mark.parametrize("layers", [["0", "3"], nn.Linear, "[03]", ["3", "0"]])
def test_a_chosen_layer_is_the_one_that_the_default_shows_by_that_name(layers):
    def by_hand(model, x):
        h = F.relu(model[1](model[0](x)))
        return {"0": h, "3": model[3](h)}

    assert_observes(normed(), by_hand, batch(4).double(), layers=layers)


def test_a_norm_that_is_chosen_is_a_layer_of_its_own():
    def by_hand(model, x):
        before = model[0](x)
        h = F.relu(model[1](before))
        return {"0": before, "1": h, "3": model[3](h)}

    layers = ["0", "1", "3"]
    assert_observes(normed(), by_hand, batch(4).double(), layers=layers)
