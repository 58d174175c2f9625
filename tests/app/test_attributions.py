"""Attribution: what judges a map, the grid of maps, and two models on one scale."""

import base64
import functools
import io
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import assert_fine, open_page, until
from PIL import Image
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


def done(at: AppTest) -> AppTest:
    """The page once no job goes on: on a busy machine even a small map is made in the background."""
    return until(at, lambda at: not any(button.label == "Cancel" for button in at.button))


def figure(at: AppTest, alt: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        json.loads(chart.proto.spec) for chart in at.get("plotly_chart") if chart.proto.alt.startswith(alt)
    )
    return found


def test_nothing_slow_is_computed_until_its_tab_is_opened() -> None:
    at = done(open_page("attributions"))
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
    at = done(open_page("attributions", method="occlusion", occlusion_window="14", occlusion_stride="999"))
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
    at = done(open_page("attributions", method="smooth_grad", smooth_grad_samples="2", smooth_grad_noise="30"))
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
    assert sum(title.startswith(f"{last}<br>(exact)<br>") for title in titles) == 3
    assert any("<br>(surrogate)<br>" in title for title in titles)
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
    """What Plotly sends: an array as bytes, or as a list."""
    if not isinstance(value, dict):
        return np.asarray(value)
    flat = np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"])
    return flat.reshape([int(side) for side in value["shape"].split(",")]) if "shape" in value else flat


def test_the_grid_says_of_every_map_which_difference_it_explains() -> None:
    plain = titles(opened("Grid", 1, model="a_bcdnet"))
    names = cache.catalogue()[0][0].classes
    last = cache.target_layers(cache.catalogue()[0][0])[-1]
    assert {tuple(title[:2]) for title in plain} == {
        ("Grad-CAM", f"({last}, exact)"),
        ("Input × gradient", "(surrogate)"),
        ("Block ablation", "(exact)"),
    }
    rival = plain[1][2]
    compared = titles(opened("Grid", 1, model="a_bcdnet", against=str(names.index(rival))))
    shown = {title[2] for title in compared}
    assert len(shown) == 3 and all(name.endswith(f" − {rival}") for name in shown) and f"{rival} − {rival}" not in shown


def test_the_grid_holds_what_is_chosen_and_the_methods_options() -> None:
    query = {"method": "feature_ablation", "feature_ablation_grid": "3", "grid_classes": "7,2"}
    at = opened("Grid", 1, model="a_bcdnet", grid_methods="feature_ablation", **query)
    assert_fine(at)
    assert [title[2] for title in titles(at)] == ["Sneaker", "Pullover"]
    drawn = figure(at, "Maps by methods")["data"][0]
    model = cache.catalogue()[0][0]
    with cache.locked(model) as network:
        x = cache.seen(model, cache.test_picture(0)).x
        wanted = attribution.attribute(network, x, 7, "feature_ablation", grid=3).map
    np.testing.assert_allclose(decoded(drawn["customdata"]), wanted, rtol=0, atol=1e-9)
    # A choice stays when the class does not, and is in the link.
    done(at.selectbox(key="target").select(8).run())
    assert at.multiselect(key="grid_classes").value == ["7", "2"] and at.query_params["grid_classes"] == "7,2"
    at.multiselect(key="grid_methods").set_value([]).run()
    assert any("Choose at least one for the rows" in note.value for note in at.info)


def test_the_grid_begins_with_the_chosen_class() -> None:
    at = opened("Grid", 1, model="a_bcdnet")
    before = at.multiselect(key="grid_classes").value
    assert before[0] == str(at.selectbox(key="target").value)
    done(at.selectbox(key="target").select(int(before[2])).run())
    assert at.multiselect(key="grid_classes").value == [before[2], *before[:2]]


def titles(at: AppTest) -> list[list[str]]:
    """The lines that stand above each map of the grid."""
    notes = figure(at, "Maps by")["layout"]["annotations"]
    return [note["text"].split("<br>") for note in notes]


def test_both_maps_can_be_put_on_one_scale() -> None:
    at = done(open_page("attributions", method="input_x_gradient", model="a_bcdnet"))

    def reach() -> list[tuple[float, float]]:
        heat = [json.loads(chart.proto.spec)["data"][0] for chart in at.get("plotly_chart")[1:3]]
        return [(trace["zmax"], float(np.abs(decoded(trace["customdata"])).max())) for trace in heat]

    assert all(limit == pytest.approx(largest) for limit, largest in reach())
    at.segmented_control(key="map_scale").set_value("all").run()
    (left, first), (right, second) = reach()
    assert left == right == pytest.approx(max(first, second)) and first != pytest.approx(second)


def test_a_map_can_be_drawn_over_the_picture_that_was_uploaded() -> None:
    pixels = np.zeros((30, 40), np.uint8)
    pixels[14, 20] = 255  # the one bright pixel
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    at = open_page("attributions", model="a_bcdnet", method="feature_ablation", drawn_on="picture")
    assert not any(control.key == "drawn_on" for control in at.segmented_control)  # of a test image all is seen
    at.segmented_control(key="source").set_value("Upload").run()
    at.file_uploader(key="upload").upload("wide.png", stream.getvalue())
    at.run()
    done(at.segmented_control(key="drawn_on").set_value("picture").run())
    assert_fine(at)
    spec = json.loads(at.get("plotly_chart")[1].proto.spec)
    heat, under = spec["data"][0], spec["layout"]["images"][0]
    # 28 x 28 cells over the middle 30 x 30 pixels, of which the first is pixel 5.
    assert heat["dx"] == heat["dy"] == pytest.approx(30 / 28)
    assert (heat["x0"], heat["y0"]) == pytest.approx((5 + 15 / 28 - 0.5, 15 / 28 - 0.5))
    assert (under["sizex"], under["sizey"]) == (40, 30) and spec["layout"]["xaxis"]["range"] == [-0.5, 39.5]
    # The network saw the bright pixel in row 13, column 14; that cell is drawn where the pixel is.
    seen = np.asarray(cache.preprocess(cache.catalogue()[0][0]).view(Image.fromarray(pixels)).image)
    assert np.unravel_index(seen.argmax(), seen.shape) == (13, 14)
    assert abs(heat["x0"] + 14 * heat["dx"] - 20) <= heat["dx"] / 2
    assert abs(heat["y0"] + 13 * heat["dy"] - 14) <= heat["dy"] / 2
    assert "np.asarray(picture), box=how.view(picture).box" in at.code[1].value
    at.segmented_control(key="drawn_on").set_value("input").run()
    assert json.loads(at.get("plotly_chart")[1].proto.spec)["layout"]["images"][0]["sizex"] == 28


def test_notes_are_told_of_every_map() -> None:
    at = done(open_page("attributions", model="a_bcdnet", method="input_x_gradient"))
    assert any(note.value == "Removed pixels were set to black." for note in at.caption)  # of the map beside it
    at = opened("Two models", 2, model="a_bcdnet", beside="b_bcdnet", method="input_x_gradient")
    assert any(note.value.startswith("Tiny a_bcdnet and Tiny b_bcdnet: Surrogate") for note in at.caption)


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
        for ours, theirs in zip(made["data"], shown["data"], strict=True):
            for part in sorted({"x", "y", "z", "customdata", "value"} & ours.keys()):
                mine, drawn = decoded(ours[part]), decoded(theirs[part])
                if mine.dtype.kind == "f":
                    np.testing.assert_allclose(mine, drawn, rtol=1e-4, atol=1e-6)
                else:
                    np.testing.assert_array_equal(mine, drawn)
        assert made["layout"].get("annotations") == shown["layout"].get("annotations")
