"""An attached model under ``torch.compile``.

In an interpreter of its own, as the checked signatures of this suite are not made for
compilers; once for all cases, as starting one takes seconds.
"""

import json
import re
import subprocess
import sys

import pytest

COMPILED = """
import contextlib, copy, json, sys
import torch, topoloss
from torch import nn
import torch.nn.functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.last(self.second(F.relu(self.first(x))).tanh_())

def gradients(value, model):
    return torch.autograd.grad(value, list(model.parameters()))

def by_hand(model, x):
    first = F.relu(model.first(x))
    second = torch.tanh(model.second(first))
    return model.last(second), topoloss.regulariser("t1")(
        torch.cat([first, second, model.last(second)], 1)
    )

def agrees(compiled, model, penalty):
    for _ in range(3):
        x = torch.randn(16, 4)
        out = compiled(x)
        value = penalty()
        expected, expected_value = by_hand(copy.deepcopy(model), x)
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(value, expected_value)
        twin = copy.deepcopy(model)
        expected, expected_value = by_hand(twin, x)
        torch.testing.assert_close(
            gradients(out.mean() + value, model), gradients(expected.mean() + expected_value, twin)
        )

def compile_after(warm=True, how="function", **options):
    model = Net()
    penalty = topoloss.attach(model, **options)
    if warm:
        model(torch.randn(16, 4))
    if how == "function":
        compiled = torch.compile(model, backend="aot_eager")
    else:
        model.compile(backend="aot_eager")
        compiled = model
    return compiled, model, penalty

def refuses(model):
    try:
        topoloss.attach(model)
    except topoloss.AttachmentError as error:
        assert "compile" in str(error)
    else:
        raise AssertionError("attached to a compiled model")

def equals_eager():
    agrees(*compile_after())

def equals_eager_in_place():
    agrees(*compile_after(how="method"))

def equals_eager_with_eval_pass():
    agrees(*compile_after(eval_pass=True))

def without_a_first_pass_equals_eager_or_refuses():
    with contextlib.suppress(topoloss.AttachmentError):
        agrees(*compile_after(warm=False))
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
        topoloss.attach(model)
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

def step_may_be_compiled_with_the_penalty():
    _, model, penalty = compile_after()
    step = torch.compile(lambda x: model(x).mean() + penalty(), backend="aot_eager")
    for _ in range(2):
        x = torch.randn(16, 4)
        out, value = by_hand(copy.deepcopy(model), x)
        torch.testing.assert_close(step(x), out.mean() + value)

def attaching_to_a_compiled_model_is_refused():
    refuses(torch.compile(Net()))
    model = Net()
    model.compile()
    refuses(model)

def attaching_to_a_compiled_part_is_refused():
    model = Net()
    model.second = torch.compile(model.second)
    refuses(model)
    model = Net()
    model.second.compile()
    refuses(model)

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
CASES = re.findall(r"^def (\w+)\(\):$", COMPILED, re.MULTILINE)


@pytest.fixture(scope="module")
def compiled():
    run = subprocess.run(
        [sys.executable, "-c", COMPILED, *CASES], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", CASES)
def test_compilation(compiled, case):
    assert compiled[case] == "passed"
