"""Receptive fields: sets, growth and effective fields are what the analysis says, for several models side by side."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import assert_fine, charts, each_tab, metrics, open_page, until
from streamlit.testing.v1 import AppTest

from analysis import receptive_field
from app import cache

ROOT = Path(__file__).resolve().parents[2]
GROWTH, COUNTS = "From layer to layer", "How much each pixel counts"


def drawn(at: AppTest, alt: str) -> dict[str, Any]:
    """The one figure whose description begins with ``alt``."""
    (chart,) = [chart for chart in at.get("plotly_chart") if chart.proto.alt.startswith(alt)]
    found: dict[str, Any] = json.loads(chart.proto.spec)
    return found


def fields(at: AppTest) -> int:
    return sum(chart.proto.alt.startswith("Effective receptive field") for chart in at.get("plotly_chart"))


def finished(at: AppTest, count: int) -> AppTest:
    return until(at, lambda at: fields(at) == count)


def agreed(at: AppTest) -> None:
    next(button for button in at.button if button.label == "Compute it").click().run()


def model_of(identity: str) -> cache.Model:
    return next(model for model in cache.catalogue()[0] if model.id == identity)


def test_the_set_is_the_analysis_own_with_what_only_wrapping_or_no_convolution_reaches() -> None:
    at = open_page("receptive", layer="mlp1_1", row="0", col="0")
    assert_fine(at)
    model = cache.catalogue()[0][0]
    with cache.locked(model) as network:
        field, plain, alone, far = (
            receptive_field.exact_receptive_field(network, "mlp1_1", 0, 0),
            receptive_field.exact_receptive_field(network, "mlp1_1", 0, 0, wrap=False),
            receptive_field.exact_receptive_field(network, "mlp1_1", 0, 0, kinds="P"),
            receptive_field.branch_receptive_field(network, "mlp1_1", "long", 0, 0),
        )
    assert alone.sum() < plain.sum() < field.sum()
    shown = metrics(at)
    assert (shown["Of the picture"], shown["Convolutions"]) == (f"{field.mean():.1%}", f"{alone.mean():.1%}")
    assert shown["By wrapping"] == f"{(field & ~plain).sum() / field.sum():.1%}"
    share = f"{field.mean():.0%} of the pixels can reach row 0, column 0 of mlp1_1; "
    drawn(at, f"{share}{(field & ~plain).mean():.0%} are reached only round the border")
    at.segmented_control(key="field_beyond").set_value("convolutions").run()
    drawn(at, f"{share}{(field & ~alone).mean():.0%} are not reached by convolutions alone")
    at.segmented_control(key="field_branch").set_value("long").run()
    assert_fine(at)
    drawn(at, f"{far.mean():.0%} of the pixels can reach row 0, column 0 of mlp1_1; ")


def test_fields_of_several_models_grow_in_one_figure() -> None:
    at = open_page("receptive", field_tab=GROWTH, model="a_bcdnet", beside="reactnet,b_bcdnet")
    assert_fine(at)
    names = [trace["name"] for trace in drawn(at, "Share of the picture")["data"]]
    titles = [model_of(identity).title for identity in ("a_bcdnet", "reactnet", "b_bcdnet")]
    assert [name for name in names if name in titles] == titles
    assert f"{titles[0]}, convolutions alone" in names and f"{titles[1]}, convolutions alone" not in names


def test_effective_fields_by_both_methods_stand_side_by_side_and_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = cache.test_set()
    assert data is not None
    for k in range(3):
        data.images[k].save(tmp_path / f"{k}.png")
    monkeypatch.setenv("BCDNET_IMAGES", str(tmp_path))
    monkeypatch.setattr(cache, "seconds_per_image", lambda model: 1.0)  # so it asks, however fast the machine
    where = {"field_tab": COUNTS, "layer": "mlp1_1", "row": "2", "col": "3", "set": f"folder-{tmp_path}"}
    at = open_page("receptive", model="a_bcdnet", beside="reactnet", erf_method="both", **where)
    agreed(at)
    finished(at, 4)
    assert_fine(at)
    table = next(frame for frame in at.dataframe if frame.proto.alt.startswith("Areas of")).value
    assert list(table.by) == ["gradient", "gradient", "perturbation", "perturbation"]
    model = model_of("a_bcdnet")
    images = next(at.session_state["images"].data.batches(cache.preprocess(model), 3))[0]
    with cache.locked(model) as network:
        both = [
            receptive_field.effective_receptive_field(network, images, "mlp1_1", 2, 3, method)
            for method in ("gradient", "perturbation")
        ]
    for row, erf in zip((0, 2), both, strict=True):
        np.testing.assert_allclose(table["50 %"][row], 100 * erf.area[50])
        np.testing.assert_allclose(table.wrapped[row], 100 * erf.wrapped, atol=1e-3)
    np.testing.assert_allclose(table.agreement[:3:2], receptive_field.agreement(*both), atol=1e-6)
    # ReActNet-A has no layer of that name: its last one with a map of the same size stands in.
    assert table.token[1].endswith("(2, 3)") and "mlp1_1" not in table.token[1]


def test_one_scale_for_all_maps_has_one_largest_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "seconds_per_image", lambda model: 1e-3)  # so it does not ask
    at = finished(open_page("receptive", field_tab=COUNTS, model="a_bcdnet", beside="reactnet", scale="all"), 2)
    tops = {
        json.loads(chart.proto.spec)["data"][0]["zmax"]
        for chart in at.get("plotly_chart")
        if chart.proto.alt.startswith("Effective")
    }
    assert len(tops) == 1
    at.segmented_control(key="scale").set_value("map").run()
    tops = {
        json.loads(chart.proto.spec)["data"][0]["zmax"]
        for chart in at.get("plotly_chart")
        if chart.proto.alt.startswith("Effective")
    }
    assert len(tops) == 2


def test_much_work_tells_its_cost_and_waits_for_one_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "seconds_per_image", lambda model: 0.01)
    where = {"layer": "conv1_3x3", "row": "2", "col": "3"}
    at = open_page("receptive", model="reactnet", beside="a_bcdnet", erf_method="perturbation", **where)
    assert_fine(at)
    assert not at.info and charts(at) == 1  # nothing is asked until the tab is opened
    at.session_state["field_tab"] = COUNTS
    at.run()
    assert_fine(at)
    # 16 images, each once whole and once for each of 14 x 14 blocks, which MLPs take twice: 3152 and 6288 passes.
    assert ["9,440 forward passes, about 2 min" in note.value for note in at.info] == [True] and fields(at) == 0
    agreed(at)
    assert_fine(finished(at, 2))


def test_the_code_of_every_figure_makes_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("BCDNET_CHECKPOINTS")
    at = open_page("receptive", model="fmnist_bcdnet_a", beside="fmnist_reactnet_a", field_branch="long")
    counts = []
    for tab in each_tab(at):
        if tab == COUNTS:
            finished(at, 2)
        assert_fine(at)
        counts.append(charts(at))
        for code, chart in zip(at.code, at.get("plotly_chart"), strict=True):
            scope: dict[str, Any] = {}
            exec(code.value, scope)
            made, shown = json.loads(scope["figure"].to_json()), json.loads(chart.proto.spec)
            assert [trace["type"] for trace in made["data"]] == [trace["type"] for trace in shown["data"]]
            assert made["data"][0].get("z") == shown["data"][0].get("z")
            assert made["data"][0].get("y") == shown["data"][0].get("y")
    assert counts == [1, 1, 2]
