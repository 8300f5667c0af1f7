"""Models, and the comparison of what is observed with activations worked out by hand."""

import contextlib
import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import topoloss

ByHand = Callable[..., dict[str, Tensor]]


def batch(*shape: int, samples: int = 6) -> Tensor:
    """A batch of samples of a shape."""
    return torch.randn(samples, *shape)


class Between(nn.Module):
    """Two layers and what stands between them: a module or a function."""

    def __init__(self, between: Callable[[Tensor], Tensor], width: int = 8) -> None:
        super().__init__()
        self.a = nn.Linear(4, width)
        self.between = between
        self.b = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self.a(x)))


def with_between(model: Between, x: Tensor) -> dict[str, Tensor]:
    """The layers of a `Between` whose first layer is taken after what stands between."""
    h = model.between(model.a(x))
    return {"a": h, "b": model.b(h)}


class Module(nn.Module):
    """Any function as a module without parameters."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, h: Tensor) -> Tensor:
        return self.function(h)


class Net(nn.Module):
    """Two hidden layers, with an activation function and one that works in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.second = nn.Linear(8, 6)
        self.last = nn.Linear(6, 3)
        self.fails: BaseException | None = None

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.first(x))
        h = self.second(h)
        if self.fails is not None:
            raise self.fails
        return self.last(h.tanh_())


LAYERS = ["first", "second", "last"]


def by_hand(model: Net, x: Tensor) -> dict[str, Tensor]:
    """The activations of a `Net`, by layer, without a call of its modules."""
    first = F.relu(F.linear(x, model.first.weight, model.first.bias))
    second = torch.tanh(F.linear(first, model.second.weight, model.second.bias))
    last = F.linear(second, model.last.weight, model.last.bias)
    return dict(zip(LAYERS, (first, second, last), strict=True))


def penalty_by_hand(model: Net, x: Tensor, name: str = "t1") -> Tensor:
    """The penalty of a `Net` whose layers stand side by side."""
    return topoloss.regulariser(name)(torch.cat(list(by_hand(model, x).values()), 1))


def gradients(value: Tensor, model: nn.Module) -> list[Tensor]:
    """The gradients by the trainable parameters, zeros included."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return list(
        torch.autograd.grad(
            value, trainable, retain_graph=True, allow_unused=True, materialize_grads=True
        )
    )


def one_number(layers: dict[str, Tensor]) -> Tensor:
    """A value whose gradient is not zero where an activation is."""
    return torch.stack([(h.square() + h).sum() for h in layers.values()]).sum()


def assert_layers(seen: topoloss.Observation, expected: dict[str, Tensor]) -> None:
    """The latest pass has these layers, in this order, with these activations.

    What is expected may have further axes, which are the units of a layer.
    """
    activations = seen.activations()
    assert list(activations) == list(expected)
    flat = {name: h.flatten(1) for name, h in expected.items()}
    torch.testing.assert_close(activations, flat)


def assert_observes(model: nn.Module, expected: ByHand, *inputs: Tensor, **options: Any) -> None:
    """The layers, their activations and the gradients are those of ``expected(model, *inputs)``.

    Three forward passes are checked, each with the samples in another order. `expected` runs on
    a copy of the model that nothing observes.
    """
    twin = copy.deepcopy(model)
    with topoloss.observe(model, **options) as seen:
        for k in range(3):
            given = [x.roll(k, 0) for x in inputs]
            torch.manual_seed(1)  # for dropout
            model(*(x.clone() for x in given))
            torch.manual_seed(1)
            layers = expected(twin, *given)
            assert_layers(seen, layers)
            torch.testing.assert_close(
                gradients(one_number(seen.activations()), model),
                gradients(one_number(layers), twin),
            )


def hooks(model: nn.Module) -> list[tuple[str, str, int]]:
    """The module, kind and key of every hook on a model."""
    kinds = [kind for kind in vars(model) if kind.endswith("_hooks") or "_hooks_" in kind]
    return [
        (name, kind, key)
        for name, module in model.named_modules()
        for kind in kinds
        for key in getattr(module, kind)
    ]


@contextlib.contextmanager
def outputs_of(model: nn.Module) -> Iterator[list[weakref.ref[Any]]]:
    """Weak references to what the children of a model put out meanwhile."""
    references: list[weakref.ref[Any]] = []
    handles = [
        layer.register_forward_hook(lambda *call: references.append(weakref.ref(call[-1])))
        for layer in model.children()
    ]
    yield references
    for handle in handles:
        handle.remove()


def alive(references: list[weakref.ref[Any]]) -> list[Any]:
    """What weak references still lead to."""
    gc.collect()
    return [r() for r in references if r() is not None]


class StraightThrough(torch.autograd.Function):
    """A ReLU whose gradient is 1 everywhere, as quantised networks have it."""

    @staticmethod
    def forward(ctx, h):
        return h.clamp(min=0)

    @staticmethod
    def backward(ctx, gradient):
        return gradient
