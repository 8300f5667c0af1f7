"""Pictures show what was computed."""

import io

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from scipy.cluster.hierarchy import cophenet, is_valid_linkage, linkage
from scipy.spatial.distance import squareform
from torch import nn

import topoloss
from topoloss import palette


@pytest.fixture(autouse=True)
def _closed():
    yield
    pyplot.close("all")


def distances(x):
    return squareform(1 - np.abs(np.corrcoef(x.numpy().T)), checks=False).clip(0)


@pytest.mark.parametrize("n", [2, 3, 17, 60])
def test_a_diagram_is_scipys_single_linkage(n):
    x = torch.randn(20, n, dtype=torch.float64)
    found = topoloss.regulariser("t1").diagrams(x)[0].to_linkage()
    assert is_valid_linkage(found)
    expected = linkage(distances(x), "single")
    np.testing.assert_allclose(found[:, 2:], expected[:, 2:], atol=1e-12)
    np.testing.assert_allclose(cophenet(found), cophenet(expected), atol=1e-12)


def test_only_one_connected_diagram_has_a_linkage():
    reg = topoloss.regulariser("t1")
    with pytest.raises(topoloss.InputError, match="without a batch"):
        reg.diagrams(torch.randn(2, 20, 5))[0].to_linkage()
    loops = topoloss.pipeline("euclidean", "ripser", "total-persistence").diagrams(torch.rand(3, 9))
    with pytest.raises(topoloss.InputError, match="dimension 1"):
        loops[1].to_linkage()
    cut = topoloss.pipeline("euclidean", topoloss.persistence("ripser", threshold=0.1), "t1")
    with pytest.raises(topoloss.InputError, match="3 classes that never die"):
        cut.diagrams(torch.tensor([[0.0, 1.0, 2.0]]))[0].to_linkage()
    assert reg.diagrams(torch.randn(20, 1))[0].to_linkage().shape == (0, 4)


def groups():
    """Three groups of four copies each, shuffled."""
    x = torch.randn(50, 3, dtype=torch.float64).repeat(1, 4)
    return x + 1e-3 * torch.randn_like(x)


def image(ax):
    return np.asarray(ax.get_images()[0].get_array())


def test_copies_stand_side_by_side():
    x = groups()
    drawn = image(topoloss.plot.correlations(x))
    expected = np.abs(np.corrcoef(x.numpy().T))
    np.testing.assert_allclose(np.sort(drawn.ravel()), np.sort(expected.ravel()), atol=1e-12)
    alike = drawn > 0.9
    np.testing.assert_array_equal(alike, np.kron(np.eye(3), np.ones((4, 4))) > 0)


def test_layers_are_drawn_together():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    seen = topoloss.observe(model)
    model(torch.randn(30, 3))
    drawn = topoloss.plot.correlations(seen, colour_bar=False)
    assert image(drawn).shape == (6, 6)
    assert len(drawn.figure.axes) == 1
    with torch.no_grad():
        layers = seen.activations()
    np.testing.assert_array_equal(image(topoloss.plot.correlations(layers)), image(drawn))


def test_as_many_neurons_are_drawn_as_were_allowed():
    assert image(topoloss.plot.correlations(torch.randn(9, 2), most=2)).shape == (2, 2)
    with pytest.raises(topoloss.TooLargeError, match=r"3 neurons were given.*at most 2"):
        topoloss.plot.correlations(torch.randn(9, 3), most=2)
    with pytest.raises(topoloss.OptionError, match="most >= 2"):
        topoloss.plot.correlations(torch.randn(9, 1), most=1)


def test_one_neuron_is_drawn_alone():
    x = torch.randn(9, 1)
    np.testing.assert_allclose(image(topoloss.plot.correlations(x)), [[1]], rtol=1e-6)
    (found,) = topoloss.regulariser("t1").diagrams(x)
    lines = topoloss.plot.diagram(found).get_lines()
    ((birth, never),) = next(line.get_xydata() for line in lines if line.get_label() == "H0")
    assert birth == 0 < never
    assert len(topoloss.plot.barcode(found).texts) == 1


def circle():
    angles = torch.arange(8) * 2 * torch.pi / 8
    x = torch.stack((angles.cos(), angles.sin()))
    return topoloss.pipeline("euclidean", "ripser", "total-persistence").diagrams(x)


def test_a_diagram_has_a_point_for_each_class():
    """Eight points on a circle: seven deaths at the side, one loop to the chord over three."""
    side, chord = 2 * np.sin(np.pi / 8), 2 * np.sin(3 * np.pi / 8)
    ax = topoloss.plot.diagram(circle())
    labelled = {line.get_label(): line.get_xydata() for line in ax.get_lines()}
    of_dimension_0 = labelled["H0"]
    np.testing.assert_allclose(of_dimension_0[:7], [[0, side]] * 7, rtol=1e-6)
    assert of_dimension_0[7, 1] > chord  # the class that never dies, on a line of its own
    np.testing.assert_allclose(labelled["H1"], [[side, chord]], rtol=1e-6)


