"""Processes of a group find together what one process finds that has all samples."""

import warnings
from functools import cache

import pytest
import torch
from distributed.features import ORDERS, SIZES, gaussian, whole_numbers
from distributed.models import OF_WEIGHTS, PENALTIES, SAMPLES, STEPS, data, gradients, model
from processes import findings
from torch import nn

import topoloss


# One test, as processes take seconds to start.
@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_find_together_what_one_would(size, tmp_path):
    found = findings("distributed/run.py", size, tmp_path)
    assert found.pop(1) is None  # it ended before it could leave anything
    trees, attached = ([one[name] for one in found] for name in ("trees", "attached"))
    check_trees(trees, size)
    check_bytes_of_trees(trees, size)
    check_errors_of_trees(trees, size)
    check_trained(attached)
    check_attached(attached, size)
    check_bytes_of_activations(attached, size)
    check_steps(attached, size)
    check_errors_of_attached(attached)
    check_accelerated([one["accelerated"] for one in found])
    check_rewired([one["rewired"] for one in found])
    for one in found:
        for told in one["one has ended"].values():
            assert "got no answer from another one" in told


# The search for a tree


@cache
def tree(n, order="dot_descending"):
    """By Kruskal's algorithm, in one process."""
    reference = topoloss.persistence("mst", backend="reference")
    return reference.from_features(whole_numbers(n), order)[0].death_edges


def check_trees(found, size):
    for rank, one in enumerate(found):
        for n in SIZES:
            for order in ORDERS:
                assert torch.equal(one["trees"][n, order], tree(n, order)), (rank, n, order)
        for name in ("a copy", "half precision", "not contiguous", "after errors"):
            assert torch.equal(one[name], tree(513)), (rank, name)
    for one in (found[0], found[-1]) if size > 2 else found:
        assert torch.equal(one["of some"], tree(1601))

    x = gaussian(40, 600).requires_grad_()
    value = topoloss.regulariser("t1")(x)
    value.backward()
    batch = topoloss.regulariser("t1")(gaussian(10, 12).reshape(2, 5, 12))
    for one in found:
        torch.testing.assert_close(one["value"], (value.detach(), x.grad))
        torch.testing.assert_close(one["batch"], batch)


def check_bytes_of_trees(found, size):
    """What the docstring says: of a first tree, and of the forest of each process's share."""
    n = 1601
    most = 16 * n * (size - 1) + 16 * n * size.bit_length() + 4000 * size
    assert all(8 * n < one["bytes"] < most for one in found)


def check_errors_of_trees(found, size):
    assert all(one["errors"] == found[0]["errors"] | local(one) for one in found)
    errors = found[0]["errors"]
    expected = {
        "pickle": "cannot be pickled",
        "matrix": "a matrix of all edge values cannot be shared out",
        "edges": "listed edges cannot be shared out",
        "vertices": "rank 1: 4 vertices of 2 features",
        "one vertex": "rank 1: 2 vertices of 2 features",
        "features": "rank 1: 3 vertices of 3 features",
        "dtype": "in torch.float64",
        "order": "rank 1: 3 vertices of 2 features in torch.float32, dot_descending",
        "numbers": "ranks [1] were given other numbers than rank 0",
        "no features": "have no features",
        "one fails": "rank 1: ZeroDivisionError",
        "the first fails": "ZeroDivisionError",
    }
    assert errors.keys() == expected.keys()
    for name, part in expected.items():
        assert part in errors[name], name
    outside = [one["outside"] for one in found if "outside" in one]
    assert len(outside) == (1 if size > 2 else 0)
    assert all("to which this process does not belong" in one for one in outside)


def local(one):
    """Errors that name the process that they are raised in."""
    return {name: one["errors"][name] for name in ("one fails", "the first fails")}


# Penalties of the samples of all processes


def of_one_process(regulariser, batches=1, **options):
    """Value and gradients of one process that has all samples."""
    net = model()
    penalty = topoloss.attach(net, regulariser, **options)
    for batch in range(batches):
        loss = net(data(batch)).square().sum() / SAMPLES
        value = penalty()
        (loss + value).backward()
    return value.detach(), gradients(net)


def check_trained(found):
    for name, (regulariser, options) in PENALTIES.items():
        expected = of_one_process(regulariser, **options)
        for one in found:
            for way in ("ddp", "fsdp"):
                torch.testing.assert_close(
                    one[way][name], expected, msg=lambda text, at=(way, name): f"{at}: {text}"
                )
    for name, regulariser in OF_WEIGHTS.items():
        expected = of_one_process(regulariser())
        for one in found:
            torch.testing.assert_close(one["weights"][name], expected)
    accumulated = of_one_process("t1", batches=2)[1]
    for one in found:
        torch.testing.assert_close(one["accumulated"], accumulated)


def check_attached(found, size):
    t1 = first_value("t1", data())
    for one in found:
        for name in ("t1", "shared out", "after errors"):
            torch.testing.assert_close(one[name], t1)
        torch.testing.assert_close(one["copied"], first_value("t1", data(1)))
        half = first_value("t1", data()[:size].bfloat16())
        torch.testing.assert_close(one["half precision"], half)
        torch.testing.assert_close(one["few samples"], first_value("t1", data()[:3]))
        value, of_own_batch = one["alone"]
        assert value == of_own_batch != t1
        alone, together = one["descriptions"]
        assert "samples: those of this process" in alone.splitlines()
        assert f"samples: those of {size} processes, valued as one batch" in together.splitlines()
    assert set(found[0]["samples"].values()) == {SAMPLES}


