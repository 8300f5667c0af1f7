"""One process of a group, which answers everything at once: processes take seconds to start."""

import os

import torch
from distributed import accelerated, attached, rewired, trees
from distributed.models import data, model
from processes import message, run
from torch import distributed as dist

import topoloss


def main(rank, size):
    found = {"trees": trees.main(rank, size), "attached": attached.main(rank, size)}
    found["accelerated"] = accelerated.main(rank, size)
    found["rewired"] = rewired.main(rank, size)
    penalty = topoloss.attach(net := model(), "t1", group=dist.group.WORLD)
    mst = topoloss.persistence("mst", group=dist.group.WORLD)
    net(data())
    if rank == 1:
        os._exit(0)
    found["one has ended"] = {
        "tree": message(mst.from_features, torch.ones(3, 2), "dot_descending"),
        "penalty": message(penalty),
    }
    return found


if __name__ == "__main__":
    run(main)
