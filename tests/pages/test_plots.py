from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest

from ctglip.pages import curves, plots
from ctglip.pages.parts import Curve, RecallAt, ReliabilityBin
from ctglip.pages.wording import duration, interval, number, p_value, plain, share
from ctglip.types import Interval


def of_kind(svg: str, tag: str, kind: str) -> list[ET.Element]:
    return [node for node in ET.fromstring(svg).iter(tag) if kind in node.get("class", "").split()]


def x_of(node: ET.Element, name: str = "x1") -> float:
    return float(node.get(name, "nan"))


ROWS = (
    plots.ForestRow("Macro", Interval(0.8, 0.7, 0.9), "summary"),
    plots.ForestRow("Control", Interval(0.5, 0.45, 0.55), "control"),
    plots.ForestRow("Liver · <Cyst>", Interval(0.9, 0.8, 1.0), note="3 / 9"),
    plots.ForestRow("Nothing", Interval(None)),
)


@pytest.mark.parametrize("narrow", [False, True])
def test_forest_puts_scores_where_they_belong(narrow: bool) -> None:
    svg = plots.forest(ROWS, "Scores", note_heading="positives / n", narrow=narrow)
    (chance,) = of_kind(svg, "line", "chance")
    (square,) = of_kind(svg, "rect", "mark")
    (disc,) = of_kind(svg, "circle", "mark")
    assert x_of(square, "x") + 5 == pytest.approx(x_of(chance), abs=0.2)
    low, high = (x_of(node, key) for node in of_kind(svg, "line", "interval")[-3:-2] for key in ("x1", "x2"))
    assert low < x_of(disc, "cx") < high
    assert x_of(disc, "cx") == pytest.approx((low + high) / 2, abs=0.2)
    assert len(of_kind(svg, "polygon", "mark")) == 1


def test_forest_says_everything_in_words() -> None:
    root = ET.fromstring(plots.forest(ROWS, "Scores"))
    assert root.findtext("title") == "Scores"
    description = root.findtext("desc") or ""
    assert "Macro 0.800 (0.700–0.900)" in description
    assert "Nothing not computable" in description
    assert root.get("role") == "img"


def test_forest_axis_reaches_down_to_the_lowest_end() -> None:
    svg = plots.forest((plots.ForestRow("Low", Interval(0.2, 0.05, 0.4)),), "Scores")
    ticks = [node.text for node in ET.fromstring(svg).iter("text") if node.get("class") == "tick"]
    assert "0.0" in ticks
    assert all(x_of(node) >= 0 for node in ET.fromstring(svg).iter("line"))


def test_forest_without_rows_is_still_a_picture() -> None:
    ET.fromstring(plots.forest((), "Scores"))


@pytest.mark.parametrize(("value", "expected"), [(0.25, 25.0), (-1.0, 0.0), (7.0, 100.0), (math.nan, 0.0)])
def test_bar_is_as_long_as_its_value(value: float, expected: float) -> None:
    (fill,) = of_kind(plots.bar(value, 0.5, 100), "rect", "fill")
    assert x_of(fill, "width") == expected


def test_swatch_refuses_what_is_no_colour() -> None:
    assert "#ff00aa" in plots.swatch(3, "#ff00aa")
    with pytest.raises(ValueError, match="#rrggbb"):
        plots.swatch(3, '#"><b>')


def test_histogram_counts_every_value_and_points_at_outliers() -> None:
    values = [1.0] * 5 + [5.0] * 10 + [9.0, math.nan, math.inf]
    svg = plots.histogram(values, "Size", "mm", marked=[9.0, 50.0])
    bars = of_kind(svg, "rect", "fill")
    assert len(bars) == 3
    tall = sorted(x_of(bar, "height") for bar in bars)
    assert tall[1] == pytest.approx(tall[2] / 2, abs=0.2)
    assert len(of_kind(svg, "polygon", "outlier")) == 1
    assert "16 values from 1 to 9 mm" in (ET.fromstring(svg).findtext("desc") or "")


