"""Figures of attribution, comparison and trade-offs: scales, labels and sums a reader relies on."""

import base64
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis.comparison import compare
from analysis.figures.attribution import difference, map_grid, overlay, side_by_side, top_bars, wipe
from analysis.figures.comparison import accuracy_whiskers, confusion_heatmap, per_class_dots
from analysis.figures.palette import BLUE, GREY
from analysis.figures.tradeoffs import accuracy_cost_scatter, layer_bars
from analysis.tradeoffs import computed_costs, layer_costs, scatter_points
from bcdnet.variants import get_config

A = np.array([[0.0, 2.0], [-1.0, 0.5]])
B = np.array([[0.0, -4.0], [1.0, 0.5]])


def heatmaps(fig):
    return [trace for trace in fig.data if trace.type == "heatmap"]


def color_bars(fig):
    return [trace.marker for trace in fig.data if trace.type == "scatter" and trace.marker.showscale]


def test_maps_side_by_side_share_one_symmetric_scale():
    fig = side_by_side({"a": A, "b": B}, np.zeros((2, 2), np.uint8))
    assert [(h.zmin, h.zmax) for h in heatmaps(fig)] == [(-4, 4), (-4, 4)]
    (bar,) = color_bars(fig)
    assert (bar.cmin, bar.cmax) == (-4, 4)
    assert heatmaps(fig)[0].colorscale[16] == (0.5, heatmaps(fig)[0].colorscale[16][1])
    assert heatmaps(fig)[0].colorscale[16][1].endswith(",0.000)")  # zero is clear
    assert len(fig.layout.images) == 2 and [i.xref for i in fig.layout.images] == ["x", "x2"]


def test_separate_scales_say_so_and_keep_the_values():
    fig = side_by_side({"a": A, "b": B}, shared=False)
    np.testing.assert_array_equal(heatmaps(fig)[1].z, B / 4)
    np.testing.assert_array_equal(heatmaps(fig)[1].customdata, B)
    assert [note.text for note in fig.layout.annotations] == ["a<br>largest ±2", "b<br>largest ±4"]
    assert "share" in color_bars(fig)[0].colorbar.title.text


def test_five_maps_take_two_rows_of_four():
    fig = side_by_side({str(k): A for k in range(5)})
    assert len(heatmaps(fig)) == 5 and heatmaps(fig)[4].xaxis == "x5"
    # The fifth map stands under the first.
    assert fig.layout.xaxis5.domain == fig.layout.xaxis.domain
    assert fig.layout.yaxis5.domain[1] < fig.layout.yaxis.domain[0]


def test_difference_is_first_less_second_on_the_common_scale():
    fig = difference(A, B, ("x", "y"))
    np.testing.assert_array_equal(heatmaps(fig)[2].z, [[0, 6], [-2, 0]])
    assert {h.zmax for h in heatmaps(fig)} == {6}
    assert fig.layout.annotations[2].text == "x − y"


def test_blank_and_broken_maps_are_drawn():
    assert heatmaps(overlay(np.zeros((2, 2))))[0].zmax == 1
    fig = overlay(np.array([[np.nan, np.inf], [1.0, -3.0]]))
    assert heatmaps(fig)[0].zmax == 3
    assert np.isnan(heatmaps(fig)[0].z[0]).all()


def test_a_map_without_colours_says_why():
    broken = np.full((2, 2), np.nan)
    said = [note.text for note in difference(np.zeros((2, 2)), broken, ("x", "y")).layout.annotations]
    assert said == ["x", "y", "x − y", "0 everywhere", "not finite", "not finite"]
    grid = map_grid({("a", "b"): np.array([[np.inf, 1.0], [0.0, 0.0]]), ("a", "c"): A}, {("a", "b"): 1, ("a", "c"): 2})
    assert [note.text for note in grid.layout.annotations][2:] == ["1 of 4 values<br>are not finite"]
    # What there is in the other keeps its strength.
    assert {h.zmax for h in heatmaps(side_by_side({"a": np.zeros((2, 2)), "b": A / 10}))} == {0.2}


