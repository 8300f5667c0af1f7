"""Everything that ships passes the kit that third parties are given."""

import pytest

import topoloss
from topoloss.testing import parametrize_with_checks
from topoloss.testing.cases import cases

SHIPPED = [info.name for info in topoloss.installed_plugins()]


@parametrize_with_checks("plugin", *SHIPPED)
def test_shipped_plugins_conform(check):
    check()


@parametrize_with_checks("persistence", topoloss.persistence("mst", backend="torch"))
@parametrize_with_checks("filtration", topoloss.filtration("correlation", constant="drop"))
@parametrize_with_checks("loss", topoloss.loss("t2", alpha=0.0, beta=2.0))
@parametrize_with_checks("loss", topoloss.loss("total-persistence", power=2.5))
@parametrize_with_checks("loss", topoloss.loss("total-persistence", power=1.2))
@parametrize_with_checks("regulariser", topoloss.regulariser("t1", on_nonfinite="skip"))
def test_options_conform(check):
    check()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("filtration", "loss"),
    [
        *(("euclidean", loss) for loss in ("t1", "total-persistence", "wasserstein", "bottleneck")),
        ("signed-correlation", "bottleneck"),
    ],
)
def test_the_gradient_of_a_piece_that_few_neighbours_have_is_right(filtration, loss):
    (ties,) = (c for c in cases("regulariser", f"{filtration}/mst/{loss}") if c.rule == "ties")
    ties()


def test_a_graph_that_is_cut_off_at_a_threshold_has_fewer_deaths():
    name = "euclidean/ripser[threshold=1.0]/t1"
    (diagrams,) = (c for c in cases("regulariser", name) if c.rule == "diagrams")
    diagrams()


def test_an_engine_of_dimension_2_is_tried_on_fewer_vertices():
    (sizes,) = (c for c in cases("persistence", "ripser[dim=2]") if c.rule == "sizes")
    sizes()
