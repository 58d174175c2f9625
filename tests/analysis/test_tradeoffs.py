"""Trade-offs: the paper's numbers as printed, our counts beside them, and the shipped models' cards."""

import numpy as np
import pandas as pd
import pytest
from nets import TINY

from analysis.tradeoffs import (
    COSTS,
    computed_costs,
    custom_cost,
    layer_costs,
    measured_results,
    paper_table,
    paper_vs_computed,
    pareto_front,
    scatter_points,
    with_latency,
)
from bcdnet.variants import VARIANTS, get_config


@pytest.mark.parametrize(("number", "rows"), [(1, 20), (2, 14), (3, 6), (4, 4), (5, 4), (6, 4)])
def test_tables_are_whole_and_name_their_source(number, rows):
    table = paper_table(number)
    assert len(table) == rows
    assert table.attrs["source"] == f"Table {number}, BCDNet, ECCV 2022 (quoted)"
    assert table.attrs["caption"] and set(table.attrs["units"]) <= set(table.columns)
    assert set(table.kind) == {"quoted"}


def test_table_1_as_printed():
    table = paper_table(1).set_index("method")
    cost = ["bops", "flops", "flops_bracket", "ops", "ops_bracket", "top1", "top1_gain", "top5"]
    assert table.loc["BCDNet-B", cost].tolist() == [4.82, 0.34, 0.14, 1.09, 0.89, 72.3, 2.9, 90.5]
    assert table.loc["ReActNet-C [23]", cost[:6]].tolist() == [4.69, 1.57, 1.40, 2.30, 2.14, 71.4]
    assert table.loc["MeliusNet-59 [1]", ["bops", "flops", "ops", "top1"]].tolist() == [18.3, 2.45, 5.25, 71.0]
    assert table.loc["SLB [44]", "bops":"ops_bracket"].isna().all()
    assert table.loc["Mobile-V2 [34]", "bops"] == 0 and np.isnan(table.loc["Mobile-V2 [34]", "top5"])
    # OPs = BOPs / 64 + FLOPs holds in the printed numbers, up to rounding; MeliusNet-59 (5.31 by this sum) is
    # printed as 5.25.
    known = table.dropna(subset=["bops"]).drop("MeliusNet-59 [1]")
    np.testing.assert_allclose(known.ops, known.bops * 10 / 64 + known.flops, rtol=0, atol=0.0151)


def test_printed_averages_and_sums():
    fine = paper_table(3)
    mean = fine[["cub_200", "flowers", "aircraft", "cars", "dogs"]].mean(axis=1)
    np.testing.assert_allclose(fine.avg, mean, rtol=0, atol=0.0501)
    # The sum of all printed numbers, added up by hand from the page.
    assert paper_table(2).top1.sum() == pytest.approx(876.0)
    assert paper_table(4).top1.sum() == pytest.approx(252.04)
    assert paper_table(5)[["block_ops", "top1"]].sum().tolist() == pytest.approx([12.845, 249.43])
    final = paper_table(6).set_index("setting")
    assert final.step2_600k_top1["P-S-L"] - final.step2_600k_top1["Convolution"] == pytest.approx(1.45)
    assert final.iloc[:, :8].sum(axis=1).tolist() == pytest.approx([629.98, 635.79, 639.51, 643.17])


def test_there_is_no_table_7():
    with pytest.raises(ValueError, match="1 to 6; there is no table 7"):
        paper_table(7)


def test_counts_give_the_printed_digits_but_for_two_sums_of_rounded_terms():
    table = paper_vs_computed()
    assert len(table) == 25
    off = table[~table.agrees].set_index(["variant", "quantity"])
    assert off.index.tolist() == [("reactnet_c", "ops"), ("bcdnet_b", "ops")]
    assert off.computed.tolist() == pytest.approx([2.3055, 1.0966], abs=5e-5)
    assert (table.printed - table.computed).abs().max() < 0.01


def test_costs_of_variants_in_plain_counts():
    table = computed_costs().set_index("variant")
    assert list(table.index) == list(VARIANTS)
    row = table.loc["bcdnet_a"]
    assert (row.bops, row.params, row.binary_params) == (4_816_896_000, 46_146_384, 43_981_824)
    # 43,981,824 bits and 2,164,560 floats, in bytes
    assert row.megabytes == pytest.approx((43_981_824 / 8 + 4 * 2_164_560) / 1e6)
    assert row.ops_full == pytest.approx(4_816_896_000 / 64 + row.flops_full)
    assert set(table.kind) == {"computed"}


