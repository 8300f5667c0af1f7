"""The rules for a regulariser, of activations or of named tensors."""

from __future__ import annotations

import contextlib
import functools
import itertools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from topoloss.diagrams import Diagram
from topoloss.errors import NonFiniteError, TopolossError
from topoloss.pipelines import Pipeline
from topoloss.regularisers import Regulariser
from topoloss.testing import examples
from topoloss.testing.checks import (
    Kind,
    NotApplicable,
    Rule,
    Subject,
    builds_on,
    on,
    on_definition,
    require,
)
from topoloss.testing.common import (
    derivatives,
    devices,
    instances,
    numbers,
    purity,
    ties,
    transforms,
)
from topoloss.testing.comparing import close, difference, same, values_and_gradients_of
from topoloss.testing.examples import Example
from topoloss.testing.kinds import activations
from topoloss.testing.kinds.graphs import graph_of, skip_listed
from topoloss.testing.kinds.samples import SCALES, samples
from topoloss.testing.kinds.tree_changes import require_smoothness_across_a_change
from topoloss.testing.kruskal import spanning_forest

__all__ = ["KIND"]


def batch(subject: Subject) -> None:
    """A batch or a list gives each element the same value and gradient as the element alone."""
    regulariser = subject.make()
    if _is_between_layers(regulariser):
        raise NotApplicable("it compares layers, and takes no batch of one layer")
    first, second = (examples.generic(seed=subject.seed + k) for k in (0, 1))
    with on(
        f"{first.name} and {second.name}",
        mend="use torch operations and do not branch on the values of tensors, or return False "
        "from the property vmappable",
    ):
        both = Example("", (first.activations, second.activations))
        expected = values_and_gradients_of(
            lambda *xs: [torch.stack([regulariser(x) for x in xs])], both
        )
        for together in (
            values_and_gradients_of(lambda *xs: [regulariser(torch.stack(xs))], both),
            values_and_gradients_of(lambda *xs: [regulariser(list(xs))], both),
        ):
            require(
                together[0].shape == (2,) and close(together, expected),
                expected=f"{expected[0].tolist()}, as for each alone, and the same gradients",
                received=difference(together, expected),
                mend="reduce over the axes of one element only",
            )


@builds_on("graph", "finite", "gradient", "precision", "nonfinite")
def of_layers(subject: Subject) -> None:
    """`of_layers`, which `attach` calls, gives one finite number with the right gradient.

    Checked if a regulariser implements both `compute` and `of_layers`.
    """
    regulariser = subject.make()
    made = type(regulariser)
    if made.of_layers is Regulariser.of_layers or made.compute is Regulariser.compute:
        raise NotApplicable("it does not implement both compute and of_layers")
    if regulariser.labels:
        raise NotApplicable("it takes labels, and the examples of layers have none")

    def apply(regulariser: Regulariser, *layers: Tensor) -> list[Tensor]:
        return [regulariser.of_layers(dict(zip(_names(regulariser), layers, strict=True)))]

    def generic(regulariser: Regulariser, seed: int) -> Example:
        # No layer has two neurons: all correlations between samples of two numbers are 1 or -1.
        layers = [examples.generic(9, n, seed + 2 * k) for k, n in enumerate((4, 5, 3))]
        name = ", ".join(layer.name for layer in layers)
        return Example(f"of_layers of {name}", tuple(layer.activations for layer in layers))

    kind = replace(subject.kind, apply=apply, generic=generic, special=lambda regulariser: [])
    for rule in _OF_LAYERS:
        with contextlib.suppress(NotApplicable):
            rule(replace(subject, kind=kind))


@builds_on("graph", "finite")
def one_neuron(subject: Subject) -> None:
    """A single neuron has a finite value with an autograd graph."""
    regulariser = subject.make()
    example: Example = examples.generic(neurons=1, seed=subject.seed)
    if _is_between_layers(regulariser):
        example = _layers(*(examples.generic(neurons=1, seed=subject.seed + k) for k in range(3)))
    with on(example.name):
        (value,) = _apply(regulariser, *(x.requires_grad_() for x in example.tensors))
        require(
            torch.isfinite(value).all() and value.requires_grad,
            expected="a finite value with an autograd graph",
            received=value,
            mend="return a sum over the deaths or pairs: an empty sum is 0 and keeps its graph",
        )


