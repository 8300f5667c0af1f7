"""What one of several processes that train a model together finds, of values, errors and bytes."""

import copy
import weakref

import torch
import torch.distributed as dist
from distributed.models import OF_WEIGHTS, PENALTIES, SAMPLES, STEPS, data, gradients, model
from processes import bytes_sent, message
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import topoloss


def main(rank, size):
    torch.manual_seed(rank)
    world = dist.group.WORLD

    def own(x):
        return x.tensor_split(size)[rank]

    def step(net, penalty, x):
        """Backward of the mean over all samples, once DDP or FSDP has averaged, and the penalty."""
        loss = size * net(own(x)).square().sum() / SAMPLES
        value = penalty()
        (loss + value).backward()
        return value.detach()

    def sharded():
        net = model()
        for part in (net[0], net[2], net):
            fully_shard(part)
        return net

    def trained(net, name):
        regulariser, options = PENALTIES[name]
        options = dict(options)
        if "sampler" in options:  # rank 0 draws for all
            fraction = options.pop("fraction")
            options["sampler"] = topoloss.sampler("random", fraction=fraction, seed=rank)
        penalty = topoloss.attach(net, regulariser, group=world, **options)
        return step(net, penalty, data()), gradients(net)

    def accumulated():
        net = DistributedDataParallel(model())
        penalty = topoloss.attach(net, "t1", group=world)
        with net.no_sync():
            step(net, penalty, data(0))
        step(net, penalty, data(1))
        return gradients(net)

    def of_weights(net, name):
        penalty = topoloss.attach(net, OF_WEIGHTS[name]())
        return step(net, penalty, data()), gradients(net)

    found = {
        "ddp": {name: trained(DistributedDataParallel(model()), name) for name in PENALTIES},
        "fsdp": {name: trained(sharded(), name) for name in PENALTIES},
        "accumulated": accumulated(),
        "weights": {name: of_weights(sharded(), name) for name in OF_WEIGHTS},
    }

    alone = topoloss.attach(net := model(), "t1")
    net(own(data()))
    found["alone"] = (alone(), topoloss.regulariser("t1")(side_by_side(alone)))
    found["descriptions"] = [str(alone.describe())]

    shared = topoloss.pipeline("correlation", topoloss.persistence("mst", group=world), "t1")
    penalty = topoloss.attach(net := model(), shared, group=world)
    net(own(data()))
    found["shared out"] = penalty().detach()
    penalty = topoloss.attach(net := model(), "t1", group=world)
    net(own(data()))
    found["t1"] = penalty().detach()
    if rank == 0:  # nothing is sent again, so that one process may ask by itself
        assert penalty.neurons.keys() == {"0", "2.0", "3"}
        assert len(penalty.locate(torch.tensor([[0, 16]]))) == 1
        assert torch.equal(penalty(), found["t1"])
        assert len(penalty.diagrams()[0].deaths) == 16
        found["samples"] = {name: len(x) for name, x in penalty.activations().items()}
    found["descriptions"].append(str(penalty.describe()))
    net, penalty = copy.deepcopy((net, penalty))
    net(own(data(1)))
    found["copied"] = penalty().detach()

    single = topoloss.attach(net := model(dtype=torch.bfloat16), "t1", group=world)
    net(data()[rank : rank + 1].bfloat16())  # a sample of each process
    found["half precision"] = single().detach()

    few = topoloss.attach(net := model(), "t1", group=world)
    net(own(data()[:3]))  # of four processes one has none
    found["few samples"] = few().detach()

    penalty = topoloss.attach(net := model(), "t1", group=world)
    net(own(data()))
    found["bytes"] = bytes_sent(penalty)
    found["steps"], found["bytes of steps"] = steps(rank, world, own)
    found["freed"] = freed(world, own)
    found["errors"] = errors(rank, world, own)
    net(own(data()))
    found["after errors"] = penalty().detach()
    return found


def steps(rank, world, own):
    """Values, and bytes sent, where batches change their size and a process fails in between."""
    penalty = topoloss.attach(net := model(), "t1", group=world)
    values, sent = [], []

    def valued():
        values.append(penalty().detach())

    def failed():
        values.append(message(penalty))

    for step, samples in enumerate(STEPS):
        x = own(data(step)[:samples])
        penalty.paused = samples == 0 and rank == 1  # one process lets this pass go by
        net(x if samples else own(data(step)))
        sent.append(bytes_sent(valued if samples else failed))
    return values, sent


def freed(world, own):
    """Whether what was gathered is there after the penalty, and within the next pass."""
    penalty = topoloss.attach(net := model(), "t1", group=world)
    net(own(data()))
    penalty()
    gathered = weakref.ref(penalty.activations()["0"])
    there = [gathered() is not None]
    net[0].register_forward_pre_hook(lambda *_: there.append(gathered() is not None))
    net(own(data()))
    return there


def side_by_side(penalty):
    return torch.cat(list(penalty.activations().values()), 1)


def errors(rank, world, own):
    wider = topoloss.attach(net := model(hidden=8 + (rank == 1)), "t1", group=world)
    net(own(data()))
    other = topoloss.attach(net := model(), "t1", layers=["0"] if rank else ["3"], group=world)
    net(own(data()))
    not_run = topoloss.attach(net := model(), "t1", group=world)
    if rank != 1:
        net(own(data()))
    bad = topoloss.attach(net := model(), "t1", group=world)
    net(own(data()) / (rank != 1))
    half = topoloss.attach(net := model(dtype=torch.float32 if rank == 1 else torch.float64),
                           "t1", group=world)  # fmt: skip
    net(own(data()).to(net[0].weight.dtype))
    return {
        "neurons": message(wider),
        "layers": message(other),
        "dtype": message(half),
        "not run": message(not_run),
        "not finite": message(bad),
    }
