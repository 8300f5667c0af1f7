"""A group of one process: what every process does for itself, without the time of starting some."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

import topoloss
from topoloss.errors import OptionError


@pytest.fixture(scope="module", autouse=True)
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def test_it_is_the_first_of_one(group):
    processes = topoloss.Processes(group)
    assert (processes.rank, processes.size) == (0, 1)
    assert repr(processes) == "Processes(rank 0 of 1)"


def test_what_it_finds_is_what_all_found(group):
    processes = topoloss.Processes(group)
    assert processes.all_gather(lambda: {"a": 1}) == [{"a": 1}]
    assert processes.broadcast(lambda: {"a": 1}) == {"a": 1}


@pytest.mark.parametrize("call", ["all_gather", "broadcast"])
def test_its_own_error_is_raised_as_it_is(group, call):
    own = ZeroDivisionError("its own")

    def work():
        raise own

    with pytest.raises(ZeroDivisionError) as raised:
        getattr(topoloss.Processes(group), call)(work)
    assert raised.value is own


@pytest.mark.parametrize(
    "given", ["WORLD", 1, dist.ProcessGroup, dist.GroupMember.NON_GROUP_MEMBER]
)
def test_what_is_no_group_of_this_process_is_an_error(given):
    with pytest.raises(OptionError, match="that this process belongs to"):
        topoloss.Processes(given)


def test_an_attachment_finds_what_it_finds_without_a_group(group):
    model = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 2))
    x = torch.randn(9, 3)
    found = []
    for options in ({}, {"group": group}):
        with topoloss.attach(model, "t1", **options) as penalty:
            values = []
            for _ in range(4):  # from the third pass on no shapes are sent
                model(x)
                values.append(penalty())
            values[-1].backward()
            found.append((torch.stack(values).detach(), model[0].weight.grad.clone()))
            model.zero_grad()
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


def test_a_tree_is_that_without_a_group(group):
    v = torch.randn(60, 4)
    of_one, alone = (
        topoloss.persistence("mst", **options).from_features(v, "sq_dist_ascending")[0].death_edges
        for options in ({"group": group}, {})
    )
    assert torch.equal(of_one, alone)