@pytest.mark.parametrize("values", [[], [math.nan], [4.0], [4.0, 4.0]])
def test_histogram_of_little_is_drawn(values: list[float]) -> None:
    ET.fromstring(plots.histogram(values, "Size"))


def test_roc_runs_from_corner_to_corner_with_its_band() -> None:
    curve = Curve((0.0, 0.5, 1.0), (0.0, 0.8, 1.0), (0.0, 0.7, 1.0), (0.0, 0.9, 1.0))
    svg = curves.roc(curve, "Cyst", Interval(0.75, 0.6, 0.9), size=100)
    (line,) = of_kind(svg, "polyline", "curve")
    (diagonal,) = of_kind(svg, "polyline", "chance")
    points, ends = ((node.get("points") or "").split() for node in (line, diagonal))
    assert points[0] == ends[0]
    assert points[-1] == ends[-1]
    assert len(of_kind(svg, "polygon", "band")) == 1
    assert "0.600–0.900" in (ET.fromstring(svg).findtext("desc") or "")


def test_reliability_leaves_empty_bins_out() -> None:
    bins = [
        ReliabilityBin(0.2, Interval(0.2, 0.1, 0.3), 10),
        ReliabilityBin(0.5, Interval(None), 0),
        ReliabilityBin(0.9, Interval(0.6), 40),
    ]
    svg = curves.reliability(bins, "After")
    first, second = of_kind(svg, "circle", "dot")
    assert x_of(first, "r") < x_of(second, "r")
    assert len(of_kind(svg, "line", "interval")) == 1
    ET.fromstring(curves.reliability([], "Nothing"))


def test_recall_rises_with_k_and_shows_chance() -> None:
    found = [RecallAt(1, Interval(0.2, 0.1, 0.3), 0.01), RecallAt(5, Interval(0.5), 0.05), RecallAt(10, Interval(None))]
    svg = curves.recall(found, "x")
    first, second = of_kind(svg, "circle", "dot")
    assert x_of(first, "cx") < x_of(second, "cx")
    assert x_of(first, "cy") > x_of(second, "cy")
    assert len(of_kind(svg, "polyline", "chance")) == 1
    ET.fromstring(curves.recall([], "x"))
    ET.fromstring(curves.recall([RecallAt(1, Interval(0.2))], "x"))


def test_map_tells_groups_apart_by_more_than_colour() -> None:
    names = [f"organ {i}" for i in range(9)]
    svg = curves.embedding_map([(i * 10.0, (i % 3) * 10.0, n) for i, n in enumerate(names)], "Map")
    shown = [node.text for node in of_kind(svg, "text", "name")]
    assert set(shown) <= set(names)
    assert "organ 0" in shown
    assert of_kind(svg, "circle", "group")
    assert of_kind(svg, "rect", "group")
    assert of_kind(svg, "polygon", "group")
    ET.fromstring(curves.embedding_map([], "Map"))
    ET.fromstring(curves.embedding_map([(1.0, 1.0, "one")], "Map"))


def test_numbers_are_written_alike() -> None:
    assert number(-0.5, 1) == "−0.5"
    assert number(None) == number(math.nan) == plain(math.inf) == share(None) == "–"
    assert [plain(v) for v in (819.4, 12345.6, 12.0, -0.0031)] == ["819.4", "12,346", "12", "−0.0031"]
    shares = [share(v).replace("\u00a0", " ") for v in (0.0, 0.004, 0.5, 0.996, 1.0)]
    assert shares == ["0 %", "< 1 %", "50 %", "> 99 %", "100 %"]
    assert interval(Interval(0.5, None, 0.6)) == ""
    assert interval(Interval(0.0, -0.031, 0.012)) == "−0.031 to 0.012"
    assert (p_value(0.031), p_value(1e-9), p_value(None)) == ("0.031", "<\u00a00.001", "–")
    times = [duration(v).replace("\u00a0", " ") for v in (0.417, 12.34, 59.97, 185)]
    assert times == ["0.42 s", "12.3 s", "1 min 00 s", "3 min 05 s"]