@builds_on("finite", "precision")
def autocast(subject: Subject) -> None:
    """Under autocast the value is the same as without it."""
    regulariser = subject.make().float()
    example = subject.kind.generic(regulariser, subject.seed)
    tensors = [x.float() for x in example.tensors]
    with on(f"{example.name} in torch.float32, under autocast to bfloat16"):
        plain = subject.kind.apply(regulariser, *tensors)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            received = subject.kind.apply(regulariser, *tensors)
        require(
            close(received, plain),
            expected="the value without autocast",
            received=difference(received, plain),
            mend="let of_layers compute under torch.autocast(x.device.type, enabled=False)",
        )


@builds_on("finite")
def each_layer(subject: Subject) -> None:
    """Each of several layers affects the value: other numbers in one layer change it."""
    regulariser = subject.make()
    drawn, others = (subject.kind.generic(regulariser, subject.seed + k) for k in (0, 1))
    if len(drawn.tensors) == 1:
        raise NotApplicable("it is not given several layers")
    values = subject.kind.apply(regulariser, *drawn.tensors)
    for k, other in enumerate(others.tensors):
        with on(f"{drawn.name}, with other numbers in layer {k}"):
            changed = (
                subject.kind.apply(
                    regulariser, *drawn.tensors[:k], other * scale, *drawn.tensors[k + 1 :]
                )
                for scale in SCALES
            )
            require(
                any(not same(value, values) for value in changed),
                expected="a value that changes",
                received="the same value",
                mend="use every layer: look for a zip or a slice that ends too early",
            )


def convolution(subject: Subject) -> None:
    """The weight of a convolution has a value, or is refused with a clear error."""
    regulariser = subject.make()
    if regulariser.source != "weights" or regulariser.structure == "chain":
        raise NotApplicable("it is given no weights of convolutions")
    weight = torch.ones(2, 3, 1, 2, dtype=torch.float64, requires_grad=True)
    with on("weights 'filters', torch.ones(2, 3, 1, 2)"):
        try:
            value = regulariser({"filters": weight})
        except TopolossError as error:
            require(
                "filters" in str(error),
                expected="an error that names the layer 'filters'",
                received=f"{type(error).__name__}: {error}",
                mend="say which layer is refused, and what to do",
            )
            return
        require(
            value.shape == () and bool(torch.isfinite(value)),
            expected="one finite number, of shape (), or a topoloss.InputError",
            received=value,
            mend="work on weight.flatten(1), or raise a topoloss.InputError that names the layer",
        )


def nonfinite(subject: Subject) -> None:
    """NaN or infinity raises an error, or gives 0 under `on_nonfinite="skip"`."""
    regulariser = subject.make()
    example = subject.kind.generic(regulariser, subject.seed)
    for bad, k in itertools.product((torch.nan, torch.inf), range(len(example.tensors))):
        tensors = [x.clone() for x in example.tensors]
        tensors[k][1, 0] = bad
        several = len(tensors) > 1
        of_several = f" of layer {k}" if several else ""
        with on(f"{example.name} with {bad} in one place{of_several}"):
            try:
                (value,) = subject.kind.apply(regulariser, *tensors)
            except NonFiniteError:
                continue
            require(
                regulariser.on_nonfinite == "skip" and value.item() == 0,
                expected="a NonFiniteError, or 0 under on_nonfinite='skip'",
                received=value,
                mend="call self.guard(x) for each layer that of_layers is given"
                if several
                else "implement compute, and leave forward to topoloss.Regulariser",
            )


@builds_on("precision")
def definition(subject: Subject) -> None:
    """The value is that of the definition given as `expected`."""
    if subject.expected is None:
        raise NotApplicable("no definition was given with expected=")
    regulariser = subject.make()
    for example in (
        subject.kind.generic(regulariser, subject.seed),
        *_special(regulariser),
        *_large(regulariser, subject.seed),
    ):
        with on(example.name):
            with on_definition(example.name):
                given = _given(regulariser, *example.tensors)
                if isinstance(given, dict):
                    given = {name: x.detach() for name, x in given.items()}
                expected = float(subject.expected(given))
            received = _apply(regulariser, *example.tensors)[0].item()
            require(
                abs(received - expected) <= 1e-7 * (1 + abs(expected)),
                expected=f"{expected:.9g} by definition",
                received=f"{received:.9g}",
                mend="compare the formula with the definition: a sum or a mean, and the divisor of "
                "a standard deviation (correction=0 for the number of deaths)",
            )


