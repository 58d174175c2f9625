"""The page on binarization, run without a browser on tiny untrained checkpoints."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from nets import TINY
from streamlit.testing.v1 import AppTest

import bcdnet
from analysis import binarization, bits
from app import cache

MAIN = str(Path(__file__).resolve().parents[2] / "app" / "main.py")
DETAILS = {"Activations": 2, "Margins": 3, "Thresholds": 3, "Fewest flips": 3, "Information": 1}


@pytest.fixture(autouse=True)
def tiny_models(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCDNET_CHECKPOINTS", str(checkpoints))
    monkeypatch.chdir(checkpoints)  # where the exported code looks for them
    cache._results.clear()


def open_page(**query: str) -> AppTest:
    at = AppTest.from_file(MAIN, default_timeout=60)
    at.query_params.update({"model": "a_bcdnet", "beside": "b_bcdnet,reactnet", **query})
    at.run()
    at.switch_page("views/binarizing.py").run()
    assert_fine(at)
    return at


def assert_fine(at: AppTest) -> None:
    assert not at.exception, [e.message for e in at.exception]
    assert not at.error, [e.value for e in at.error]


def finished(at: AppTest) -> AppTest:
    """The page when its jobs have ended, which a browser would ask about by itself."""
    for _ in range(200):
        if not any("Cancel" in button.label for button in at.button):
            return at
        time.sleep(0.1)
        at.run()
    raise AssertionError("the work does not end")


def drawn(at: AppTest) -> dict[str, dict[str, Any]]:
    """What every figure of the page says in words -> what it draws."""
    return {chart.proto.alt: json.loads(chart.proto.spec) for chart in at.get("plotly_chart")}


def said(at: AppTest) -> str:
    return "\n".join(text.value for text in [*at.markdown, *at.caption, *at.info])


def model(identity: str) -> cache.Model:
    return next(model for model in cache.catalogue()[0] if model.id == identity)


def test_errors_of_all_models_stand_beside_each_other_and_the_order_is_checked() -> None:
    at = open_page()
    figure = next(spec for alt, spec in drawn(at).items() if alt.startswith("Binarization error of every branch"))
    titles = {note["text"] for note in figure["layout"]["annotations"]}
    assert titles == {"Tiny a_bcdnet", "Tiny b_bcdnet"}  # the other one has no MLPs
    table = next(frame for frame in at.dataframe if "quoted order" in frame.proto.alt).value.set_index("model")
    own = binarization.branch_order(cache.ask(binarization.binarization_error, model("a_bcdnet")))
    row = table.loc["Tiny a_bcdnet"]
    assert (row.layers, row.as_paper, row.opposite) == (len(own), own.as_paper.sum(), own.opposite.sum())
    assert len(own) == 6 and "Tiny reactnet" not in table.index
    as_paper, layers = table.as_paper.sum(), table.layers.sum()
    begin = f"in none of the {layers}" if not as_paper else f"in {as_paper} of {layers}"
    assert begin in said(at) and "quoted · BCDNet, section 5.3.3" in said(at)
    at.segmented_control(key="part").set_value("group").run()
    assert_fine(at)
    figure = next(spec for alt, spec in drawn(at).items() if alt.startswith("Binarization error of every branch"))
    assert {note["text"] for note in figure["layout"]["annotations"]} == {*titles, "Tiny reactnet"}


@pytest.mark.parametrize(
    ("as_paper", "sentence"),
    [([2, 3], "The order shows** in all 5"), ([1, 3], "in 4 of 5 MLP"), ([0, 0], "The order does not show here**")],
)
def test_the_verdict_follows_the_numbers(as_paper: list[int], sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = binarization.order_summary

    def summary(errors: Any, measure: str) -> Any:
        return real(errors, measure).assign(layers=[2, 3], as_paper=as_paper)

    monkeypatch.setattr(binarization, "order_summary", summary)
    assert sentence in said(open_page(beside="b_bcdnet"))


def test_a_range_of_one_histogram_marks_the_same_weights_in_the_others() -> None:
    at = open_page(layer="mlp1_2", branch="long")
    assert "Marked:" not in said(at)
    at.selectbox(key="mark").select("scaled").run()
    weights = cache.ask(binarization.latent_weights, model("a_bcdnet"), "mlp1_2", "long")
    edges = binarization.histogram_edges(weights)
    at.select_slider(key="mark_from").set_value(50).run()
    at.select_slider(key="mark_to").set_value(42).run()  # the wrong way round
    assert_fine(at)
    marked = binarization.mark_weights(weights, edges[42], edges[50], "scaled")
    assert f"Marked: {marked.n:,} weights, {marked.share:.1%} of the branch" in said(at)
    figure = next(spec for alt, spec in drawn(at).items() if alt.startswith("Histograms"))
    assert len(figure["data"]) == 12
    for mark, share in (("+1", "100.0%"), ("-1", "0.0%")):
        at.selectbox(key="mark").select(mark).run()
        n = int((weights.sign == int(mark)).sum())
        assert f"Marked: {n:,} weights" in said(at) and f"{share} of them are +1" in said(at)
    at.selectbox(key="mark").select("latent").run()
    at.select_slider(key="mark_from").set_value(0).run()
    at.select_slider(key="mark_to").set_value(0).run()
    assert_fine(at)


def test_a_link_restores_marks_and_the_opened_tab() -> None:
    at = open_page(mark="latent", mark_from="3", mark_to="60", details="Margins", margin="mean", branch="short")
    assert at.selectbox(key="mark").value == "latent" and at.select_slider(key="mark_to").value == 60
    assert at.segmented_control(key="margin").value == "mean" and at.selectbox(key="branch").value == "short"
    assert at.query_params["details"] == "Margins"


@pytest.mark.parametrize("tab", DETAILS)
def test_the_code_of_every_figure_makes_what_is_drawn(tab: str) -> None:
    at = finished(open_page(details=tab, within="True", budget="50", mark="latent", image="7"))
    assert_fine(at)
    charts = [json.loads(chart.proto.spec) for chart in at.get("plotly_chart")]
    assert len(charts) == len(at.code) == 2 + DETAILS[tab]
    assert all(chart.proto.alt for chart in at.get("plotly_chart")) and all(frame.proto.alt for frame in at.dataframe)
    for block in at.code:
        scope: dict[str, Any] = {}
        exec(block.value, scope)
        made = json.loads(scope["figure"].to_json())
        assert any(made["data"] == spec["data"] for spec in charts), block.value


@pytest.mark.parametrize("tab", DETAILS)
@pytest.mark.parametrize(("identity", "other"), [("reactnet", "twin"), ("twin", "reactnet")])
def test_every_tab_has_something_to_say_of_every_network(tab: str, identity: str, other: str) -> None:
    at = finished(open_page(model=identity, beside=other, details=tab, budget="50"))
    assert_fine(at)
    if tab == "Thresholds":
        assert "the same for every picture" in said(at)
    if tab == "Fewest flips" and identity == "twin":
        assert "real activations, so there are no bits to flip" in said(at)
    kinds = ("selectbox", "multiselect", "number_input", "slider", "select_slider", "toggle", "button_group")
    assert not [(kind, w.proto.label) for kind in kinds for w in at.get(kind) if not w.proto.help]


@pytest.mark.parametrize("tab", DETAILS)
def test_a_mixer_of_whose_blocks_every_half_has_bits(
    tab: str, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    changes = {"width": 1 / 64, "stem_stride": 4, "blocks": (2,), "strides": (1,)}
    mixer = bcdnet.create_model("mlp_mixer_s", **{**TINY, **changes})
    bcdnet.save(mixer, tmp_path / "mixer.safetensors", bcdnet.load(checkpoints / "twin.safetensors").card)
    monkeypatch.setenv("BCDNET_CHECKPOINTS", str(tmp_path))
    at = finished(open_page(model="mixer", details=tab, budget="400"))
    assert_fine(at)
    assert tab != "Fewest flips" or any(alt.startswith("Where the bits lie") for alt in drawn(at))


def test_maps_of_one_row_share_their_scale_until_asked_otherwise() -> None:
    at = open_page(details="Margins", margin_layers="mlp1_1")

    def scales() -> list[float]:
        return [spec["data"][0]["zmax"] for alt, spec in drawn(at).items() if alt.startswith("Margins of")]

    at.multiselect(key="margin_layers").set_value(["mlp2_1"]).run()
    assert_fine(at)
    first, second = scales()[:2], scales()[-2:]
    assert len(set(first)) == len(set(second)) == 1 and first[0] != second[0]
    assert "This network has no such layer." in said(at)  # ReActNet, in both rows
    at.segmented_control(key="scale").set_value("all").run()
    assert set(scales()) == {max(first[0], second[0])}
    at.segmented_control(key="margin").set_value("channel").run()
    at.number_input(key="channel").set_value(5).run()
    assert_fine(at)
    expected = cache.ask(bits.layer_margins, model("b_bcdnet"), cache.test_picture(0), "mlp2_1", 5, True).value
    shown = next(spec for alt, spec in drawn(at).items() if alt.startswith("Margins of mlp2_1 of Tiny b_bcdnet"))
    assert json.loads(json.dumps(shown["data"][0]["zmax"])) >= np.abs(expected).max()


def test_the_fewest_flips_are_told_as_found_or_not() -> None:
    at = finished(open_page(details="Fewest flips", layer="mlp2_1", orders="gradient,random", budget="50"))
    assert_fine(at)
    options: dict[str, Any] = {"orders": ("gradient", "random"), "towards": None, "budget": 50}
    found = cache.ask(bits.compare_orders, model("a_bcdnet"), cache.test_picture(0), "mlp2_1", **options)
    for name, flips in found.items():
        text = next(text.value for text in at.markdown if text.value.startswith(f"- *{name}*"))
        if flips.found:
            assert f"**{flips.k:,} bit" in text and f"{flips.forwards} forward passes" in text
            assert ("can be put back" in text) == flips.irreducible
        else:
            assert "nothing found" in text


def test_how_a_search_ended_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = bits.fewest_flips

    def searches(network: Any, x: Any, layer: str, **options: Any) -> dict[str, bits.BitFlips]:
        one = real(network, x, layer, budget=4)
        few = pd.DataFrame({"layer": layer, "channel": [0, 1], "row": 0, "col": 0, "before": 1, "margin": 0.5})
        none = {"found": False, "bits": few[:0], "total": 4000}
        some = {"found": True, "bits": few, "total": 4000, "before": 3, "after": 5}
        return {
            "gradient": dataclasses.replace(one, **some, irreducible=True, forwards=60),
            "margin": dataclasses.replace(one, **some, irreducible=False, forwards=100),
            "random": dataclasses.replace(one, **none, forwards=100),
            "other": dataclasses.replace(one, **none, forwards=15),
        }

    monkeypatch.setattr(bits, "compare_orders", searches)
    at = finished(open_page(details="Fewest flips", layer="conv1_3x3"))
    assert_fine(at)
    told = {line.value.split("*")[1]: line.value for line in at.markdown if line.value.startswith("- *")}
    classes = model("a_bcdnet").classes
    turned = f"**2 bits** found, 0.05% of 4,000, which turn {classes[3]} into **{classes[5]}**"
    assert turned in told["gradient"] and "no single one of them can be put back" in told["gradient"]
    assert turned in told["margin"] and "so fewer of these may do" in told["margin"]
    assert "the budget of 100 passes ended" in told["random"] and "whether a set exists" in told["random"]
    assert "none changes the class" in told["other"] and "budget" not in told["other"]


def test_context_thresholds_are_left_out_of_the_model_that_has_them() -> None:
    at = finished(open_page(details="Thresholds", layer="conv1_3x3"))
    assert_fine(at)
    found = cache.ask(bits.dynamic_bits, model("b_bcdnet"), cache.test_picture(0))
    changed, total = found.layers.changed.sum(), found.layers.bits.sum()
    assert f"Of {total:,} bits with a dynamic threshold, **{changed:,}**" in said(at)
    assert "stays **" in said(at)  # an embedding begins at zero, so nothing changes
