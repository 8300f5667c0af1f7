"""An attached model under ``torch.compile``.

In an interpreter of its own, as the checked signatures of this suite are not made for
compilers; one for many cases, as starting one takes seconds.
"""

import json
import re
import subprocess
import sys

import pytest

COMPILED = """
import copy, json, sys, warnings
import torch, topoloss
from torch import nn
import torch.nn.functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.last(self.second(F.relu(self.first(x))).tanh_())

def net_by_hand(model, x):
    first = F.relu(F.linear(x, model.first.weight, model.first.bias))
    second = torch.tanh(F.linear(first, model.second.weight, model.second.bias))
    return [first, second, F.linear(second, model.last.weight, model.last.bias)]

class Block(nn.Module):
    # Its activation is a module, perhaps in place, or a function.
    def __init__(self, activation):
        super().__init__()
        self.fc, self.act = nn.Linear(8, 8), activation

    def forward(self, x):
        return self.act(self.fc(x))

def block_by_hand(block, x):
    return block.act(F.linear(x, block.fc.weight, block.fc.bias))

def gradients(value, model):
    return torch.autograd.grad(value, list(model.parameters()))

def value_by_hand(layers):
    return topoloss.regulariser("t1")(torch.cat(layers, 1))

def agrees(compiled, model, penalty, by_hand=net_by_hand, features=4):
    for samples in (16, 16, 9, 16):
        x = torch.randn(samples, features)
        out, value = compiled(x), penalty()
        layers = by_hand(model, x)
        expected = value_by_hand(layers)
        torch.testing.assert_close(out, layers[-1])
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(
            gradients(out.mean() + value, model), gradients(layers[-1].mean() + expected, model)
        )

def compile_after(model=None, x=None, how="function", backend="aot_eager", warm=True, **options):
    model = Net() if model is None else model
    penalty = topoloss.attach(model, **options)
    if warm:
        model(torch.randn(16, 4) if x is None else x)
    if how == "function":
        compiled = torch.compile(model, backend=backend)
    else:
        model.compile(backend=backend)
        compiled = model
    return compiled, model, penalty

def error_of(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except topoloss.AttachmentError as error:
        return str(error)
    raise AssertionError("no AttachmentError was raised")

def equals_eager_with_aot_eager():  # slow
    agrees(*compile_after())

def equals_eager_with_eager():  # slow
    agrees(*compile_after(backend="eager"))

def equals_eager_in_place():  # slow
    agrees(*compile_after(how="method"))

def equals_eager_with_eval_pass():  # slow
    agrees(*compile_after(eval_pass=True))

def ten_blocks(activation):
    for backend in ("aot_eager", "eager"):
        torch._dynamo.reset()
        model = nn.Sequential(*(Block(activation()) for _ in range(10)))

        def by_hand(model, x):
            layers = []
            for block in model:
                x = block_by_hand(block, x)
                layers.append(x)
            return layers

        made = compile_after(model, torch.randn(16, 8), backend=backend)
        agrees(*made, by_hand, features=8)
        assert list(made[2].activations()) == [f"{k}.fc" for k in range(10)]

def ten_blocks_of_activation_modules():  # slow
    ten_blocks(nn.GELU)

def ten_blocks_of_activations_in_place():  # slow
    ten_blocks(lambda: nn.ReLU(inplace=True))

def ten_blocks_of_functions():  # slow
    ten_blocks(lambda: F.silu)

def ten_blocks_of_formulas():  # slow
    ten_blocks(lambda: lambda h: h * torch.sigmoid(1.702 * h))

def norms_and_dropout_equal_eager():  # slow
    def make():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(4, 8), nn.LayerNorm(8), nn.Dropout(0.0), nn.ReLU(), nn.Linear(8, 3)
        )

    def by_hand(model, x):
        h = F.relu(F.layer_norm(F.linear(x, model[0].weight, model[0].bias), (8,),
                                model[1].weight, model[1].bias))
        return [h, F.linear(h, model[4].weight, model[4].bias)]

    for training in (True, False):
        torch._dynamo.reset()
        agrees(*compile_after(make().train(training)), by_hand)

def training_after_validation_equals_eager():  # slow
    model = Net()
    penalty = topoloss.attach(model)
    model.eval()
    with torch.no_grad():
        model(torch.randn(16, 4))
    model.train()
    model(torch.randn(16, 4))
    agrees(torch.compile(model, backend="aot_eager"), model, penalty)

def an_eager_pass_may_come_between():
    compiled, model, penalty = compile_after()
    for _ in range(2):
        for run in (compiled, model, compiled):
            x = torch.randn(16, 4)
            run(x)
            torch.testing.assert_close(penalty(), value_by_hand(net_by_hand(model, x)))

def without_a_first_pass_is_an_error_of_the_penalty():
    for how in ("function", "method"):
        torch._dynamo.reset()
        compiled, model, penalty = compile_after(how=how, warm=False)
        x = torch.randn(16, 4)
        for _ in range(2):
            torch.testing.assert_close(compiled(x), net_by_hand(model, x)[-1])
            for ask in (penalty, penalty.diagrams, penalty.activations):
                message = error_of(ask)
                assert "before torch.compile" in message, message
        assert torch.overrides._get_current_function_mode_stack() == []

def leaves_the_output_alone():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            return self.fc(x).sigmoid_()

    for warm in (True, False):
        model, x = InPlace(), torch.randn(16, 4)
        expected = model(x)
        penalty = topoloss.attach(model)
        if warm:
            model(x)
        compiled = torch.compile(model, backend="aot_eager")
        for _ in range(2):
            torch.testing.assert_close(compiled(x), expected)

def is_compiled_in_one_graph():
    model = Net()
    penalty = topoloss.attach(model)
    model(torch.randn(16, 4))
    agrees(torch.compile(model, backend="aot_eager", fullgraph=True), model, penalty)

def is_not_compiled_for_every_pass():
    # Of torch's own modules every integer attribute that is met is taken for a constant.
    for model in (Net(), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))):
        penalty = topoloss.attach(model)
        compiled, x = torch.compile(model, backend="aot_eager"), torch.randn(16, 4)
        model(x)
        for _ in range(3):
            compiled(x)
            penalty()
        with torch.compiler.set_stance("fail_on_recompile"):
            for _ in range(3):
                compiled(x)
                penalty()

def goes_on_after_removal():
    compiled, model, penalty = compile_after()
    x = torch.randn(16, 4)
    compiled(x)
    penalty.remove()
    torch.testing.assert_close(compiled(x), net_by_hand(model, x)[-1])
    assert "was removed" in error_of(penalty)

def a_step_of_model_and_loss_may_be_compiled():  # slow
    _, model, penalty = compile_after()
    step = torch.compile(lambda x: model(x).square().mean(), backend="aot_eager")
    for _ in range(3):
        x = torch.randn(16, 4)
        loss = step(x) + penalty()
        layers = net_by_hand(model, x)
        expected = layers[-1].square().mean() + value_by_hand(layers)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(gradients(loss, model), gradients(expected, model))

class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(4, 8)

    def forward(self, x, mask):
        return torch.relu(self.hidden(x))

def a_mask_leaves_out_tokens_of_a_compiled_pass():
    model = Tokens()
    penalty = topoloss.attach(model, units="channel", mask="mask")
    compiled = torch.compile(model, backend="eager")
    for run, tokens in ((model, 3), (compiled, 5), (compiled, 2)):
        x, mask = torch.randn(4, 6, 4), torch.ones(4, 6, dtype=torch.bool)
        mask[:, tokens:] = False
        out = run(x, mask)
        torch.testing.assert_close(penalty(), topoloss.regulariser("t1")(out[mask]))

def a_mask_of_the_wrong_shape_is_an_error_of_a_compiled_pass():
    model = Tokens()
    penalty = topoloss.attach(model, units="channel", mask="mask")
    model(torch.randn(4, 6, 4), torch.ones(4, 6))
    torch.compile(model, backend="eager")(torch.randn(4, 6, 4), torch.ones(4))
    assert "mask" in error_of(penalty)

def the_input_of_a_compiled_pass_is_a_layer_of_regularisers_that_ask_for_it():  # slow
    for name in ("signature", "similarity-matching"):
        torch._dynamo.reset()
        model = Net()
        penalty = topoloss.attach(model, name, layers=["last"])
        compiled = torch.compile(model, backend="eager")
        for run in (model, compiled, compiled):
            x = torch.randn(9, 4)
            layers = {"(input)": x, "last": run(x)}
            expected = topoloss.regulariser(name).of_layers(layers)
            torch.testing.assert_close(penalty(), expected)

def an_engine_that_uses_numpy_is_not_compiled():  # slow
    for threshold in (None, 0.9):
        engine = topoloss.persistence("ripser", threshold=threshold)
        regulariser = topoloss.pipeline("correlation", engine, "total-persistence")
        compiled = torch.compile(lambda x: 2 * regulariser(x.tanh()), backend="eager")
        x = torch.randn(12, 9, requires_grad=True)
        value, expected = compiled(x), 2 * regulariser(x.tanh())
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(
            torch.autograd.grad(value, x), torch.autograd.grad(expected, x)
        )

def a_look_at_a_compiled_model_leaves_its_latest_pass():  # slow
    model = Net()
    penalty, beside = topoloss.attach(model), topoloss.observe(model)
    model(torch.randn(6, 4))
    model.compile(backend="eager")
    model(torch.randn(6, 4))
    value = penalty()
    for each in (beside, penalty):
        assert {row[1][0] for row in each.describe(torch.randn(9, 4)).rows} == {9}
        torch.testing.assert_close(penalty(), value)
        assert {len(h) for h in penalty.activations().values()} == {6}

def the_eval_pass_of_a_compiled_pass_under_autocast_is_cast_alike():  # slow
    model = Net().float()
    seen = topoloss.observe(model, eval_pass=True)
    model.compile(backend="eager")
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(6, 4, dtype=torch.float32))
    assert {h.dtype for h in seen.activations().values()} == {torch.bfloat16}

def attaching_to_a_compiled_model_is_refused():
    for make in (topoloss.attach, topoloss.observe):
        assert "compile" in error_of(make, torch.compile(Net()))
        model = Net()
        model.compile()
        assert "compile" in error_of(make, model)

def attaching_to_a_compiled_part_is_refused():
    for make in (topoloss.attach, topoloss.observe):
        model = Net()
        model.second = torch.compile(model.second)
        assert "compile" in error_of(make, model)
        model = Net()
        model.second.compile()
        assert "compile" in error_of(make, model)

class WithCompiledFunction(nn.Module):
    # The model is not compiled, but a function that it calls is.
    def __init__(self, function, backend):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.function = torch.compile(function, backend=backend)

    def forward(self, x):
        return self.last(self.function(self.first(x)))

def a_compiled_function_within_a_model_is_followed():  # slow
    function = lambda h: h * torch.sigmoid(1.702 * h)
    by_hand = lambda model, x: [(h := function(model.first(x))), model.last(h)]
    for backend in ("aot_eager", "eager"):
        torch._dynamo.reset()
        model = WithCompiledFunction(function, backend)
        agrees(model, model, topoloss.attach(model), by_hand)

# In single precision gradients through ten blocks differ by more than what is asked for.
torch.set_default_dtype(torch.float64)
warnings.simplefilter("error", topoloss.AttachmentWarning)
results = {}
for case in sys.argv[1:]:
    torch.manual_seed(0)
    torch._dynamo.reset()
    try:
        globals()[case]()
        results[case] = "passed"
    except Exception as error:
        results[case] = f"{type(error).__name__}: {error}"
print(json.dumps(results))
"""
QUICK = re.findall(r"^def (\w+)\(\):$", COMPILED, re.MULTILINE)
SLOW = re.findall(r"^def (\w+)\(\):  # slow$", COMPILED, re.MULTILINE)


@pytest.mark.parametrize(
    "cases", [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)], ids=["quick", "slow"]
)
def test_compilation(cases):
    assert cases
    run = subprocess.run(
        [sys.executable, "-c", COMPILED, *cases], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == dict.fromkeys(cases, "passed")
