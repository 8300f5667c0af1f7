"""What a model takes and puts out: nested inputs, dictionaries, objects, a loss."""

import pytest
import torch
import torch.nn.functional as F
from attaching.helpers import Between, assert_layers, assert_observes, batch, with_between
from torch import nn

import topoloss


def test_outputs_may_be_dicts_and_inputs_keywords():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 8)
            self.b = nn.Linear(8, 3)

        def forward(self, *, x, mask):
            h = F.relu(self.a(x * mask))
            return {"ids": [], "hidden": (self.b(h), h), "mask": mask}

    model, x, mask = Masked(), batch(4), torch.tensor([1.0, 0, 1, 1])
    seen = topoloss.observe(model)
    for scale in (1, 2):
        model(x=scale * x, mask=mask)
        h = F.relu(model.a(scale * x * mask))
        assert_layers(seen, {"a": h, "b": model.b(h)})


def test_inputs_may_be_nested_and_outputs_objects():
    class Output:
        def __init__(self, logits):
            self.logits = logits

    class Nested(Between):
        def forward(self, inputs):
            return Output(super().forward(inputs["features"][0]))

    model, x = Nested(nn.ReLU()), batch(4)
    seen = topoloss.observe(model)
    model({"name": "text", "features": [x]})
    assert_layers(seen, with_between(model, x))


def test_a_loss_that_the_model_computes_itself_changes_nothing():
    class WithLoss(Between):
        def forward(self, x, target):
            logits = super().forward(x)
            return F.cross_entropy(logits, target), logits

    def by_hand(model, x, target):
        return with_between(model, x)

    assert_observes(WithLoss(nn.ReLU()), by_hand, batch(4), torch.randint(0, 3, (6,)))


def test_an_exported_model_has_the_layers_of_the_model_that_it_was_made_from():
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), batch(4)
    exported = torch.export.export(model, (x,)).module()
    seen = topoloss.observe(exported)
    exported(x)
    assert_layers(seen, {"0": model[:2](x), "2": model(x)})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_traced_model_is_refused():
    """It does not call its layers, so hooks would see nothing but the output of the whole."""
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), batch(4)
    traced = torch.jit.trace(model, (x,))
    with pytest.raises(topoloss.AttachmentError, match="scripted or traced"):
        topoloss.observe(traced)
