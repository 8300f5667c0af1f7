"""What one of several processes that train a rewired model together finds."""

import torch
import torch.distributed as dist
from distributed.models import data, model
from processes import message
from topoloss_rewiring import moved, rewire
from torch.nn.parallel import DistributedDataParallel

# Rewired before the processes know of one another.
early = model()
rewired_early = rewire(early)


def main(rank, size):
    world = dist.group.WORLD
    early(data())
    return {
        "alone": [message(rewire, model()), message(rewired_early.step)],
        **trained(rank, size, world),
        "not finite": not_finite(rank, world),
    }


def trained(rank, size, world):
    """Connections and weights after two epochs, each of which ends in a step."""
    net = model()
    sparse = rewire(net, 0.5, seed=rank, group=world)
    connected = [dict(sparse.connected)]
    replica = DistributedDataParallel(net)
    optimiser = torch.optim.SGD(net.parameters(), 0.1)
    own = data().tensor_split(size)[rank]
    for _ in range(2):
        optimiser.zero_grad()
        replica(own).square().mean().backward()
        optimiser.step()
        with torch.no_grad():
            expected = moved(sparse.connected["0"], net[0].weight, own, net[:2](own), 0.3)
        replica(own)
        sparse.step()
        connected.append(dict(sparse.connected))
    weights = {name: p.detach() for name, p in net.named_parameters()}
    return {"connected": connected, "weights": weights, "expected": expected}


def not_finite(rank, world):
    """What a step says where the first process cannot choose."""
    sparse = rewire(net := model(), group=world)
    net(data() / (rank != 0))
    return message(sparse.step)
