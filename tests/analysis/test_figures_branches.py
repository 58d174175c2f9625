"""Figures of the branch ledger show the numbers they were given."""

import numpy as np
import pandas as pd
import pytest
import torch

import analysis.figures.branches as figures
from analysis.branches import Knockout, branch_shares, knockout, ledger, switch_effect
from analysis.figures.palette import branch_color
from bcdnet import create_model
from bcdnet.model import Network

X = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)
CLASSES = ["shirt", "shoe", "bag"]


def net(name: str = "bcdnet_a", **overrides: object) -> Network:
    fields: dict = {"image_size": 4, "in_channels": 1, "num_classes": 3, "stem_channels": 4, "channels": (4,)}
    plan = {"blocks": (2,), "strides": (1,), "stem_stride": 1, "mlp_groups": 1, "mlps_per_conv": 1}
    torch.manual_seed(0)
    return create_model(name, **{**fields, **plan, **overrides}).eval()


def entries() -> pd.DataFrame:
    terms = {"point": [1.0, 2, 0], "short": [0.5, -3, 1], "short 2": [1.0, 1, 1], "bias": [0.0, -9, 0]}
    return pd.DataFrame({"channel": [0, 1, 2], **terms, "total": [2.5, -9, 2]})


def test_a_token_ledger_stacks_the_terms_of_the_largest_channels():
    fig = figures.token_ledger(entries(), most=2)
    assert [trace.name for trace in fig.data] == ["point", "short", "short 2", "bias", "computed by the network"]
    assert all(list(trace.x) == ["1", "0"] for trace in fig.data) and fig.layout.barmode == "relative"
    assert [list(trace.y) for trace in fig.data] == [[2, 1], [-3, 0.5], [1, 1], [-9, 0], [-9, 2.5]]
    point, short, second = fig.data[:3]
    assert point.marker.color == branch_color("point") and second.marker.color == short.marker.color
    assert second.marker.pattern.shape != short.marker.pattern.shape
    assert list(figures.token_ledger(entries(), [2, 0]).data[0].y) == [0, 1]
    with pytest.raises(ValueError, match="channels 0 to 2, not 7"):
        figures.token_ledger(entries(), [0, 7])


def test_sources_of_one_branch_are_told_apart():
    fig = figures.token_ledger(ledger(net(), X, "mlp1_1", sources=True).token(0, 0))
    looks = [(trace.marker.color, trace.marker.pattern.shape) for trace in fig.data[:-1]]
    assert len(set(looks)) == len(looks) == 11


def test_term_maps_on_one_scale_and_on_several():
    a, b = np.array([[1.0, -2]]), np.array([[0.5, 0]])
    fig = figures.term_maps([{"a": a, "b": b}, {"c": 0 * a}], token=(0, 1))
    assert [trace.z.tolist() for trace in fig.data] == [a.tolist(), b.tolist(), [[0, 0]]]
    assert all((trace.zmin, trace.zmax) == (-2, 2) for trace in fig.data)
    assert [trace.showscale for trace in fig.data] == [True, False, False]
    assert [note.text for note in fig.layout.annotations if note.text] == ["a", "b", "c", "0 everywhere"]
    assert len(fig.layout.shapes) == 3 and fig.layout.shapes[0].x0 == 0.5
    own = figures.term_maps([{"a": a, "b": b}], [[2, 0.5]])
    assert [trace.z.tolist() for trace in own.data] == [[[0.5, -1]], [[1, 0]]] and own.data[0].zmax == 1
    assert own.data[1].customdata.tolist() == b.tolist()
    assert [note.text for note in own.layout.annotations] == ["a<br>±2", "b<br>±0.5"]
    lost = figures.term_maps([{"a": np.full((2, 2), np.nan)}])
    assert lost.layout.annotations[-1].text == "not finite" and lost.data[0].zmax == 1


def test_share_bars_show_percentages_branches_first():
    shares = branch_shares(net(), X)
    fig = figures.share_bars(shares, "magnitude_share")
    assert [trace.name for trace in fig.data] == ["conv", "point", "short", "long", "bias", "shortcut"]
    for trace in fig.data:
        part = shares[shares.term == trace.name]
        np.testing.assert_allclose(trace.y, 100 * part.magnitude_share)
        assert list(trace.x) == list(part.layer)
    with pytest.raises(ValueError, match="measure is variance_share or magnitude_share"):
        figures.share_bars(shares, "magnitude")


def test_a_knockout_has_a_cell_for_every_branch_there_is():
    row = {"low": 1.0, "high": 99.0, "mended": 1, "p": 0.5}
    table = pd.DataFrame(
        [
            {"name": "a conv", "layer": "a", "branch": "conv", "changed": 5, "top1": 40, "difference": -10.0, **row},
            {"name": "b long", "layer": "b", "branch": "long", "changed": 0, "top1": 50, "difference": 0.0, **row},
            {"name": "two", "layer": "", "branch": "", "changed": 9, "top1": 60, "difference": 99.0, **row},
        ]
    ).assign(broken=2)
    found = Knockout(table, 50, 40, 60, 20, "zero")
    (cells,) = figures.knockout_heatmap(found).data
    np.testing.assert_array_equal(cells.z, [[-10, np.nan], [np.nan, 0]])
    assert list(cells.x) == ["conv", "long"] and list(cells.y) == ["a", "b"] and (cells.zmin, cells.zmax) == (-10, 10)
    assert cells.text.tolist() == [["-10.0", ""], ["", "0.0"]]
    assert "5 of 20 classes change" in cells.customdata[0][0] and "2 turn wrong" in cells.customdata[0][0]
    (share,) = figures.knockout_heatmap(found, "changed").data
    assert share.z[0][0] == 25 and (share.zmin, share.zmax) == (0, 25)
    unknown = knockout(net(), X)
    with pytest.raises(ValueError, match="a difference needs labels"):
        figures.knockout_heatmap(unknown)
    assert "top-1" not in figures.knockout_heatmap(unknown, "changed").data[0].customdata[0][0]


def test_effect_bars_show_the_likeliest_of_both():
    effect = switch_effect(net(), X, [("mlp1_1", "long")])
    before, after = figures.effect_bars(effect, CLASSES, top=3).data
    order = effect.before.sort_values(ascending=False).index
    assert list(before.y) == [CLASSES[k] for k in order] and (before.name, after.name) == ("as it is", "switched off")
    np.testing.assert_allclose(before.x, 100 * effect.p_before[order])
    np.testing.assert_allclose(after.x, 100 * effect.p_after[order])
    swapped = pd.DataFrame({"index": [0, 1, 2], "before": [2.0, 1, 0], "after": [0.0, 1, 2]})
    swapped = swapped.assign(change=0, p_before=[0.7, 0.2, 0.1], p_after=[0.1, 0.2, 0.7])
    assert list(figures.effect_bars(swapped, CLASSES, top=1).data[0].y) == ["shirt", "bag"]
    with pytest.raises(ValueError, match="2 class names for 3 logits"):
        figures.effect_bars(effect, CLASSES[:2])