def test_a_map_takes_the_limit_it_is_given():
    assert [(h.zmin, h.zmax) for h in heatmaps(overlay(A, limit=8.0))] == [(-8, 8)]


@pytest.fixture
def wide():
    """A picture of 4 rows and 8 columns, of which a network saw the middle 4 x 4, at half its resolution."""
    return np.arange(32, dtype=np.uint8).reshape(4, 8), (2.0, 0.0, 6.0, 4.0)


def test_a_map_is_drawn_over_the_part_of_the_picture_that_it_explains(wide):
    picture, box = wide
    fig = overlay(A, picture, box=box)
    (heat,) = heatmaps(fig)
    # A[0, 1] explains rows 0 and 1 of columns 4 and 5, whose middle is the corner that the four pixels share.
    assert (heat.x0 + heat.dx, heat.y0) == (4.5, 0.5) and (heat.dx, heat.dy) == (2, 2)
    assert heat.z[0, 1] == heat.customdata[0, 1] == A[0, 1]
    (under,) = fig.layout.images
    assert (under.x, under.y, under.sizex, under.sizey) == (-0.5, -0.5, 8, 4)
    assert (fig.layout.xaxis.range, fig.layout.yaxis.range) == ((-0.5, 7.5), (3.5, -0.5))
    (edge,) = fig.layout.shapes
    assert (edge.x0, edge.x1, edge.y0, edge.y1) == (1.5, 5.5, -0.5, 3.5)
    # All of the picture: no edge.
    assert not overlay(A, picture, box=(0, 0, 8, 4)).layout.shapes and not overlay(A, picture).layout.shapes


def test_the_line_between_two_maps_runs_through_their_part_of_the_picture(wide):
    picture, box = wide
    line = wipe(A, B, ("x", "y"), 0.5, picture, box=box).layout.shapes[-1]
    assert (line.x0, line.x1, line.y0, line.y1) == (3.5, 3.5, -0.5, 3.5)


def test_a_large_picture_is_drawn_in_no_more_pixels_than_a_screen_shows():
    picture = np.zeros((900, 1800), np.uint8)

    def pixels(fig):
        content = base64.b64decode(fig.layout.images[0].source.partition(",")[2])
        return Image.open(io.BytesIO(content)).size

    box = (450, 0, 1350, 900)
    assert pixels(overlay(A, picture, box=box)) == (800, 400)
    assert max(pixels(side_by_side({"a": A, "b": B}, picture, box=box))) <= 448  # two share the room


def test_top_bars_highlight_the_chosen_class():
    top = pd.DataFrame({"index": [7, 2], "label": ["hen", "cat"], "logit": [1.0, 0.5], "probability": [0.625, 0.375]})
    assert list(top_bars(top).data[0].marker.color) == [BLUE, GREY]
    fig = top_bars(top, chosen=2)
    assert list(fig.data[0].marker.color) == [GREY, BLUE]
    assert list(fig.data[0].text) == ["62.5 %", "37.5 %"]
    assert fig.layout.height >= 120  # below, the axis' title lies on its numbers


@pytest.fixture(scope="module")
def comparison():
    answers = {"a": [0, 0, 1, 0], "b": [0, 1, 1, 1]}
    return compare({name: np.eye(3)[answer] for name, answer in answers.items()}, [0, 0, 1, 1], ["cat", "dog", "hen"])


def test_accuracy_whiskers_are_the_interval(comparison):
    row, trace = comparison.accuracy.loc["b"], accuracy_whiskers(comparison.accuracy).data[1]
    assert list(trace.x) == [75]
    assert trace.x[0] + trace.error_x.array[0] == pytest.approx(row.high)
    assert trace.x[0] - trace.error_x.arrayminus[0] == pytest.approx(row.low)