def test_a_barcode_has_a_bar_for_each_class():
    ax = topoloss.plot.barcode(circle())
    bars = [line.get_xdata() for line in ax.get_lines() if len(line.get_xdata())]
    assert len(bars) == 9
    rows = [line.get_ydata()[0] for line in ax.get_lines() if len(line.get_xdata())]
    assert len(set(rows)) == 9
    side, chord = 2 * np.sin(np.pi / 8), 2 * np.sin(3 * np.pi / 8)
    np.testing.assert_allclose(bars[0], [0, side], rtol=1e-6)
    np.testing.assert_allclose(bars[-1], [side, chord], rtol=1e-6)
    assert len(ax.texts) == 1  # the arrow of the one that never dies


def test_a_class_that_is_born_after_all_deaths_and_never_dies_is_drawn_above_the_diagonal():
    """Sides 1, 1, 1 and 1.3 below the threshold, and diagonals of 1.52 above it."""
    height = (1 - 0.15**2) ** 0.5
    corners = torch.tensor([[0, 1.3, 1.15, 0.15], [0, 0, height, height]])
    engine = topoloss.persistence("ripser", threshold=1.4)
    given = topoloss.pipeline("euclidean", engine, "total-persistence").diagrams(corners)
    assert given[1].essential_births.tolist() == pytest.approx([1.3])
    lines = topoloss.plot.diagram(given).get_lines()
    ((birth, never),) = next(line.get_xydata() for line in lines if line.get_label() == "H1")
    assert birth == pytest.approx(1.3)
    assert never > birth
    ax = topoloss.plot.barcode(given)
    (arrow,) = [a for a in ax.texts if a.xyann[0] == pytest.approx(1.3)]
    assert arrow.xy[0] > 1.3
    assert ax.get_xlim()[1] > 1.3


