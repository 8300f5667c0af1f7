"""A training that is killed and goes on from its checkpoint ends as one that nobody killed."""

import signal
import subprocess
import sys

import pytest
import torch

TRAINING = """
import os, signal, sys
import torch, topoloss
from torch import nn

torch.set_num_threads(1)

def save(path, **state):
    torch.save(state, path + ".partial")
    os.replace(path + ".partial", path)

def train(path, killed_in=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 3))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    regulariser = topoloss.regulariser("t1", on_nonfinite="skip")
    penalty = topoloss.attach(
        model, regulariser, sampler="random", fraction=0.5, on_small_batch="skip", eval_pass=True
    )
    first = 0
    if os.path.exists(path):
        state = torch.load(path)
        first = state["step"] + 1
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        penalty.load_state_dict(state["penalty"])
        torch.set_rng_state(state["random"])
    for step in range(first, 12):
        samples = 1 if step % 4 == 0 else 16
        x = torch.randn(samples, 4)
        optimiser.zero_grad()
        loss = model(x).square().mean() + penalty()
        if step == killed_in:
            os.kill(os.getpid(), signal.SIGKILL)
        loss.backward()
        optimiser.step()
        save(path, step=step, model=model.state_dict(), optimiser=optimiser.state_dict(),
             penalty=penalty.state_dict(), random=torch.get_rng_state())
    return model, optimiser, penalty

if __name__ == "__main__":
    train(sys.argv[1], killed_in=7)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL there")
def test_a_training_that_was_killed_goes_on_bit_for_bit(tmp_path):
    def finished(name):
        scope = {"__name__": "training"}
        exec(TRAINING, scope)
        _, _, penalty = scope["train"](str(tmp_path / name))
        assert penalty.skipped == 3
        return torch.load(tmp_path / name)

    killed = subprocess.run(
        [sys.executable, "-c", TRAINING, str(tmp_path / "killed.pt")], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert torch.load(tmp_path / "killed.pt")["step"] == 6
    resumed, whole = finished("killed.pt"), finished("whole.pt")
    for part in ("step", "model", "optimiser", "random"):
        torch.testing.assert_close(resumed[part], whole[part], rtol=0, atol=0)
    for part in ("sampler", "regulariser", "skipped"):
        torch.testing.assert_close(resumed["penalty"][part], whole["penalty"][part], rtol=0, atol=0)