def test_per_class_dots_put_the_hardest_class_first_and_leave_out_unseen_ones(comparison):
    fig = per_class_dots(comparison.per_class)
    # cat: 100 and 50, dog: 50 and 100; equal means keep the order. No hen in the set.
    assert list(fig.layout.yaxis.categoryarray) == ["cat", "dog"]
    assert [trace.name for trace in fig.data[1:]] == ["a", "b"]
    assert list(fig.data[1].x) == [100, 50]


def test_confusion_colours_mistakes_only(comparison):
    fig = confusion_heatmap(comparison.confusion["b"])
    np.testing.assert_array_equal(fig.data[0].z, [[np.nan, 50, np.nan], [np.nan] * 3, [np.nan] * 3])
    assert {(n.x, n.y, n.text) for n in fig.layout.annotations} == {
        ("cat", "cat", "1"),
        ("dog", "cat", "1"),
        ("dog", "dog", "2"),
    }


def test_scatter_tells_the_kinds_apart_and_refuses_to_mix_data_sets():
    points = scatter_points()
    custom = computed_costs([get_config("bcdnet_a", width=0.5)])
    fig = accuracy_cost_scatter(points, "ops_full", custom)
    names = [trace.name for trace in fig.data]
    assert names == [
        "Pareto front",
        "accuracy and cost quoted",
        "accuracy quoted, cost computed",
        "bcdnet_a: cost computed, accuracy unknown",
    ]
    assert len(fig.data[1].x) == 13 and len(fig.data[2].x) == 3
    # ReActNet-A, BCDNet-A, BCDNet-B, then level to the dearest point.
    assert list(fig.data[0].y) == [69.4, 71.8, 72.3, 72.3]
    assert fig.data[1].marker.symbol != fig.data[2].marker.symbol
    assert set(fig.data[3].x) == {custom.ops_full.item()}
    mixed = pd.concat([points, points.assign(dataset="fashion-mnist")])
    with pytest.raises(ValueError, match="do not compare"):
        accuracy_cost_scatter(mixed)


def test_scatter_shows_measured_accuracy_with_its_interval():
    points = scatter_points().tail(1).assign(kind="measured", low=67.0, high=69.0, top1=68.5)
    trace = accuracy_cost_scatter(points, "params").data[1]
    assert trace.name == "accuracy measured, cost computed"
    assert (trace.error_y.array[0], trace.error_y.arrayminus[0]) == (0.5, 1.5)


def test_time_is_written_without_prefixes():
    points = (
        scatter_points().tail(1).assign(kind="measured", cost_kind="measured", low=67.0, high=69.0, latency_ms=0.25)
    )
    fig = accuracy_cost_scatter(points, "latency_ms")
    assert fig.data[1].name == "accuracy and time measured" and list(fig.data[1].x) == [0.25]
    assert "%{x:.3~g}" in fig.data[1].hovertemplate and fig.layout.xaxis.tickformat == "~g"
    assert "%{x:.4s}" in accuracy_cost_scatter(points, "params").data[1].hovertemplate


def test_a_logarithmic_axis_leaves_out_free_points_and_names_do_not_collide():
    points = scatter_points()
    assert len(accuracy_cost_scatter(points, "bops").data[1].x) == 10  # 32/32 networks have no binary operations
    twins = points[points["name"] == "BCDNet-A"]
    twins = pd.concat([twins, twins], ignore_index=True)
    first, second = accuracy_cost_scatter(twins).data[1].textposition
    assert first != second


def test_layer_bars_add_up():
    config = get_config("bcdnet_b")
    layers, total = layer_costs(config), computed_costs([config]).iloc[0]
    ops = layer_bars(layers)
    assert sum(sum(trace.x) for trace in ops.data) == pytest.approx(total.ops_full)
    assert sum(ops.data[0].x) == pytest.approx(total.bops / 64)
    assert list(ops.data[0].y)[:2] == ["stem", "conv1_3x3"]
    memory = layer_bars(layers, "kilobytes")
    assert sum(sum(trace.x) for trace in memory.data) == pytest.approx(1e3 * total.megabytes)
