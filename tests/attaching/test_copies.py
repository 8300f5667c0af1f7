"""Copies of a model, with its attachment and without."""

import copy

import copying
import pytest
import torch
from attaching.helpers import (
    Net,
    alive,
    assert_layers,
    batch,
    by_hand,
    gradients,
    hooks,
    outputs_of,
    penalty_by_hand,
)
from torch import nn

import topoloss

copies = pytest.mark.parametrize("make", copying.WAYS)


@copies
@pytest.mark.parametrize("passes", [0, 1])
@pytest.mark.parametrize("eval_pass", [False, True])
def test_model_and_attachment_are_copied_together(make, eval_pass, passes):
    model, x, y = Net(), batch(4, samples=16), batch(4, samples=16)
    penalty = topoloss.attach(model, "t2", eval_pass=eval_pass)
    for _ in range(passes):
        model(x)
    other, copied = make((model, penalty))
    with pytest.raises(topoloss.AttachmentError, match=r"call model\(inputs\)"):
        copied()
    with torch.no_grad():
        other.first.weight.mul_(2)
    for _ in range(2):
        other(y)
        expected = penalty_by_hand(other, y, "t2")
        torch.testing.assert_close(copied(), expected)
        torch.testing.assert_close(gradients(copied(), other), gradients(expected, other))
    if passes:
        torch.testing.assert_close(penalty(), penalty_by_hand(model, x, "t2"))
    copied.remove()
    assert hooks(other) == []
    model(y)
    torch.testing.assert_close(penalty(), penalty_by_hand(model, y, "t2"))


@copies
def test_a_copied_observation_has_the_same_options(make):
    model, x = Net(), batch(4, samples=16)
    seen = topoloss.observe(
        model, layers=nn.Linear, sampler="importance", fraction=0.5, after_activation=False
    )
    model(x)
    other, copied = make((model, seen))
    other(x)
    torch.testing.assert_close(copied.activations(), seen.activations())
    assert [len(index) for index in copied.neurons.values()] == [4, 3, 3]


def hooks_left(model, make):
    """The hooks of a copied model; those of a pickled one go at its first pass."""
    if make is not copy.deepcopy:
        model(batch(4))
    return hooks(model)


@copies
@pytest.mark.parametrize("passes", [0, 1])
def test_a_copy_of_the_model_alone_observes_nothing(make, passes):
    model, x = Net(), batch(4, samples=16)
    penalty = topoloss.attach(model)
    for _ in range(passes):
        model(x)
    other = make(model)
    model(x)
    assert hooks_left(other, make) == []
    for _ in range(2):
        assert torch.equal(other(x), model(x))
        other(batch(4, samples=5))
    assert list(other.state_dict()) == list(model.state_dict())
    torch.testing.assert_close(penalty(), penalty_by_hand(model, x))
    # It may be attached to as any model.
    seen = topoloss.observe(other)
    other(x)
    assert_layers(seen, by_hand(other, x))


@copies
def test_a_copy_of_the_model_alone_keeps_the_users_own_hooks(make):
    model = Net()
    model.first.register_forward_hook(looks)
    penalty = topoloss.attach(model)
    ((name, kind, _),) = hooks_left(make(model), make)
    assert (name, kind) == ("first", "_forward_hooks")
    penalty.remove()
    assert len(hooks(model)) == 1


def looks(module, args, output):
    """A hook of the user's own."""


@copies
def test_a_copy_of_the_model_alone_keeps_no_activations_alive(make):
    model = Net()
    penalty = topoloss.attach(model)
    with outputs_of(model) as recorded:
        model(batch(4, samples=16))
    other = make(model)
    assert alive(recorded)  # the attachment keeps them, until it is removed
    penalty.remove()
    assert alive(recorded) == []
    assert hooks_left(other, make) == []


def test_a_copy_shares_no_activations_with_the_original():
    model, x = Net(), batch(4, samples=16)
    penalty = topoloss.attach(model)
    with outputs_of(model) as recorded:
        model(x)
    pair = copy.deepcopy((model, penalty))
    assert alive(recorded)
    model(x)
    assert alive(recorded) == []
    assert pair[0] is not model  # and the copy still lives


@pytest.mark.parametrize("passes", [0, 1])
def test_a_data_parallel_replica_is_refused_by_the_penalty(passes):
    model, x = Net(), batch(4, samples=16)
    penalty = topoloss.attach(model)
    for _ in range(passes):
        model(x)
    model._replicate_for_data_parallel()(x)
    with pytest.raises(topoloss.AttachmentError, match="DistributedDataParallel"):
        penalty()
    model(x)
    torch.testing.assert_close(penalty(), penalty_by_hand(model, x))


def test_a_data_parallel_replica_of_a_part_is_refused_by_the_penalty():
    class Parallel(nn.Module):
        replicates = False

        def __init__(self):
            super().__init__()
            self.part, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x):
            part = self.part
            return self.head((replicated(part) if self.replicates else part)(x))

    def replicated(layer):
        replica = layer._replicate_for_data_parallel()
        replica.weight, replica.bias = layer.weight * 1, layer.bias * 1
        return replica

    model, x = Parallel(), batch(4, samples=16)
    penalty = topoloss.attach(model)
    for model.replicates in (False, True, False):
        model(x)
        if model.replicates:
            with pytest.raises(topoloss.AttachmentError, match="DistributedDataParallel"):
                penalty()
        else:
            h = model.part(x)
            expected = topoloss.regulariser("t1")(torch.cat([h, model.head(h)], 1))
            torch.testing.assert_close(penalty(), expected)
