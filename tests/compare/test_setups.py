import copy
import importlib

import pytest
import torch

import topoloss
from topoloss.compare.data import load, split
from topoloss.compare.networks import build
from topoloss.compare.records import Arm, Protocol, Setup
from topoloss.compare.setups import check, run

OWN = """
import torch
samples, seed, width = 30, 0, 4
def data():
    x = torch.rand(samples, 3, generator=torch.Generator().manual_seed(seed))
    return x, torch.arange(samples) % 2
def network():
    return torch.nn.Linear(3, width)
shared_network = network()
def shared():
    return shared_network
def unseeded():
    return torch.rand(samples, 3), torch.arange(samples) % 2
"""


def own_setup(own_module, model="network", data="data"):
    name = own_module(OWN)
    return Setup(f"{name}:{model}", f"{name}:{data}", Protocol(max_epochs=1))


def change(monkeypatch, setup, values):
    module = importlib.import_module(setup.model.partition(":")[0])
    for name, value in values.items():
        monkeypatch.setattr(module, name, value)


@pytest.mark.parametrize("values", [{"seed": 1}, {"width": 5}])
def test_the_digest_tells_changed_data_and_networks(own_module, monkeypatch, values):
    setup = own_setup(own_module)
    before = check(setup)
    assert check(setup) == before
    change(monkeypatch, setup, values)
    assert check(setup) != before


@pytest.mark.parametrize("functions", [{"data": "unseeded"}, {"model": "shared"}])
def test_data_and_networks_that_are_not_made_anew_alike_are_refused(own_module, functions):
    with pytest.raises(topoloss.InputError, match="not the same when they are made again"):
        check(own_setup(own_module, **functions))


@pytest.mark.parametrize("samples", [427, 5])
def test_a_batch_of_one_sample_is_told_before_any_run(own_module, monkeypatch, samples):
    """427 are split into 257, 85 and 85; the last of 257 in batches of 256 is alone."""
    setup = own_setup(own_module)
    change(monkeypatch, setup, {"samples": samples})
    with pytest.raises(topoloss.InputError, match="the last would hold one sample"):
        check(setup)


def test_a_device_that_is_not_there_is_told():
    with pytest.raises(topoloss.OptionError, match="the device 'tpu9' cannot be used here"):
        check(Setup(), device="tpu9")


ONE_EPOCH = Setup("net0", "digits", Protocol(max_epochs=1))


def test_a_run_leaves_the_random_state_as_found():
    before = torch.get_rng_state()
    run(ONE_EPOCH, Arm("l2", 1e-4), seed=0)
    assert torch.equal(torch.get_rng_state(), before)


WINE = Setup("net2", "wine", Protocol(max_epochs=1, batch_size=32))


def start_of_a_run(arm, seed):
    """The weights of the untrained network, the inputs for validation, and the first batch."""
    seen = []

    def watch(epoch, model, inputs):
        if epoch.number == 0:
            seen.extend((copy.deepcopy(model.state_dict()), inputs))
            model.register_forward_pre_hook(lambda m, args: seen.append(args[0]))

    run(WINE, arm, seed, watch=watch)
    return seen[:3]


@pytest.mark.parametrize("arm", [Arm("none", 0.0), Arm("l2", 1e-4)], ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_seed_decides_the_initialisation_the_split_and_the_order_of_batches(arm, seed):
    weights, validation, batch = start_of_a_run(arm, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.testing.assert_close(weights, build("net2", load("wine")).state_dict())
    parts = split(load("wine"), seed)
    assert torch.equal(validation, parts.validation.x)
    order = torch.randperm(len(parts.train.x), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(batch, parts.train.x[order[:32]])
