"""What one of several processes that share the search for a tree finds."""

import copy
import pickle

import torch
import torch.distributed as dist
from distributed.features import ORDERS, SIZES, gaussian, whole_numbers
from processes import bytes_sent, message

import topoloss


def main(rank, size):
    world = dist.group.WORLD
    mst = topoloss.persistence("mst", group=world)

    def tree(v, order="dot_descending", engine=mst):
        return engine.from_features(v, order)[0].death_edges

    found = {
        "trees": {(n, order): tree(whole_numbers(n), order) for n in SIZES for order in ORDERS},
        "a copy": tree(whole_numbers(513), engine=copy.deepcopy(mst)),
        "half precision": tree(whole_numbers(513).bfloat16()),
        "not contiguous": tree(whole_numbers(513).T.contiguous().T),
        "value": value_and_gradient(mst),
        "batch": topoloss.pipeline("correlation", mst, "t1")(gaussian(10, 12).reshape(2, 5, 12)),
        "bytes": bytes_sent(lambda: tree(whole_numbers(1601))),
    }
    found |= of_some_processes(rank, size)
    found["errors"] = {
        "pickle": message(pickle.dumps, mst),
        "matrix": message(mst.from_matrix, torch.zeros(3, 3)),
        "edges": message(mst.from_edges, 2, torch.tensor([[0, 1]]), torch.zeros(1)),
        "vertices": message(tree, torch.ones(3 + (rank == 1), 2)),
        "one vertex": message(tree, torch.ones(1 + (rank == 1), 2)),
        "features": message(tree, torch.ones(3, 2 + (rank == 1))),
        "dtype": message(tree, torch.ones(3, 2).to(torch.float64 if rank == 1 else torch.float32)),
        "order": message(tree, torch.ones(3, 2), ORDERS[rank == 1]),
        "numbers": message(tree, torch.full((3, 2), float(rank == 1))),
        "no features": message(tree, torch.ones(3, 0)),
        "one fails": message(topoloss.Processes(world).all_gather, lambda: 1 / (rank != 1)),
        "the first fails": message(topoloss.Processes(world).broadcast, lambda: 1 / rank),
    }
    # All can go on after any of these errors.
    found["after errors"] = tree(whole_numbers(513))
    return found


def value_and_gradient(mst):
    x = gaussian(40, 600).requires_grad_()
    value = topoloss.pipeline("correlation", mst, "t1")(x)
    value.backward()
    return value.detach(), x.grad


def of_some_processes(rank, size):
    """The first and the last process work together, on what the others know nothing of."""
    group = dist.new_group([0, size - 1])
    if rank not in (0, size - 1):
        return {"outside": message(topoloss.Processes, group)}
    engine = topoloss.persistence("mst", group=group)
    return {"of some": engine.from_features(whole_numbers(1601), "dot_descending")[0].death_edges}
