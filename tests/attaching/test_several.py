"""Several attachments to one model, or to a model and a part of it."""

import pytest
import torch
import torch.nn.functional as F
from attaching.helpers import Net, assert_layers, batch, by_hand, hooks, penalty_by_hand
from torch import nn

import topoloss

SECOND = {
    "alike": ({}, lambda model, x, out: {"0": F.relu(model[0](x)), "3": out}),
    "without dropout": (
        {"eval_pass": True},
        lambda model, x, out: {"0": F.relu(model[0](x)), "3": model[3](F.relu(model[0](x)))},
    ),
    "before activation": (
        {"after_activation": False},
        lambda model, x, out: {"0": model[0](x), "3": out},
    ),
}


@pytest.mark.parametrize(("second", "by_hand_of_second"), SECOND.values(), ids=SECOND)
@pytest.mark.parametrize("apart", [False, True])
def test_two_observations_of_one_model_do_not_disturb_each_other(second, by_hand_of_second, apart):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    x = batch(4)
    one = topoloss.observe(model)
    if apart:
        model(x)
    two = topoloss.observe(model, **second)
    for _ in range(3):
        out = model(x)
        for _ in range(2):
            assert_layers(two, by_hand_of_second(model, x, out))
            assert_layers(one, {"0": F.relu(model[0](x)), "3": out})
    two.remove()
    out = model(x)
    assert_layers(one, {"0": F.relu(model[0](x)), "3": out})
    one.remove()
    assert hooks(model) == []


def test_the_first_of_two_attachments_may_be_removed_first():
    model, x = Net(), batch(4, samples=16)
    one, two = topoloss.attach(model, "t1"), topoloss.attach(model, "t2")
    model(x)
    torch.testing.assert_close(one(), penalty_by_hand(model, x, "t1"))
    one.remove()
    for _ in range(2):
        model(x)
        torch.testing.assert_close(two(), penalty_by_hand(model, x, "t2"))
    two.remove()
    assert hooks(model) == []


@pytest.mark.parametrize("outer_first", [False, True])
@pytest.mark.parametrize("warm", ["neither", "inner", "outer"])
def test_a_model_and_a_part_of_it_may_both_be_observed(warm, outer_first):
    model, x = nn.Sequential(Net(), nn.ReLU(), nn.Linear(3, 2)), batch(4)
    seen = {}
    attaching = {"outer": model, "inner": model[0]}
    for name in sorted(attaching, reverse=outer_first):
        seen[name] = topoloss.observe(attaching[name])
        if name == warm:
            attaching[name](x)
    for _ in range(3):
        out = model(x)
        inner = by_hand(model[0], x)
        outer = {f"0.{name}": h for name, h in inner.items()}
        outer["0.last"] = F.relu(outer["0.last"])
        assert_layers(seen["inner"], inner)
        assert_layers(seen["outer"], outer | {"2": out})


def test_two_models_of_which_one_feeds_the_other_are_apart():
    first, second, x = Net(), nn.Linear(3, 2), batch(4)
    one, two = topoloss.observe(first), topoloss.observe(second)
    for _ in range(2):
        out = second(F.relu(first(x)))
        assert_layers(one, by_hand(first, x))
        assert_layers(two, {"(model)": out})


def test_an_ensemble_of_models_in_one_pass_is_observed_by_each():
    members, x = nn.ModuleList([Net(), Net()]), batch(4)
    members.forward = lambda x: members[0](x) + members[1](x)
    seen = [topoloss.observe(m) for m in members]
    whole = topoloss.observe(members)
    for _ in range(2):
        members(x)
        layers = [by_hand(m, x) for m in members]
        for observation, found in zip(seen, layers, strict=True):
            assert_layers(observation, found)
        named = {f"{k}.{name}": h for k, found in enumerate(layers) for name, h in found.items()}
        assert_layers(whole, named)


def test_attaching_within_a_pass_takes_effect_with_the_next():
    class Attaches(Net):
        seen = None

        def forward(self, x):
            if self.seen is None:
                self.seen = topoloss.observe(self)
            return super().forward(x)

    model, x = Attaches(), batch(4)
    model(x)
    with pytest.raises(topoloss.AttachmentError, match=r"call model\(inputs\)"):
        model.seen.activations()
    model(x)
    assert_layers(model.seen, by_hand(model, x))
    assert torch.overrides._get_current_function_mode_stack() == []