def check_steps(found, size):
    for one in found:
        for step, (value, samples) in enumerate(zip(one["steps"], STEPS, strict=True)):
            if samples:
                torch.testing.assert_close(value, first_value("t1", data(step)[:samples]))
            else:
                assert "nothing was recorded of the latest forward pass" in value
        assert one["freed"] == [True, False]
    activations = (size - 1) * -(-SAMPLES // size) * (8 + 6 + 3) * 8
    # Where shapes stay as they are, nothing but the activations and some bytes around them is sent.
    settled = [2, 3, 7, 11]
    for one in found:
        sent = one["bytes of steps"]
        assert all(activations < sent[step] < activations + 600 * (size - 1) for step in settled)
        assert all(sent[step] > sent[3] for step in (0, 1, 4, 5, 6, 8, 9))


def first_value(regulariser, x):
    net = model(dtype=x.dtype)
    penalty = topoloss.attach(net, regulariser)
    net(x)
    return penalty().detach()


def check_bytes_of_activations(found, size):
    """The activations of the largest batch go to each other process, and little else."""
    neurons, bytes_each = 8 + 6 + 3, 8
    activations = (size - 1) * -(-SAMPLES // size) * neurons * bytes_each
    assert all(activations < one["bytes"] < activations + 4000 * size for one in found)


def check_errors_of_attached(found):
    expected = {
        "neurons": "layer '0' has 9 neurons in torch.float64 on rank 1, and 8 in torch.float64",
        "layers": "rank 1 observes the layers ['0'], and rank 0 ['3']",
        "dtype": "layer '0' has 8 neurons in torch.float32 on rank 1, and 8 in torch.float64",
        "not run": "rank 1: AttachmentError: ",
        "not finite": "NonFiniteError: 17 of 17 neurons hold NaN or infinity",
    }
    for one in found:
        assert one["errors"].keys() == expected.keys()
        for name, part in expected.items():
            assert part in one["errors"][name], name


# Rewiring: all processes move the same connections


def check_rewired(found):
    first, *others = found
    for other in others:
        torch.testing.assert_close(other["connected"], first["connected"])
        torch.testing.assert_close(other["weights"], first["weights"], rtol=0, atol=0)
        # Its own samples would have moved other connections.
        assert not torch.equal(other["expected"], first["expected"])
        assert "cannot go on" in other["not finite"]
    assert torch.equal(first["connected"][-1]["0"], first["expected"])
    assert first["not finite"].startswith("NonFiniteError: ")
    for one in found:
        assert all("expected group=torch.distributed.group.WORLD" in told for told in one["alone"])


# Weights that are not there as a whole


class OnMeta(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2, device="meta")


def quantised():
    with warnings.catch_warnings(action="ignore"):  # torch will replace it
        return torch.ao.quantization.quantize_dynamic(
            nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Conv2d(3, 3, 1)), {nn.Linear}
        )


class Packed(nn.Module):
    """As libraries keep weights of 4 bits: integers, of which a kernel makes numbers."""

    def __init__(self, name):
        super().__init__()
        self.register_buffer(name, torch.zeros(3, 4, dtype=torch.uint8))
        self.free = nn.Linear(3, 3)


class Norms(topoloss.Regulariser):
    source = "weights"

    def compute(self, weights):
        return torch.stack([w.square().sum() for w in weights.values()]).sum()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (OnMeta, "'b' is on the meta device"),
        (quantised, "module '0' of type Linear is quantised"),
        (lambda: Packed("qweight"), "module '' of type Packed is quantised"),
        (lambda: Packed("weight"), r"is quantised \(Tensor of torch.uint8\)"),
    ],
    ids=["meta", "quantised by torch", "packed", "integers"],
)
def test_weights_that_are_not_whole_are_refused(made, message):
    penalty = topoloss.attach(made(), Norms())
    with pytest.raises(topoloss.AttachmentError, match=message):
        penalty()


def test_layers_beside_quantised_ones_may_be_chosen():
    net = quantised()
    penalty = topoloss.attach(net, Norms(), layers=["2"])
    torch.testing.assert_close(penalty(), net[2].weight.square().sum())


def test_parameters_on_meta_are_refused():
    penalty = topoloss.attach(OnMeta(), "l2")
    with pytest.raises(topoloss.AttachmentError, match=r"'b.weight' is on the meta device"):
        penalty()


@pytest.mark.parametrize("group", [True, "world", 1], ids=str)
def test_what_is_no_group_is_an_error(group):
    with pytest.raises(topoloss.OptionError, match="expected a group of torch"):
        topoloss.attach(model(), "t1", group=group)
    with pytest.raises(topoloss.OptionError, match="expected a group of torch"):
        topoloss.persistence("mst", group=group)


@pytest.mark.parametrize("backend", ["torch", "triton", "reference"])
def test_a_backend_that_does_not_share_out_is_an_error(backend):
    with pytest.raises(topoloss.OptionError, match="leave backend= out"):
        topoloss.persistence("mst", backend=backend, group=object())


def check_accelerated(found):
    """The parameters are those of a plain loop in one process, on all samples."""
    net = model()
    penalty = topoloss.attach(net, "t1")
    optimiser = torch.optim.SGD(net.parameters(), 0.1)
    for batch in range(3):
        net(data(batch))
        penalty().backward()
        optimiser.step()
        optimiser.zero_grad()
    expected = [p.detach() for p in net.parameters()]
    for one in found:
        for when in ("before", "after"):
            torch.testing.assert_close(one[when], expected)
