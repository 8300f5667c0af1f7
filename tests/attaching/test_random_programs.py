"""Random programs on what a linear map puts out: where its layer ends, by an oracle.

A program changes its variables by functions that are elementwise or not, in place or not, written
out or as modules, of one width or spread to another. It hands some of them to further linear maps.
The oracle knows the program. It works without changes in place and without torch's modes.
"""

import contextlib
import random
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import topoloss

ELEMENTWISE = [torch.relu, torch.tanh, lambda h: 0.5 * h, lambda h: h + 1, lambda h: h**2]
IN_PLACE = [torch.relu_, torch.tanh_, lambda h: h.mul_(0.7), lambda h: F.silu(h, inplace=True)]
OF_TWO = [torch.add, torch.mul, torch.maximum, lambda a, b: torch.where(a > b, a, 0.1 * b)]
OF_TWO_IN_PLACE = [Tensor.add_, Tensor.mul_]
JOINING_NEURONS = [lambda h: h.softmax(-1), lambda h: h.cumsum(-1), lambda h: h.flip(-1)]
SPREADING = [lambda h: h * torch.linspace(-1, 1, 8), lambda h: h + torch.ones(1, 8)]
REDUCING = [lambda h: h.max(-1, keepdim=True).values, lambda h: torch.min(h, -1, True)[0]]
LOOKING = [lambda h: h.abs().mean(), lambda h: h.detach().max(), torch.isnan]
KINDS = [
    ELEMENTWISE,
    IN_PLACE,
    OF_TWO,
    OF_TWO_IN_PLACE,
    JOINING_NEURONS,
    SPREADING,
    REDUCING,
    LOOKING,
]
CHANGING = [IN_PLACE, OF_TWO_IN_PLACE]


class Step(nn.Module):
    """A function as a module, of as many tensors as it takes."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *variables):
        return self.function(*variables)


class Program(nn.Module):
    """Steps (kind, function, variables), and the variables that further layers take."""

    def __init__(self, seed):
        super().__init__()
        draw = random.Random(seed)
        widths = [draw.choice([8, 8, 8, 1])]
        self.first = nn.Linear(4, widths[0])
        self.steps, self.modules_of_steps = [], nn.ModuleList()
        for _ in range(draw.randint(1, 8)):
            kind = draw.choice(KINDS)
            count = 2 if kind in (OF_TWO, OF_TWO_IN_PLACE) else 1
            used = [draw.randrange(len(widths)) for _ in range(count)]
            # In place, the first may not be narrower than the second.
            used.sort(key=lambda k: -widths[k] if kind is OF_TWO_IN_PLACE else 0)
            function = draw.choice(kind)
            if draw.random() < 0.3:
                function = Step(function)
                self.modules_of_steps.append(function)
            self.steps.append((kind, function, used))
            if kind not in (*CHANGING, LOOKING):
                width = {id(SPREADING): 8, id(REDUCING): 1}.get(id(kind))
                widths.append(width or max(widths[k] for k in used))
        self.taken = [draw.randrange(len(widths)) for _ in range(draw.choice([1, 1, 2]))]
        self.further = nn.ModuleList(nn.Linear(widths[k], 3) for k in self.taken)

    def forward(self, x):
        variables = [self.first(x)]
        for kind, function, used in self.steps:
            result = function(*(variables[k] for k in used))
            if kind not in (*CHANGING, LOOKING):
                variables.append(result)
        return [layer(variables[k]) for layer, k in zip(self.further, self.taken, strict=True)]


@dataclass
class Value:
    """What a variable held at one moment."""

    tensor: Tensor
    elementwise: bool
    parents: set[int]


def values_of(program, x):
    """All values that the variables had, and the numbers of those that further layers take."""
    values = [Value(program.first(x), True, set())]
    held = [0]
    for kind, function, used in program.steps:
        if kind is LOOKING:
            continue
        parents = [held[k] for k in used]
        result = function(*(values[k].tensor.clone() for k in parents))
        alike = all(values[k].tensor.shape == result.shape for k in parents)
        values.append(Value(result, kind is not JOINING_NEURONS and alike, set(parents)))
        if kind in CHANGING:
            held[used[0]] = len(values) - 1
        else:
            held.append(len(values) - 1)
    return values, {held[k] for k in program.taken}


def end_of_layer(values, taken):
    """The last value that all use of the first passes through, elementwise from end to end."""
    used, pending = set(taken), list(taken)
    while pending:
        for parent in values[pending.pop()].parents - used:
            used.add(parent)
            pending.append(parent)
    end = 0
    for candidate in sorted(used - {0}):
        before, pending = set(), [0]
        while pending:
            k = pending.pop()
            before.add(k)
            pending += [c for c in used if k in values[c].parents and c not in before | {candidate}]
        within = before | {candidate}
        if (
            not before & taken
            and all(values[k].elementwise for k in within)
            and all(values[k].parents <= before for k in within)
        ):
            end = candidate
    return values[end].tensor


@pytest.mark.parametrize("after_activation", [True, False])
@pytest.mark.parametrize("mode", [contextlib.nullcontext, torch.no_grad])
@pytest.mark.parametrize("seed", range(80))
def test_the_layer_ends_where_the_program_says(seed, mode, after_activation):
    torch.manual_seed(seed)
    program = Program(seed)
    seen = topoloss.observe(program, after_activation=after_activation)
    for _ in range(2):
        x = torch.randn(6, 4)
        with mode():
            program(x)
            activations = seen.activations()
            values, taken = values_of(program, x)
            expected = end_of_layer(values, taken) if after_activation else values[0].tensor
            torch.testing.assert_close(activations["first"], expected)


def test_the_programs_layers_end_after_none_to_many_steps():
    ends = []
    for seed in range(80):
        values, taken = values_of(Program(seed), torch.randn(6, 4))
        end = end_of_layer(values, taken)
        ends.append(next(k for k, value in enumerate(values) if value.tensor is end))
    assert {0, 1, 2, 3, 4} < set(ends)
