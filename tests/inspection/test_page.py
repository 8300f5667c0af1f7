"""The page of a run, opened and operated, shows what NumPy and SciPy find."""

import json

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from torch import nn

import topoloss
from tests.inspection.browser import Browser
from topoloss.inspection import Recorder
from topoloss.inspection.pages import page, write
from topoloss.inspection.reading import read

EPOCHS = (0, 10, 20, 30)
KEPT = 20


def trained(folder):
    """Train a tiny network; returns its activations and groups at each recorded epoch."""
    torch.manual_seed(0)
    x = torch.randn(40, 5)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    with torch.no_grad():  # copies, which training soon moves apart
        model[0].weight[3], model[0].bias[3] = -model[0].weight[1], -model[0].bias[1]
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    activations, groups = {}, {}
    with topoloss.observe(model) as seen, Recorder(folder, "a tiny network") as run:
        for step in range(EPOCHS[-1] + 1):
            loss = nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())
            if step in EPOCHS:
                run.add(step, seen, {"loss": loss.item()}, kept=step <= KEPT)
                first, second, last = (layer.requires_grad_(False) for layer in model[::2])
                h = np.tanh(x.numpy() @ first.weight.numpy().T + first.bias.numpy())
                g = np.maximum(h @ second.weight.numpy().T + second.bias.numpy(), 0)
                out = g @ last.weight.numpy().T + last.bias.numpy()
                activations[step] = np.concatenate((h, g, out), 1).astype(np.float64)
                model.requires_grad_(True)
                groups[step] = topoloss.redundancy(model, x, units="unit", per="network").groups
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return activations, groups


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The page of a tiny training, and its activations and groups by epoch."""
    folder = tmp_path_factory.mktemp("run")
    found = trained(folder)
    return write(read(folder), folder / "inspect.html"), *found


def single_linkage(activations):
    r = np.abs(np.corrcoef(activations.T))
    return r, linkage(squareform(1 - r, checks=False).clip(0), "single")


def text(window, name):
    return window.run(f"document.getElementById({name!r}).textContent")


def attributes(window, name, kind, attribute):
    """An attribute of the children of an element that have a class."""
    return window.run(
        f"Array.from(document.getElementById({name!r}).children)"
        f".filter(each => each.getAttribute('class') === {kind!r})"
        f".map(each => each.getAttribute({attribute!r}))"
    )


def numbers(paths):
    """The numbers of each stroke of an SVG path, which starts with M."""
    strokes = "".join(paths).split("M")[1:]
    return [[float(n) for n in _apart(stroke)] for stroke in strokes]


def _apart(stroke):
    for letter in "VHLZ":
        stroke = stroke.replace(letter, " ")
    return stroke.split()


def up(y):
    """The height from 0 to 1 that a place of a figure stands for."""
    return (205 - np.asarray(y)) / 195


def squares(window, name):
    """The opacity of each square of a picture, from 0 to 1."""
    side = window.run(f"document.getElementById({name!r}).width")
    pixels = window.run(
        f"Array.from(document.getElementById({name!r}).getContext('2d')"
        f".getImageData(0, 0, {side}, {side}).data)"
    )
    return np.array(pixels).reshape(side, side, 4)[..., 3] / 255


def check_pictures(window, activations):
    """Compare every picture with what SciPy makes of the activations."""
    r, joined = single_linkage(activations)
    order = leaves_list(joined)
    np.testing.assert_allclose(squares(window, "now"), r[np.ix_(order, order)], atol=1.01 / 255)

    (d,) = attributes(window, "dendrogram", "now", "d")
    heights = [stroke[2] for stroke in numbers([d])]
    np.testing.assert_allclose(up(heights), joined[:, 2], atol=2e-6)

    bars, _ = attributes(window, "barcode", "now", "d")
    ends = np.array([stroke[2] for stroke in numbers([bars])])
    np.testing.assert_allclose((ends - 34) / 296, joined[:, 2], atol=2e-6)

    points = [float(y) for y in attributes(window, "diagram", "point", "cy")]
    np.testing.assert_allclose(up(points), joined[:, 2], atol=2e-6)

    edges = np.array([attributes(window, "tree", "edge", a) for a in ("x1", "y1", "x2", "y2")])
    alike = np.array(attributes(window, "tree", "edge", "stroke-opacity"), dtype=float)
    np.testing.assert_allclose(alike, np.maximum(0.05, 1 - joined[:, 2]), atol=2e-6)
    places = np.array([attributes(window, "tree", "neuron", a) for a in ("cx", "cy")]).T.tolist()
    found = [(places.index(list(e[:2])), places.index(list(e[2:]))) for e in edges.T]
    np.testing.assert_allclose([1 - r[i, j] for i, j in found], joined[:, 2], atol=2e-6)

    median = np.median(joined[:, 2])
    assert text(window, "now-shown").endswith(f"16 neurons, median death {median:.2f}")


def test_every_picture_shows_what_scipy_finds_whatever_epoch_is_chosen(window, run):
    path, activations, _ = run
    window.open(path)
    # It opens where the trained network is.
    assert text(window, "epoch-shown") == "20, whose weights were kept"
    check_pictures(window, activations[20])
    before = single_linkage(activations[0])
    order = leaves_list(before[1])
    expected = before[0][np.ix_(order, order)]
    np.testing.assert_allclose(squares(window, "before"), expected, atol=1.01 / 255)
    ((_, _, *stairs),) = numbers(attributes(window, "barcode", "before", "d"))
    np.testing.assert_allclose((np.array(stairs[::2]) - 34) / 296, before[1][:, 2], atol=2e-6)
    earlier = [float(y) for y in attributes(window, "diagram", "before", "cy") if y is not None]
    np.testing.assert_allclose(up(earlier), before[1][:, 2], atol=2e-6)
    window.press("epoch", "Right")
    assert text(window, "epoch-shown") == "30"
    check_pictures(window, activations[30])
    for _ in range(3):
        window.press("epoch", "Left")
    assert text(window, "epoch-shown") == "0"
    check_pictures(window, activations[0])
    np.testing.assert_array_equal(squares(window, "now"), squares(window, "before"))


def test_deaths_over_training_are_their_quantiles(window, run):
    path, activations, _ = run
    window.open(path)
    deaths = [single_linkage(each)[1][:, 2] for each in activations.values()]
    (median,) = numbers(attributes(window, "history", "now", "d"))
    np.testing.assert_allclose(up(median[1::2]), np.median(deaths, axis=1), atol=2e-6)
    np.testing.assert_allclose((np.array(median[::2]) - 34) / 296, [0, 1 / 3, 2 / 3, 1], atol=1e-9)
    for kind, share in {"wide": 0.05, "half": 0.25}.items():
        (band,) = numbers(attributes(window, "history", kind, "d"))
        low, high = np.quantile(deaths, [share, 1 - share], axis=1)
        np.testing.assert_allclose(up(band[1::2]), [*low, *high[::-1]], atol=2e-6)


def test_groups_are_those_of_redundancy(window, run):
    path, _, groups = run
    window.open(path)
    window.press("epoch", "Left")
    window.press("epoch", "Left")
    # Neuron 3 was made the mirror image of neuron 1.
    (mirrored,) = (
        group for group in groups[0] if ("0", 1) in (group.representative, *group.copies)
    )
    assert ("0", 3) in (mirrored.representative, *mirrored.copies)
    listed = items(window, "groups")
    assert listed == [
        f"{called(group.representative)} is copied by "
        + ", ".join(f"{called(each)} (r = {r:.2f})" for each, r in group.copies.items())
        for group in groups[0]
    ]
    count = f"{len(listed)} group{'s' * (len(listed) > 1)}"
    assert text(window, "alike") == f"{count} joined by |r| of at least 0.95:"


def called(neuron):
    return f"{neuron[0]}[{neuron[1]}]"


def test_a_click_on_a_square_names_its_neurons(window, run):
    path, activations, _ = run
    window.open(path)
    r, joined = single_linkage(activations[KEPT])
    row, column = leaves_list(joined)[[11, 2]]
    window.click("now", 2.5 / 16, 11.5 / 16)
    layers = [("0", 8), ("2", 6), ("4", 2)]
    names = [called((name, k)) for name, n in layers for k in range(n)]
    expected = f"{names[row]} and {names[column]}: |r| = {r[row, column]:.2f}"
    assert text(window, "pointed") == expected


def written(folder, model, x, notes=None, **options):
    """The page of one epoch of a model."""
    with topoloss.observe(model) as seen, Recorder(folder, **options) as made:
        out = model(x).detach().numpy().astype(np.float64)
        made.add(0, seen, notes)
    return write(read(folder), folder / "inspect.html"), out


def items(window, name):
    """The text of each item of a list."""
    return window.run(
        f"Array.from(document.getElementById({name!r}).children).map(item => item.textContent)"
    )


def test_long_lists_are_cut_and_say_how_many_are_missing(window, tmp_path):
    """14 neurons are alike, 21 pairs are, and 13 neurons are constant."""
    model = nn.Linear(22, 69, bias=False)
    with torch.no_grad():
        model.weight.zero_()
        model.weight[:14, 0] = 1
        for k in range(21):
            model.weight[14 + 2 * k : 16 + 2 * k, 1 + k] = 1
    path, _ = written(tmp_path, model, torch.randn(200, 22))
    window.open(path)
    assert text(window, "alike") == "22 groups joined by |r| of at least 0.95:"
    largest, *pairs, rest = items(window, "groups")
    assert largest.count("(r = 1.00)") == 12
    assert largest.endswith(" and 1 more")
    assert len(pairs) == 19
    assert all(each.count("(r = 1.00)") == 1 for each in pairs)
    assert rest == "and 2 smaller groups"
    constant = ", ".join(f"(model)[{k}]" for k in range(56, 68))
    assert text(window, "constant") == f"Constant: {constant} and 1 more."


def test_without_groups_the_most_alike_are_named(window, tmp_path):
    path, out = written(tmp_path, nn.Linear(8, 8), torch.randn(200, 8), {"loss": float("inf")})
    r = np.tril(np.abs(np.corrcoef(out.T)), -1)
    i, j = np.unravel_index(r.argmax(), r.shape)
    window.open(path)
    assert text(window, "alike") == (
        "No two neurons have |r| of at least 0.95. "
        f"Most alike are (model)[{j}] and (model)[{i}], |r| = {r[i, j]:.3f}."
    )
    assert items(window, "groups") == []
    assert text(window, "constant") == "No neuron is constant."
    assert text(window, "notes") == "loss not finite"


def test_correlations_are_drawn_for_some_in_the_order_of_all(window, tmp_path):
    path, out = written(tmp_path, nn.Linear(8, 16), torch.randn(200, 8), most=12, drawn=5)
    window.open(path)
    # Evenly spaced: of 16 neurons 12 are watched, and of these 5 are drawn.
    watched = [k * 15 // 11 for k in range(12)]
    drawn = [k * 11 // 4 for k in range(5)]
    r, joined = single_linkage(out[:, watched])
    order = [k for k in leaves_list(joined) if k in drawn]
    np.testing.assert_allclose(squares(window, "now"), r[np.ix_(order, order)], atol=1.01 / 255)
    window.click("now", 3.5 / 5, 1.5 / 5)
    row, column = order[1], order[3]
    names = f"(model)[{watched[row]}] and (model)[{watched[column]}]"
    assert text(window, "pointed") == f"{names}: |r| = {r[row, column]:.2f}"
    assert text(window, "about").startswith("12 of 16 neurons in 1 layer; correlations are drawn ")
    assert "are drawn for 5; 1 recorded epoch." in text(window, "about")


def test_of_a_training_that_still_runs_the_latest_epoch_is_shown(window, tmp_path):
    model, path = nn.Linear(3, 2), tmp_path / "inspect.html"
    with topoloss.observe(model) as seen, Recorder(tmp_path) as made:
        model(torch.randn(9, 3))
        for epoch in range(70):
            made.add(epoch, seen)
        write(read(tmp_path), path)
    window.open(path)
    assert text(window, "epoch-shown") == "69"
    assert text(window, "about").endswith(
        "60 of 70 recorded epochs; the recording has no end: training still runs or was "
        "interrupted."
    )


HOSTILE = "<script>window.harmed = 1</script><img src=x onerror='window.harmed = 1'>&amp;\u2028"


def hostile(folder):
    """A run whose title, note and only layer have names that are markup."""
    model = nn.Sequential()
    model.add_module(LAYER, nn.Linear(3, 4))
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = model[0].weight[0], model[0].bias[0]
        model[0].weight[2] = 0
    with topoloss.observe(model) as seen, Recorder(folder, f"</title>{HOSTILE}") as made:
        model(torch.randn(9, 3))
        made.add(0, seen, {HOSTILE: 1.0})
    return write(read(folder), folder / "inspect.html")


# A module's name has no dots.
LAYER = HOSTILE.replace(".", "&#46;")


def test_every_label_lies_within_its_figure(window, run):
    path, *_ = run
    window.open(path)
    for name in ("history", "barcode", "diagram", "dendrogram", "tree"):
        labels = window.run(
            f"Array.from(document.getElementById({name!r}).children)"
            ".filter(each => each.getAttribute('text-anchor'))"
            ".map(each => [each.textContent, Number(each.getAttribute('y'))])"
        )
        assert labels
        # A letter is 8 units high, above the line that it stands on.
        assert all(8 <= height <= 240 for _, height in labels), labels
        assert ("never dies" in dict(labels)) == (name == "diagram")


def test_names_are_shown_as_they_are_and_never_run(window, tmp_path):
    window.open(hostile(tmp_path))
    window.click("now", 0.1, 0.9)
    assert window.run("globalThis.harmed ?? null") is None
    assert text(window, "title") == f"</title>{HOSTILE}"
    assert text(window, "notes") == f"{HOSTILE} 1.0000"
    for name in ("groups", "constant", "tree", "pointed"):
        assert LAYER in text(window, name)


def test_the_page_asks_nothing_of_the_network_and_reports_no_error(browser, run, tmp_path):
    said, requested = len(browser.said()), len(browser.requested())
    for path in (run[0], hostile(tmp_path)):
        browser.open(path)
        browser.press("epoch", "Left")
    assert browser.said()[said:] == []
    assert {address.partition("://")[0] for address in browser.requested()[requested:]} == {"file"}
    assert len(browser.requested()) == requested + 2


def test_a_script_that_is_not_the_pages_own_is_not_run(browser, run, tmp_path):
    changed = tmp_path / "changed.html"
    added = "<script>window.harmed = 1</script></main>"
    changed.write_text(run[0].read_text(encoding="utf-8").replace("</main>", added), "utf-8")
    browser.open(changed)
    assert browser.run("window.harmed ?? null") is None
    assert text(browser, "epoch-shown") == "20, whose weights were kept"


def test_a_phone_shows_the_whole_width(browser, run, tmp_path):
    browser.ask(resize=[360, 640])
    for path in (run[0], hostile(tmp_path)):
        browser.open(path)
        assert browser.run("document.documentElement.scrollWidth <= innerWidth")
        assert browser.run("innerWidth") == 360
    browser.ask(resize=[1000, 800])


def contrast(window, selector):
    """The contrast of text with its page, as WCAG 2 defines it."""
    colours = window.run(
        f"[getComputedStyle(document.querySelector({selector!r})).{_colour(selector)},"
        "getComputedStyle(document.body).backgroundColor]"
    )
    high, low = sorted(map(_luminance, colours), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _colour(selector):
    return "fill" if selector.startswith("svg") else "color"


def _luminance(colour):
    channels = np.array([int(n) for n in colour.removeprefix("rgb(").rstrip(")").split(",")]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_text_is_legible_on_a_light_page_and_on_a_dark_one(browser, run):
    with Browser(dark=True) as dark:
        for window in (browser, dark):
            window.open(run[0])
            for selector in ("h1", "#notes", ".hint", "svg text", "#alike"):
                assert contrast(window, selector) >= 7
        backgrounds = [
            _luminance(window.run("getComputedStyle(document.body).backgroundColor"))
            for window in (browser, dark)
        ]
    assert backgrounds[0] > 0.9
    assert backgrounds[1] < 0.05


@pytest.mark.parametrize("n", [2, 3, 65])
def test_the_script_finds_single_linkage(run, n):
    from tests.inspection.dom import Dom

    window = Dom()
    window.open(run[0])
    x = torch.randn(30, n, dtype=torch.float64)
    tree = topoloss.regulariser("t1").diagrams(x)[0]
    edges, deaths = json.dumps(tree.death_edges.tolist()), json.dumps(tree.deaths.tolist())
    _, expected = single_linkage(x.numpy())
    rows = window.run(f"topoloss.linkage({edges}, {deaths})")
    np.testing.assert_allclose(rows, expected, atol=1e-12)
    leaves = window.run(f"topoloss.leaves(topoloss.linkage({edges}, {deaths}))")
    np.testing.assert_array_equal(leaves, leaves_list(expected))


def test_a_long_run_of_many_neurons_makes_a_page_of_a_few_megabytes(tmp_path):
    model = nn.Linear(20, 1500)
    with topoloss.observe(model) as seen, Recorder(tmp_path, drawn=150) as made:
        model(torch.randn(64, 20))
        made.add(0, seen)
    header, line, _ = made.path.read_text(encoding="utf-8").splitlines()
    lines = [json.dumps(json.loads(line) | {"epoch": epoch}) for epoch in range(100)]
    end = json.dumps({"epochs": 100, "kept": 66})
    made.path.write_text("\n".join((header, *lines, end)), encoding="utf-8")
    text = page(read(tmp_path))
    assert len(text) < 4e6
    shown = json.loads(text.partition('id="run">')[2].partition("</script>")[0])
    epochs = [each["epoch"] for each in shown["snapshots"]]
    assert {0, 66, 99} <= set(epochs)
    assert len(epochs) in (60, 61)
    assert shown["recorded"] == 100
    (layer,) = shown["layers"]
    assert (len(layer["units"]), layer["of"]) == (1024, 1500)
    assert len(shown["drawn"]) == 150
