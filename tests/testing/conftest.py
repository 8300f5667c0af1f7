"""One thread: the examples of the kit are small, and threads would only wait for each other."""

import pytest
import torch

# Checks that take many seconds: ripser finds loops, too, among hundreds of vertices.
SLOW = {"test_shipped_plugins_conform[persistence ripser-sizes]"}


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items):
    for item in items:
        if item.name in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # for the processes that tests start
        yield
    torch.set_num_threads(before)
