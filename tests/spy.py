"""A regulariser that shows what it was given, and the comparison with activations by hand."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import topoloss


def value_by_hand(x: Tensor) -> Tensor:
    """What a `Spy` returns; its gradient is not zero where an activation is."""
    return (x.square() + x).sum()


class Spy(topoloss.Regulariser):
    """Keeps what it saw since it was last asked."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def compute(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return value_by_hand(x)


def observed(penalty: topoloss.Attachment) -> dict[str, Tensor]:
    """The activations, by layer, of an attachment of a `Spy` with ``per="layer"``."""
    penalty.regulariser.seen = []
    penalty()
    return dict(zip(penalty.neurons, penalty.regulariser.seen, strict=True))


def gradients(value: Tensor, model: nn.Module) -> list[Tensor]:
    trainable = [p for p in model.parameters() if p.requires_grad]
    return torch.autograd.grad(
        value, trainable, retain_graph=True, allow_unused=True, materialize_grads=True
    )


def assert_observes(
    model: nn.Module,
    by_hand: Callable[..., dict[str, Tensor]],
    *inputs: Tensor,
    **options: Any,
) -> None:
    """The layers, their activations and the gradients are those of `by_hand(model, *inputs)`.

    Checked in the first forward pass, which is watched, and in a later one, which follows
    what was learnt. `by_hand` runs on a twin that nothing is attached to.
    """
    twin = copy.deepcopy(model)
    with topoloss.attach(model, Spy(), per="layer", **options) as penalty:
        for later in (False, True):
            given = [x.flip(0) if later else x for x in inputs]
            torch.manual_seed(1)  # for dropout
            model(*given)
            torch.manual_seed(1)
            expected = {name: x.flatten(1) for name, x in by_hand(twin, *given).items()}
            torch.testing.assert_close(observed(penalty), expected)
            torch.testing.assert_close(
                gradients(penalty(), model),
                gradients(sum(map(value_by_hand, expected.values())), twin),
            )