def diagrams(subject: Subject) -> None:
    """The diagram in dimension 0 has ascending deaths, one for each edge of a spanning forest.

    For a clique there are n - 1 of them, zeros included. For a graph that is listed, or cut off
    at a threshold, the forest is that of the edges up to the last death.
    """
    regulariser = subject.make()
    for example in activations.special():
        with on(example.name):
            (x,) = example.tensors
            deaths = _diagram(regulariser, x).deaths
            count = _joined(regulariser, x, deaths)
            require(
                deaths.shape == (count,) and bool((deaths.diff() >= 0).all()),
                expected=f"{count} ascending deaths",
                received=deaths,
                mend="use a persistence engine that keeps points of lifetime 0",
            )


def _joined(regulariser: Regulariser, x: Tensor, deaths: Tensor) -> int:
    """Count the edges of a spanning forest of all edges up to the last death."""
    if not isinstance(regulariser, Pipeline):
        return x.shape[1] - 1
    graph = graph_of(regulariser.filtration, x)
    values = regulariser.filtration.edge_values(graph.v, graph.i, graph.j).detach()
    last = deaths.detach().amax() if len(deaths) else values.new_zeros(())
    near = values <= last + 1e-9 * values.abs().sum()
    edges = torch.stack((graph.i, graph.j), 1)[near]
    return len(spanning_forest(graph.n, edges, values[near]))


@builds_on("gradient", "precision", "diagrams")
def change_of_tree(subject: Subject) -> None:
    """Where the tree changes, the value is continuous, with the right gradient on each side."""
    regulariser = subject.make()
    derivatives.skip_where_surrogate(regulariser)
    first, last = (examples.generic(seed=subject.seed + k) for k in (0, 1))
    if isinstance(regulariser, Pipeline):
        skip_listed(graph_of(regulariser.filtration, first.activations))
    with on(f"the line from {first.name} to {last.name}"):
        require_smoothness_across_a_change(
            regulariser,
            lambda x: _diagram(regulariser, x).death_edges,
            (first.activations, last.activations),
        )


def _of_activations(rule: Rule) -> Rule:
    """Skip the rule for a regulariser of weights or parameters."""

    @functools.wraps(rule)
    def of_activations(subject: Subject) -> None:
        source = subject.make().source
        if source != "activations":
            raise NotApplicable(f"it takes {source}, and no activations")
        rule(subject)

    return of_activations


_LAYERS = ("first", "second", "third")


def _names(regulariser: Regulariser) -> tuple[str, ...]:
    """Name three layers; with `inputs = True` the first as `attach` names the input of a model."""
    return ("(input)", *_LAYERS[1:]) if regulariser.inputs else _LAYERS


