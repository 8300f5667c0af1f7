"""Losses of points: `total-persistence`, `persistent-entropy` and `beta-connectivity`."""

import math

import pytest
import torch
from persim.persistent_entropy import persistent_entropy

import topoloss
from topoloss.testing import parametrize_with_checks


def value(loss, deaths):
    """Of neurons of one sample, a line of which the differences are these deaths."""
    x = torch.tensor([0.0, *deaths], dtype=torch.float64).cumsum(0)[None]
    return topoloss.pipeline("euclidean", "mst", loss)(x).item()


def test_total_persistence_of_one_dimension():
    """A unit square: deaths 1, 1, 1 in dimension 0, and (1, sqrt(2)) in dimension 1."""
    corners = torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0]]).double()

    def total(**options):
        loss = topoloss.loss("total-persistence", **options)
        return topoloss.pipeline("euclidean", "ripser", loss)(corners).item()

    life = 2**0.5 - 1
    assert total() == pytest.approx(3 + life)
    assert total(dimension=0) == 3
    assert total(dimension=1) == pytest.approx(life)
    assert total(dimension=1, power=2) == pytest.approx(life**2)
    with pytest.raises(topoloss.InputError, match="dimension=2"):
        total(dimension=2)


def test_lifetimes_that_rounding_leaves_below_0_have_the_power_0():
    """Triangles of sides 1: the loops of the lattice are filled as soon as they are born."""
    place = torch.arange(25, dtype=torch.float64)
    row, column = place // 5, place % 5
    lattice = torch.stack((column + row % 2 / 2, row * 0.75**0.5))
    loss = topoloss.loss("total-persistence", power=1.5)
    regulariser = topoloss.pipeline("euclidean", "ripser", loss)
    below = 0
    for angle in torch.arange(1, 6).tolist():
        turn = torch.tensor(
            [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        )
        x = (turn.double() @ lattice).float().requires_grad_()
        below += (regulariser.diagrams(x)[1].lifetimes < 0).sum()
        value = regulariser(x)
        assert value.item() == pytest.approx(24, rel=1e-5)  # the deaths of 25 points
        (gradient,) = torch.autograd.grad(value, x)
        assert gradient.isfinite().all()
    assert below > 0


def test_entropy_by_hand():
    """Lifetimes 1, 1 and 2: shares 1/4, 1/4 and 1/2, whose entropy is 1.5 log(2)."""
    assert value("persistent-entropy", [1, 1, 2]) == pytest.approx(1.5 * math.log(2))
    assert value("persistent-entropy", [5]) == 0
    assert value("persistent-entropy", [3] * 8) == pytest.approx(math.log(8))
    assert value("persistent-entropy", [0, 0]) == 0
    assert value("persistent-entropy", [0, 1, 1]) == pytest.approx(math.log(2))


@pytest.mark.parametrize("scale", [1e-300, 1e-6, 1e300])
def test_the_scale_of_lifetimes_does_not_change_their_entropy(scale):
    lifetimes = [scale, scale, 2 * scale]
    assert value("persistent-entropy", lifetimes) == pytest.approx(1.5 * math.log(2), rel=1e-14)


def test_entropy_is_that_of_persim():
    x = torch.randn(3, 30, dtype=torch.float64)
    engine = topoloss.persistence("ripser")
    for dimension in (0, 1):
        loss = topoloss.loss("persistent-entropy", dimension=dimension)
        regulariser = topoloss.pipeline("euclidean", engine, loss)
        points = regulariser.diagrams(x)[dimension].to_numpy()
        assert len(points) > 1
        assert regulariser(x).item() == pytest.approx(persistent_entropy([points])[0], rel=1e-9)


def by_definition(diagrams):
    lives = [life for life in (diagrams[0].deaths - diagrams[0].births).tolist() if life > 0]
    return -sum(life / sum(lives) * math.log(life / sum(lives)) for life in lives)


@parametrize_with_checks("loss", "persistent-entropy", expected=by_definition)
def test_entropy_conforms_to_its_definition(check):
    check()


@parametrize_with_checks("loss", topoloss.loss("persistent-entropy", dimension=1))
@parametrize_with_checks("loss", topoloss.loss("total-persistence", dimension=1, power=2))
@parametrize_with_checks(
    "loss",
    topoloss.loss("beta-connectivity", beta=0.4),
    expected=lambda diagrams: sum(abs(d - 0.4) for d in diagrams[0].deaths.tolist()),
)
def test_options_conform(check):
    check()


def test_beta_by_hand():
    """Deaths 1 and 4 and beta 3: |1 - 3| + |4 - 3| = 3."""
    assert value(topoloss.loss("beta-connectivity", beta=3.0), [1, 4]) == 3


def test_a_death_of_beta_has_no_gradient():
    """Deaths 3 and 1 and beta 3: only the edge of length 1 is to become longer."""
    x = torch.tensor([[0.0, 3.0, 4.0]], requires_grad=True)
    loss = topoloss.loss("beta-connectivity", beta=3.0)
    topoloss.pipeline("euclidean", "mst", loss)(x).backward()
    assert x.grad.tolist() == [[0, 1, -1]]