def test_deaths_over_training_are_their_quantiles():
    history = {0: torch.linspace(0, 1, 101), 50: torch.full((101,), 0.25)}
    ax = topoloss.plot.deaths(history, label="t1")
    (median,) = ax.get_lines()
    np.testing.assert_allclose(median.get_xydata(), [[0, 0.5], [50, 0.25]], atol=1e-6)
    bands = [path.vertices for c in ax.collections for path in c.get_paths()]
    at_0, at_50 = ([sorted({*band[band[:, 0] == k, 1]}) for band in bands] for k in (0, 50))
    np.testing.assert_allclose(at_0, [[0.05, 0.95], [0.25, 0.75]], atol=1e-6)
    assert at_50 == [[0.25], [0.25]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["t1"]
    topoloss.plot.deaths(list(history.values()), ax)
    assert len(ax.get_lines()) == 2


def test_a_dendrogram_joins_at_the_deaths():
    found = topoloss.regulariser("t1").diagrams(torch.randn(20, 6, dtype=torch.float64))[0]
    ax = topoloss.plot.dendrogram(found, labels=list("abcdef"))
    segments = [path.vertices for c in ax.collections for path in c.get_paths()]
    heights = sorted(vertices[:, 1].max() for vertices in segments)
    np.testing.assert_allclose(heights, found.deaths.numpy(), atol=1e-12)
    assert sorted(label.get_text() for label in ax.get_xticklabels()) == list("abcdef")


@pytest.mark.parametrize("per", ["network", "layer"])
def test_the_tree_is_drawn_on_the_layers(per):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    penalty = topoloss.attach(model, "t1", per=per)
    model(torch.randn(30, 3))
    ax = topoloss.plot.tree(penalty)
    edges = [path.vertices for c in ax.collections for path in c.get_paths()]
    assert len(edges) == (5 if per == "network" else 4)
    dots = [tuple(dot) for line in ax.get_lines() for dot in line.get_xydata()]
    # The neurons of a layer stand one above the other, each in the middle of its share.
    assert dots == [(0, (k + 0.5) / 4) for k in range(4)] + [(1, 0.25), (1, 0.75)]
    assert all(tuple(end) in dots for edge in edges for end in edge)
    if per == "layer":
        assert all(start[0] == end[0] for start, end in edges)
    found = penalty.diagrams()
    deaths = [d[0].deaths for d in (found.values() if per == "layer" else [found])]
    shades = np.concatenate([c.get_colors()[:, 3] for c in ax.collections])
    np.testing.assert_allclose(shades, (1 - torch.cat(deaths)).clamp(0.05, 1).tolist())


def test_deaths_above_1_are_told_apart_by_their_shades():
    model = nn.Linear(3, 4)
    penalty = topoloss.attach(model, topoloss.pipeline("euclidean"))
    model(torch.tensor([[0.0, 0, 0], [0, 0, 9]]))
    deaths = penalty.diagrams()[0].deaths.detach()
    assert deaths.max() > 1.5
    (lines,) = topoloss.plot.tree(penalty).collections
    expected = (1 - deaths / deaths.max()).clamp(min=0.05)
    np.testing.assert_allclose(lines.get_colors()[:, 3], expected, rtol=1e-6)


def test_the_median_death_of_an_even_number_is_between_the_two_in_the_middle():
    """Correlations of 0.6 and 0: deaths 0.4 and 1, whose median is 0.7."""
    x = torch.tensor([[3.0, 1, 0], [4, 0, 0], [-3, -1, 0], [-4, 0, 0], [0, 0, 1], [0, 0, -1]])
    assert topoloss.plot.correlations(x).get_title() == "3 neurons: median death 0.70"


def every():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    penalty = topoloss.attach(model, "t1")
    model(torch.randn(30, 3))
    found = penalty.diagrams()
    return {
        "correlations": (penalty,),
        "diagram": (found,),
        "barcode": (found,),
        "deaths": ([found[0].deaths],),
        "dendrogram": (found[0],),
        "tree": (penalty,),
    }


@pytest.mark.parametrize("name", topoloss.plot.__all__)
def test_every_picture_is_written_in_every_format_and_drawn_where_asked(name):
    from matplotlib.figure import Figure

    draw = getattr(topoloss.plot, name)
    given = every()[name]
    ax = Figure().subplots()
    assert draw(*given, ax=ax) is ax
    starts = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    for kind, start in starts.items():
        written = io.BytesIO()
        draw(*given).figure.savefig(written, format=kind)
        assert written.getvalue().startswith(start)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("correlations", (torch.randn(5),), "neurons is tensor"),
        ("correlations", ("abc",), "neurons is 'abc'"),
        ("correlations", (torch.randn(5, 2001),), "2,001 neurons were given"),
        ("diagram", ([torch.rand(3)],), "expected a Diagram"),
        ("barcode", (None,), "expected a Diagram"),
        ("barcode", topoloss.regulariser("t1").diagrams(torch.ones(2, 9, 3)), "those of a batch"),
        ("deaths", ([],), "history is"),
        ("deaths", ([torch.zeros(0)],), "history is"),
        ("dendrogram", (circle(),), r"2 diagrams were given; expected one.*diagrams\[0\]"),
        ("dendrogram", ([],), "0 diagrams were given; expected one"),
        ("dendrogram", (topoloss.regulariser("t1").diagrams(torch.randn(9, 1)),), "two vertices"),
        ("tree", (nn.Linear(2, 2),), "expected what topoloss.attach returned"),
    ],
)
def test_what_cannot_be_drawn_is_told(name, given, message):
    with pytest.raises(topoloss.TopolossError, match=message):
        getattr(topoloss.plot, name)(*given)


def test_looks_differ_in_colour_or_in_a_second_cue():
    names = ["none", "t1", "t2", "naive", "l1", "l2", "dropout", *(f"own-{k}" for k in range(12))]
    looks = palette.looks(names)
    assert len({tuple(look.values()) for look in looks.values()}) == len(names)
    # Those that share a colour differ in the marker.
    assert len({(look["color"], look["marker"]) for look in looks.values()}) == len(names)
    assert looks["t1"] == palette.looks(["own", "t1"])["t1"]


def test_names_without_a_look_of_their_own_have_all_colours_before_one_comes_again():
    known = ["none", "t1", "t2", "naive", "dropout", "decov", "batch-norm"]  # none is orange
    own = [f"own-{k}" for k in range(16)]
    looks = palette.looks([*known, *own])
    colours = [looks[name]["color"] for name in own]
    assert colours[0] == palette.COLOURS["orange"]
    assert set(colours[:8]) == set(colours[8:]) == set(palette.COLOURS.values())


def test_however_many_names_there_are_each_has_a_look():
    names = [f"own-{k}" for k in range(300)]
    looks = palette.looks(names)
    assert list(looks) == names
    assert len({tuple(look.values()) for look in looks.values()}) == 144


def test_a_new_picture_is_one_of_pyplot_which_a_notebook_shows():
    ax = topoloss.plot.correlations(groups())
    assert pyplot.gcf() is ax.figure
    assert topoloss.plot.correlations(groups(), ax) is ax
    assert pyplot.get_fignums() == [ax.figure.number]