def _shapes(source: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of three layers by name, for the source of a regulariser."""
    weights: dict[str, tuple[int, ...]] = {"stem": (2, 3), "blocks.0.proj": (3, 2), "head": (1, 3)}
    if source == "weights":
        return weights
    named: dict[str, tuple[int, ...]] = {"filters": (2, 1, 1, 2)}
    for name, shape in weights.items():
        named |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return named


def _named(source: str, seed: int, times: int = 1) -> Example:
    """Draw tensors of three layers, with every dimension `times` as large."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: tuple(times * k for k in shape) for name, shape in _shapes(source).items()}
    values = [
        torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes.values()
    ]
    what = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    return Example(f"{source} {what}, seed={seed}", tuple(values))


def _layers(*layers: Example) -> Example:
    """Join examples of one layer each."""
    named = (f"{name} {layer.name}" for name, layer in zip(_LAYERS, layers, strict=True))
    return Example(", ".join(named), tuple(x for layer in layers for x in layer.tensors))


def _dependent_layers(example: Example) -> Example:
    """Make three layers from one, so that its ties, duplicates and constants are in all of them."""
    (x,) = example.tensors
    others = torch.cat((x.flip(0), x[:, :1]), 1), x.roll(1, 0)[:, :2].clone()
    return Example(f"three layers of the columns of {example.name}", (x, *others))


def _generic(regulariser: Regulariser, seed: int) -> Example:
    if _is_between_layers(regulariser):
        widths = enumerate((4, 5, 2))
        return _layers(*(examples.generic(7, n, seed + 2 * k) for k, n in widths))
    if regulariser.source == "activations":
        return activations.generic(seed)
    return _named(regulariser.source, seed)


def _special(regulariser: Regulariser) -> list[Example]:
    if _is_between_layers(regulariser):
        return [_dependent_layers(example) for example in activations.special()]
    if regulariser.source == "activations":
        return activations.special()
    example = _named(regulariser.source, 0)
    zeros = tuple(torch.zeros_like(w) for w in example.tensors)
    return [Example(f"zeros in place of {example.name}", zeros)]


def _large(regulariser: Regulariser, seed: int) -> list[Example]:
    if _is_between_layers(regulariser):
        return [
            _layers(*(examples.many(m, seed=seed + k) for k, m in enumerate((n, n + 1, 2))))
            for n in activations.LARGE
        ]
    if regulariser.source == "activations":
        return activations.large(seed)
    return [_named(regulariser.source, seed, times=11)]


def _apply(regulariser: Regulariser, *tensors: Tensor) -> list[Tensor]:
    given = _given(regulariser, *tensors)
    if _is_between_layers(regulariser):
        return [regulariser.of_layers(given)]
    return [regulariser(given)]


def _given(regulariser: Regulariser, *tensors: Tensor) -> Any:
    """Return what a regulariser is given: activations, or tensors by name."""
    if _is_between_layers(regulariser):
        return dict(zip(_names(regulariser), tensors, strict=True))
    if regulariser.source == "activations":
        return tensors[0]
    # A regulariser may skip tensors that are not trainable.
    trainable = [w if w.requires_grad else w.detach().requires_grad_() for w in tensors]
    return dict(zip(_shapes(regulariser.source), trainable, strict=True))


def _is_between_layers(regulariser: Regulariser) -> bool:
    """Whether a regulariser of activations only compares layers, and has no value for one."""
    made = type(regulariser)
    return (
        regulariser.source == "activations"
        and made.of_layers is not Regulariser.of_layers
        and made.compute is Regulariser.compute
    )


_OF_LAYERS = (
    numbers.shapes,
    numbers.finite,
    purity.determinism,
    numbers.precision,
    autocast,
    each_layer,
    nonfinite,
    derivatives.graph,
    derivatives.gradient,
    devices.device,
)

KIND = Kind(
    base=Regulariser,
    generic=_generic,
    special=_special,
    apply=_apply,
    rules=(
        instances.construction,
        numbers.shapes,
        numbers.finite,
        purity.input_unchanged,
        purity.determinism,
        purity.memory,
        purity.random_state,
        purity.module_state,
        purity.leftovers,
        numbers.precision,
        numbers.layout,
        numbers.scale,
        numbers.tiny,
        autocast,
        samples,
        _of_activations(each_layer),
        convolution,
        _of_activations(nonfinite),
        definition,
        _of_activations(diagrams),
        derivatives.graph,
        _of_activations(one_neuron),
        derivatives.gradient,
        derivatives.second_gradient,
        derivatives.finite_gradients,
        ties.ties,
        derivatives.many,
        _of_activations(of_layers),
        _of_activations(change_of_tree),
        _of_activations(batch),
        _of_activations(transforms.compilation),
        instances.pickling,
        instances.deepcopy,
        instances.state_dict,
        devices.device,
        devices.cuda,
    ),
    large=_large,
)


def _diagram(regulariser: Regulariser, x: Tensor) -> Diagram:
    if type(regulariser).diagrams is Regulariser.diagrams:
        raise NotApplicable("it has no diagrams")
    found: Diagram = regulariser.diagrams(x)[0]
    return found
