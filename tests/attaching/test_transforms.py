"""An attached model under torch's transforms, tracers and other tools."""

import copy

import pytest
import torch
import torch.nn.functional as F
from attaching.helpers import (
    Between,
    Net,
    assert_layers,
    batch,
    by_hand,
    penalty_by_hand,
    with_between,
)
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import topoloss


def plain():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def t1_of_plain(model, x):
    h = torch.tanh(model[0](x))
    return topoloss.regulariser("t1")(torch.cat([h, model[2](h)], 1))


def per_sample_gradients(model, x):
    def loss(parameters, row):
        return torch.func.functional_call(model, parameters, (row,)).square().sum()

    return torch.vmap(torch.func.grad(loss), (None, 0))(dict(model.named_parameters()), x)


TOOLS = {
    "vmap": lambda model, x: torch.vmap(model)(x),
    "grad": lambda model, x: torch.func.grad(lambda x: model(x).sum())(x),
    "gradients of each sample": per_sample_gradients,
    "jacrev": lambda model, x: torch.func.jacrev(model)(x),
    "jacfwd": lambda model, x: torch.func.jacfwd(model)(x),
    "hessian": lambda model, x: torch.func.hessian(lambda x: model(x).sum())(x[:1]),
    "export": lambda model, x: torch.export.export(model, (x,)).module()(x),
    "fx": lambda model, x: torch.fx.symbolic_trace(model)(x),
    "flops": lambda model, x: flops(model, x),
}


def flops(model, x):
    with FlopCounterMode(display=False) as counter:
        model(x)
    return torch.tensor(counter.get_total_flops())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of its jacfwd
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("use", TOOLS.values(), ids=TOOLS)
def test_a_tool_works_on_an_attached_model_as_on_any(use, warm):
    model, x = plain(), batch(4)
    expected = use(copy.deepcopy(model), x)
    penalty = topoloss.attach(model)
    if warm:
        model(x)
    torch.testing.assert_close(use(model, x), expected)
    # And the next pass is valued as ever.
    model(x)
    torch.testing.assert_close(penalty(), t1_of_plain(model, x))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_attached_model_may_be_traced():
    model, x = plain(), batch(4)
    penalty = topoloss.attach(model)
    model(x)
    torch.testing.assert_close(torch.jit.trace(model, (x,))(x), model(x))
    torch.testing.assert_close(penalty(), t1_of_plain(model, x))


CIRCUMSTANCES = {
    "vmap": lambda model, x: torch.vmap(model)(x),
    "grad": lambda model, x: torch.func.grad(lambda x: model(x).sum())(x),
    "no_grad": lambda model, x: torch.no_grad()(model)(x),
    "inference": lambda model, x: torch.inference_mode()(model)(x),
    "autocast": lambda model, x: torch.autocast("cpu", torch.bfloat16)(model)(x),
    "meta": lambda model, x: model.to("meta")(x.to("meta")),
    "double": lambda model, x: model.double()(x.double()),
    "evaluation": lambda model, x: model.eval()(x),
    "empty": lambda model, x: model(x[:0]),
    "frozen": lambda model, x: model.requires_grad_(False)(x),
}


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("circumstance", CIRCUMSTANCES)
def test_what_was_learnt_of_a_function_elsewhere_holds_here(circumstance, inplace):
    """A slope of its own makes sure that the function was not met before."""
    slope = 0.01 * (1 + list(CIRCUMSTANCES).index(circumstance)) + (0.005 if inplace else 0)
    model, x = Between(lambda h: F.leaky_relu(h, slope, inplace)), batch(4)
    elsewhere = copy.deepcopy(model)
    with topoloss.observe(elsewhere):
        CIRCUMSTANCES[circumstance](elsewhere, x)
    for _ in range(2):
        with topoloss.observe(model) as seen:
            model(x)
            assert_layers(seen, with_between(model, x))


def test_saved_tensors_may_be_packed():
    model, x = Net(), batch(4, samples=16)
    penalty = topoloss.attach(model)
    with torch.autograd.graph.save_on_cpu():
        model(x)
        value = penalty()
    value.backward()
    twin = copy.deepcopy(model)
    twin.zero_grad()
    penalty_by_hand(twin, x).backward()
    torch.testing.assert_close(
        [p.grad for p in model.parameters()], [p.grad for p in twin.parameters()]
    )


def test_a_default_device_and_dtype_leave_the_observation_alone():
    model, x = Net(), batch(4)
    seen = topoloss.observe(model)
    with torch.device("cpu"):
        model(x)
        assert_layers(seen, by_hand(model, x))
    assert torch.overrides._get_current_function_mode_stack() == []