def test_a_layer_by_hand_and_layers_add_up():
    config = get_config("bcdnet_a", **TINY, mlp_groups=2)
    layers, total = layer_costs(config), custom_cost(config)
    first = layers.set_index("layer").loc["units.conv1_3x3.op"]
    # 4 -> 4 channels, 3x3, 28x28 tokens
    assert (first.unit, first.output, first.params, first.bops) == ("conv1_3x3", "4×28×28", 144, 144 * 784)
    assert (first.flops_full, first.flops_conv_fc, first.kilobytes) == (4 * 784, 0, 144 / 8e3)
    assert first.ops_full == 144 * 784 / 64 + 4 * 784
    for name in ("bops", "flops_full", "flops_conv_fc", "ops_full", "ops_conv_fc", "params", "binary_params"):
        assert layers[name].sum() == pytest.approx(total[name], abs=0)
    assert layers.kilobytes.sum() == pytest.approx(1e3 * total.megabytes)
    assert layers.unit.drop_duplicates().tolist()[:3] == ["stem", "conv1_3x3", "conv1_1x1"]
    assert layers.unit.drop_duplicates().tolist()[-2:] == ["fc", "fc_dist"]
    assert custom_cost(config, (56, 28)).image_size == "56x28"


@pytest.fixture
def trained():
    config = get_config("reactnet_a", **TINY)
    metrics = {"top1": 88.5, "top5": 99.5, "n": 10000, "ci95": [87.9, 89.1]}
    card = {"dataset": "fashion-mnist", "metrics": metrics}
    return [("fmnist_a", "Model a", config, card), ("fmnist_b", "Model b", config, {})]


def test_measured_results_come_from_the_cards(trained):
    table = measured_results(trained).set_index("id")
    row = table.loc["fmnist_a"]
    assert (row.top1, row.low, row.high, row.top5, row.n) == (88.5, 87.9, 89.1, 99.5, 10000)
    assert (row.variant, row.precision, row.dataset, row.kind) == ("reactnet_a", "1/1", "fashion-mnist", "measured")
    assert row.source == "measured on 10,000 test images of fashion-mnist; fmnist_a"
    assert row.bops == custom_cost(get_config("reactnet_a", **TINY)).bops
    assert np.isnan(table.top1["fmnist_b"]) and table.source["fmnist_b"] == "not measured; fmnist_b"


def test_without_models_nothing_is_measured(trained):
    assert measured_results([]).empty and list(measured_results([])) == list(measured_results(trained))
    assert set(scatter_points().kind) == {"quoted"}


def test_scatter_points_say_where_accuracy_and_cost_come_from(trained):
    points = scatter_points(trained).set_index("name")
    assert points.index.is_unique
    quoted = points[points.kind == "quoted"]
    # 13 rows of Table 1 with costs, and three of Table 2 whose cost is computed
    assert len(quoted) == 16
    assert quoted.index[quoted.cost_kind == "computed"].tolist() == [
        "ReActNet (R18)",
        "BCDNet-A (R18)",
        "BCDNet-B (R18)",
    ]
    assert points.loc["BCDNet-A", ["bops", "ops_full", "ops_conv_fc"]].tolist() == pytest.approx(
        [4.82e9, 1.08e8, 0.87e8]
    )
    assert points.loc["BCDNet-A", "params"] == 46_146_384
    assert points.loc["ResNet-18", ["ops_full", "ops_conv_fc"]].tolist() == pytest.approx([18.14e8, 18.14e8])
    assert np.isnan(points.loc["ResNet-18", "params"])
    assert points.loc["Model a", ["kind", "cost_kind", "dataset"]].tolist() == ["measured", "computed", "fashion-mnist"]
    assert set(COSTS) <= set(points.columns)


def test_pareto_front_by_hand():
    #       beaten by b, best at 2, twin of b, beaten by b, best of all, unknown cost, unknown accuracy
    cost = [1, 2, 2, 3, 4, np.nan, 1]
    top1 = [50, 60, 60, 60, 70, 99, np.nan]
    frame = pd.DataFrame({"cost": cost, "top1": top1}, index=list("abcdefg"))
    assert pareto_front(frame, "cost").index.tolist() == ["a", "b", "c", "e"]
    dearer = pd.DataFrame({"cost": [1, 2, 1], "top1": [70.0, 60.0, 65.0]})
    assert pareto_front(dearer, "cost").index.tolist() == [0]


def test_time_belongs_to_the_models_that_were_timed():
    points = pd.DataFrame(
        {
            "name": ["a", "b", "a"],
            "kind": ["quoted", "measured", "measured"],
            "cost_kind": ["quoted", "computed", "computed"],
            "source": ["paper", "card b", "card a"],
        },
        index=[3, 5, 9],
    )
    timed = with_latency(points, pd.DataFrame({"name": ["a"], "latency_ms": [0.25], "how": ["packed, avx2"]}))
    np.testing.assert_array_equal(timed.latency_ms, [np.nan, np.nan, 0.25])  # the quoted "a" is another network
    assert timed.cost_kind.tolist() == ["quoted", "computed", "measured"]
    assert timed.source.tolist() == ["paper", "card b", "card a; time: packed, avx2"]
    assert "latency_ms" not in points and timed.index.tolist() == [3, 5, 9]
