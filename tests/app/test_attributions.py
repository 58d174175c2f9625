"""Attribution: what judges a map, the grid of maps, and two models on one scale."""

import base64
import functools
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import assert_fine, open_page, until
from streamlit.testing.v1 import AppTest

from analysis import attribution, faithfulness
from app import cache

ROOT = Path(__file__).resolve().parents[2]
#: Tab -> beginnings of the descriptions of its figures.
TABS = {
    "Is it faithful?": ["Deletion area", "infidelity"],
    "Randomised": ["Rank correlation with the trained"],
    "Surrogate meter": ["Rank correlation with block ablation"],
    "Grid": ["Maps by methods and classes"],
    "Two models": ["Tiny", "Tiny"],
}


def opened(tab: str, wait: int, **query: str) -> AppTest:
    """The page with a tab open, once its figures, more than the three above, are there."""
    at = open_page("attributions", attribution_tab=tab, **query)
    for button in at.button:
        if button.label == "Compute it":
            button.click().run()
    return until(at, lambda at: len(at.get("plotly_chart")) == 3 + wait)


def figure(at: AppTest, alt: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        json.loads(chart.proto.spec) for chart in at.get("plotly_chart") if chart.proto.alt.startswith(alt)
    )
    return found


def test_nothing_slow_is_computed_until_its_tab_is_opened() -> None:
    at = open_page("attributions")
    assert_fine(at)
    assert len(at.get("plotly_chart")) == 3 and not at.get("progress")


def test_a_slow_map_is_made_in_the_background_and_can_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, made = threading.Event(), attribution.attribute

    @functools.wraps(made)
    def held(*arguments: Any, **options: Any) -> attribution.Attribution:
        assert arguments[3] == "grad_cam" or gate.wait(60)
        return made(*arguments, **options)

    monkeypatch.setattr(attribution, "attribute", held)
    monkeypatch.setattr(cache, "seconds_per_image", lambda model: 0.02)  # 50 passes take one second
    at = open_page("attributions", image="55")
    try:
        assert_fine(at)
        assert len(at.get("plotly_chart")) == 2 and len(at.get("progress")) == 1  # Grad-CAM is there meanwhile
        next(button for button in at.button if button.label == "Cancel").click().run()
        assert any("Cancelled; nothing was kept. Block ablation: 50 forward passes" in note.value for note in at.info)
    finally:
        gate.set()
    next(button for button in at.button if button.label == "Compute it").click().run()
    until(at, lambda at: len(at.get("plotly_chart")) == 3)


def test_the_options_of_a_method_are_in_the_link_and_stay_from_page_to_page() -> None:
    at = open_page("attributions", method="occlusion", occlusion_window="14", occlusion_stride="999")
    assert_fine(at)
    assert at.number_input(key="occlusion_window").value == 14 and at.number_input(key="occlusion_stride").value is None
    assert any("window=14" in code.value for code in at.code)
    at.number_input(key="occlusion_stride").set_value(7).run()
    at.switch_page("views/sampling.py").run()
    at.switch_page("views/attributions.py").run()
    assert at.number_input(key="occlusion_window").value == 14 and at.number_input(key="occlusion_stride").value == 7
    assert {name: at.query_params[f"occlusion_{name}"] for name in ("window", "stride")} == {
        "window": "14",
        "stride": "7",
    }


def test_options_that_do_not_go_together_are_explained() -> None:
    at = open_page("attributions", method="occlusion", occlusion_window="4", occlusion_stride="9")
    assert not at.exception and "must not exceed the window" in at.error[0].value


def test_noise_is_set_in_percent() -> None:
    at = open_page("attributions", method="smooth_grad", smooth_grad_samples="2", smooth_grad_noise="30")
    assert_fine(at)
    assert any("samples=2, noise=0.3)" in code.value for code in at.code)


@pytest.mark.parametrize("tab", TABS)
def test_every_tab_draws_its_figures(tab: str) -> None:
    at = opened(tab, len(TABS[tab]), method="input_x_gradient", model="a_bcdnet", beside="b_bcdnet")
    assert_fine(at)
    drawn = [chart.proto.alt for chart in at.get("plotly_chart")][3:]
    assert all(alt.startswith(start) for alt, start in zip(drawn, TABS[tab], strict=True)), drawn


def test_the_map_is_judged_as_the_analysis_judges_it() -> None:
    at = opened("Is it faithful?", 2, method="input_x_gradient", model="a_bcdnet")
    model = cache.catalogue()[0][0]
    x, target = cache.seen(model, cache.test_picture(0)).x, at.selectbox(key="target").value
    with cache.locked(model) as network:
        wanted = faithfulness.judge(network, x, target, "input_x_gradient")
    random = wanted.curves.deletion.random.mean()
    figure(at, f"Deletion area {wanted.curves.deletion.value:.3f}, of random maps {random:.3f}")
    figure(at, f"infidelity {wanted.infidelity.value:.3g}, of random maps {wanted.infidelity.random.mean():.3g}")


def test_the_grid_has_any_two_axes_and_says_what_a_class_is_compared_with() -> None:
    at = opened("Grid", 1, grid_rows="layers", grid_columns="classes", model="a_bcdnet")
    assert_fine(at)
    titles = [note["text"] for note in figure(at, "Maps by layers and classes")["layout"]["annotations"]]
    last = cache.target_layers(cache.catalogue()[0][0])[-1]
    assert sum(title.startswith(f"{last} · ") for title in titles) == 3
    assert any("Only Grad-CAM has layers" in note.value for note in at.caption)
    at.segmented_control(key="scale").set_value("all").run()
    heat = [trace for trace in figure(at, "Maps by layers")["data"] if trace["type"] == "heatmap"]
    assert len({trace["zmax"] for trace in heat}) == 1 and heat[0]["zmax"] != 1


def test_the_wipe_shows_one_model_left_and_the_other_right() -> None:
    at = opened("Two models", 2, method="input_x_gradient", model="a_bcdnet", beside="b_bcdnet", wipe="25")
    left, both = (json.loads(chart.proto.spec)["data"] for chart in at.get("plotly_chart")[3:])
    one, two, difference = (decoded(trace["customdata"]) for trace in both[:3])
    cut = decoded(left[0]["customdata"])
    np.testing.assert_array_equal(cut[:, :7], one[:, :7])
    np.testing.assert_array_equal(cut[:, 7:], two[:, 7:])
    np.testing.assert_allclose(difference, one - two)


def decoded(value: Any) -> np.ndarray:
    """An array as Plotly sends it."""
    shape = [int(side) for side in value["shape"].split(",")]
    return np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"]).reshape(shape)


@pytest.mark.parametrize("tab", TABS)
def test_the_code_of_every_figure_makes_what_is_drawn(tab: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BCDNET_CHECKPOINTS")
    monkeypatch.chdir(ROOT)
    at = opened(tab, len(TABS[tab]), method="input_x_gradient", image="3")
    charts = at.get("plotly_chart")
    for code, chart in list(zip(at.code, charts, strict=True))[3:]:
        scope: dict[str, Any] = {}
        exec(code.value, scope)
        made, shown = json.loads(scope["figure"].to_json()), json.loads(chart.proto.spec)
        assert [trace["type"] for trace in made["data"]] == [trace["type"] for trace in shown["data"]]
        assert made["layout"].get("annotations") == shown["layout"].get("annotations")
