"""Every page of the dashboard, run without a browser on tiny untrained checkpoints."""

import dataclasses
import io
import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import TINY
from pages import assert_fine, charts, each_tab, metrics, open_page, until
from PIL import Image
from streamlit.testing.v1 import AppTest

import bcdnet
from analysis import deployment
from analysis.attribution import attribute
from app import cache, engines
from app.widgets import selection
from bcdnet.data import FASHION_MNIST

#: "Training runs" has logs to show, not networks: tests/test_app_runs.py.
PAGES = ("overview", "sampling", "receptive", "attributions", "ledger", "binarizing", "deployment", "costs", "compare")


@pytest.fixture(autouse=True)
def tiny_models(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCDNET_CHECKPOINTS", str(checkpoints))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_real_content_before_anything_is_touched(page: str) -> None:
    at = open_page(page)
    assert_fine(at)
    assert at.title[0].value
    assert charts(at) >= 1
    assert any("misleads" in expander.label for expander in at.expander)
    # Where numbers come from is said, in a badge.
    assert any("computed" in text.value or "measured" in text.value for text in at.markdown)


@pytest.mark.parametrize("page", PAGES)
def test_every_chart_and_picture_has_a_text_for_those_who_cannot_see_it(page: str) -> None:
    at = open_page(page)
    for _ in each_tab(at):
        assert_fine(at)
        for chart in at.get("plotly_chart"):
            assert chart.proto.alt
        assert all(frame.proto.alt for frame in at.dataframe)


def test_one_session_walks_through_every_page_and_tab() -> None:
    at = open_page()
    for page in (*PAGES, "runs", "own", "overview"):
        at.switch_page(f"views/{page}.py").run()
        for _ in each_tab(at):
            assert_fine(at)
            at.run()  # what a tab has left behind is met by the next run
            assert_fine(at)


def test_a_choice_that_was_emptied_is_so_in_the_link() -> None:
    at = open_page("receptive")
    assert at.multiselect(key="beside").value
    at.multiselect(key="beside").set_value([]).run()
    assert at.query_params["beside"] == ""
    again = open_page("receptive", beside="")
    assert_fine(again)
    assert again.multiselect(key="beside").value == [] and not again.toast


def test_more_than_there_is_room_for_is_told() -> None:
    at = open_page(model="a_bcdnet", beside="twin,nope,reactnet,b_bcdnet")
    assert at.multiselect(key="beside").value == ["twin", "reactnet", "b_bcdnet"]
    (toast,) = at.toast
    assert toast.value.endswith("`beside=nope`")
    crowded = AppTest.from_function(crowded_page)
    crowded.query_params["few"] = "a,b,c"
    crowded.run()
    assert crowded.markdown[0].value == "a b" and crowded.toast[0].value.endswith("`few=c`")


def crowded_page() -> None:
    import streamlit as st

    from app import state

    state.restore("Crowded")
    st.markdown(" ".join(state.several("few", ["a", "b", "c"], ["a"], 2)))
    state.publish()


@pytest.mark.parametrize("page", PAGES)
def test_every_control_says_what_it_does(page: str) -> None:
    at = open_page(page)
    kinds = ("selectbox", "multiselect", "number_input", "slider", "select_slider", "toggle", "checkbox", "radio",
             "text_input", "button", "button_group", "file_uploader")  # fmt: skip
    for _ in each_tab(at):
        silent = [(kind, w.proto.label) for kind in kinds for w in at.get(kind) if not w.proto.help]
        assert not silent


@pytest.mark.parametrize("page", PAGES)
def test_without_models_a_page_says_so(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCDNET_CHECKPOINTS", str(tmp_path))
    at = open_page(page)
    assert_fine(at)
    if page == "costs":
        assert charts(at) >= 1
    else:
        assert "No trained models" in " ".join(note.value for note in [*at.info, *at.warning])


def test_a_damaged_checkpoint_is_named_and_the_others_still_work(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "good.safetensors").write_bytes((checkpoints / "reactnet.safetensors").read_bytes())
    (tmp_path / "bad.safetensors").write_bytes(b"not a checkpoint")
    monkeypatch.setenv("BCDNET_CHECKPOINTS", str(tmp_path))
    at = open_page()
    assert_fine(at)
    assert any("bad.safetensors" in warning.value for warning in at.warning)
    assert at.selectbox(key="model").options == ["Tiny reactnet"]


PREPROCESS = FASHION_MNIST.to_dict()


@pytest.mark.parametrize(
    ("preprocess", "reason"),
    [
        (None, "does not say how pictures are prepared"),
        ({**PREPROCESS, "std": [0.0]}, "std finite and above 0"),
        ({**PREPROCESS, "zoom": 2}, "zoom"),
        ({**PREPROCESS, "image_size": [32, 32]}, "32x32"),
        ({**PREPROCESS, "channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3}, "of 3 channels"),
    ],
)
def test_without_usable_preprocessing_nothing_is_guessed(
    preprocess: dict | None, reason: str, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bcdnet.load(checkpoints / "reactnet.safetensors")
    card = {name: value for name, value in model.card.items() if name != "preprocess"}
    bcdnet.save(model, tmp_path / "odd.safetensors", card if preprocess is None else {**card, "preprocess": preprocess})
    shutil.copy(checkpoints / "twin.safetensors", tmp_path)
    monkeypatch.setenv("BCDNET_CHECKPOINTS", str(tmp_path))
    models, problems = cache.catalogue()
    assert [model.id for model in models] == ["twin"]
    assert len(problems) == 1 and "odd.safetensors" in problems[0] and reason in problems[0]


def test_a_list_of_models_cannot_point_outside_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "manifest.json").write_text('{"models": [{"id": "x", "file": "../x.safetensors"}]}')
    monkeypatch.setenv("BCDNET_CHECKPOINTS", str(tmp_path))
    models, problems = cache.catalogue()
    assert models == () and "cannot be read" in problems[0]


@pytest.mark.parametrize("spoil", ["missing", "damaged", "exchanged"])
def test_trade_offs_go_on_without_a_checkpoint_that_cannot_be_used(
    spoil: str, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(checkpoints / "twin.safetensors", tmp_path)
    shutil.copy(checkpoints / "reactnet.safetensors", tmp_path / "other.safetensors")
    other = {"id": "other", "title": "Other", "file": "other.safetensors", "sha256": "0" * 64}
    if spoil == "missing":
        (tmp_path / "other.safetensors").unlink()
    elif spoil == "damaged":
        (tmp_path / "other.safetensors").write_bytes(b"not a checkpoint")
    rows = [{"id": "twin", "title": "Listed twin", "file": "twin.safetensors"}, other]
    (tmp_path / "manifest.json").write_text(json.dumps({"models": rows}))
    monkeypatch.setenv("BCDNET_CHECKPOINTS", str(tmp_path))
    at = open_page("costs")
    assert_fine(at)
    assert any("other.safetensors" in warning.value for warning in at.warning)
    points = cache.scatter_points(cache.catalogue()[0])
    assert points.name[points.kind == "measured"].tolist() == ["Listed twin"]


def test_trade_offs_show_the_models_of_a_folder_without_a_list() -> None:
    points = cache.scatter_points(cache.catalogue()[0])
    names = ["Tiny a_bcdnet", "Tiny b_bcdnet", "Tiny reactnet", "Tiny twin"]
    assert points.name[points.kind == "measured"].tolist() == names
    assert open_page("costs").radio(key="cost_set").options == ["ImageNet-1K, quoted", "Fashion-MNIST, measured"]


def listed(folder: Path, source: Path, *rows: tuple[str, str, str]) -> None:
    """Copy checkpoints into a folder and list them: (id, title, name of the file)."""
    for _, _, name in rows:
        shutil.copy(source / name, folder)
    models = [{"id": identity, "title": title, "file": name} for identity, title, name in rows]
    (folder / "manifest.json").write_text(json.dumps({"models": models}))


def test_models_of_one_title_are_told_apart_and_a_title_is_no_column(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ("a_bcdnet.safetensors", "reactnet.safetensors", "b_bcdnet.safetensors", "twin.safetensors")
    rows = zip(("one", "two", "three", "four"), ("label", "label", "image", "label (one)"), files, strict=True)
    listed(tmp_path, checkpoints, *rows)
    monkeypatch.setenv("BCDNET_CHECKPOINTS", str(tmp_path))
    models, problems = cache.catalogue()
    titles = ["label (one) (one)", "label (two)", "image", "label (one) (four)"]
    assert [model.title for model in models] == titles and not problems
    monkeypatch.setattr(cache, "seconds_per_image", lambda model: 1e-3)  # however slow the machine
    at = open_page("compare", model="one", beside="two,three,four")
    until(at, lambda at: not any(button.label == "Cancel" for button in at.button))
    assert_fine(at)
    said = " ".join(text.value for text in at.markdown)
    assert all(f"**{k}** {title}" in said for k, title in enumerate(titles, start=1))


def test_a_second_model_of_the_same_id_is_named_as_left_out(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed(tmp_path, checkpoints, ("x", "First", "reactnet.safetensors"), ("x", "Second", "twin.safetensors"))
    monkeypatch.setenv("BCDNET_CHECKPOINTS", str(tmp_path))
    models, problems = cache.catalogue()
    assert [model.title for model in models] == ["First"]
    assert problems == ("twin.safetensors is left out, because another model has its id, x.",)


# -- the selection ----------------------------------------------------------------------------------------------------


def test_the_selection_follows_from_page_to_page_and_into_the_address() -> None:
    at = open_page("sampling")
    at.selectbox(key="model").select("b_bcdnet").run()
    at.selectbox(key="layer").select("mlp2_1").run()
    at.number_input(key="row").set_value(5).run()
    at.switch_page("views/receptive.py").run()
    assert_fine(at)
    assert at.selectbox(key="layer").value == "mlp2_1" and at.number_input(key="row").value == 5
    at.switch_page("views/overview.py").run()  # has neither layer nor row
    at.switch_page("views/sampling.py").run()
    assert at.selectbox(key="model").value == "b_bcdnet"
    assert at.selectbox(key="layer").value == "mlp2_1" and at.number_input(key="row").value == 5
    assert {name: at.query_params[name] for name in ("model", "layer", "row")} == {
        "model": "b_bcdnet",
        "layer": "mlp2_1",
        "row": "5",
    }


def test_each_page_starts_at_the_layer_that_shows_it_best_until_one_is_chosen() -> None:
    at = open_page("attributions")
    assert at.selectbox(key="layer").value == "mlp2_point" and "layer" not in at.query_params
    at.switch_page("views/sampling.py").run()
    assert at.selectbox(key="layer").value == "mlp1_1"
    at.selectbox(key="layer").select("mlp1_2").run()
    at.switch_page("views/attributions.py").run()
    assert at.selectbox(key="layer").value == "mlp1_2"


def test_a_link_restores_the_view() -> None:
    at = open_page("sampling", model="reactnet", image="17", layer="conv3_3x3", row="0", col="1")
    assert_fine(at)
    assert at.selectbox(key="model").value == "reactnet"
    assert at.number_input(key="image").value == 17
    assert at.selectbox(key="layer").value == "conv3_3x3"
    assert (at.number_input(key="row").value, at.number_input(key="col").value) == (0, 1)


def test_a_links_nonsense_is_dropped() -> None:
    at = open_page("sampling", model="../../etc/passwd", image="99999", layer="<b>", row="-3", col="x", models="?")
    assert_fine(at)
    assert at.selectbox(key="model").value == "a_bcdnet"
    assert at.number_input(key="image").value == 0
    assert at.selectbox(key="layer").value == "mlp1_1"
    assert at.query_params["model"] == "a_bcdnet" and at.query_params["row"] == "3"


def test_what_a_link_asks_for_in_vain_is_told_once() -> None:
    at = open_page("sampling", layer="nonsense", row="2")
    assert_fine(at)
    (toast,) = at.toast
    assert "`layer=nonsense`" in toast.value and "row" not in toast.value
    at.run()
    assert_fine(at)
    assert not at.toast and at.selectbox(key="layer").value == "mlp1_1"


@pytest.mark.parametrize(
    ("point", "token"),
    [({"x": 4, "y": 2}, (2, 4)), ({"x": 4.2, "y": 1.9}, (2, 4)), ({"x": 7, "y": 0}, None), ({"x": -1, "y": 0}, None)],
)
def test_a_click_finds_its_token(point: dict, token: tuple[int, int] | None) -> None:
    assert selection.clicked_token({"selection": {"points": [point]}}, 7, 7) == token
    assert selection.clicked_token({"selection": {"points": []}}, 7, 7) is None


# -- pages ------------------------------------------------------------------------------------------------------------


def test_sampling_counts_the_tokens_of_a_seven_by_seven_map() -> None:
    at = open_page("sampling")
    assert metrics(at)["Tokens read"] == "9"  # itself, four neighbours, four at distance three
    assert metrics(at)["Wrapped"] == "0"
    at.number_input(key="row").set_value(0).run()
    assert metrics(at)["Tokens read"] == "9" and metrics(at)["Wrapped"] == "2"  # one short, one long, both upwards


def test_a_context_embedding_sees_the_whole_picture() -> None:
    at = open_page("receptive", model="b_bcdnet", layer="conv1_3x3")
    assert metrics(at)["Of the picture"] == "100.0%"


def test_the_explained_class_starts_at_the_prediction_and_follows_the_picture() -> None:
    at = open_page("attributions")
    model = cache.catalogue()[0][0]
    assert at.selectbox(key="target").value == int(cache.probabilities(model, cache.test_picture(0)).argmax())
    other = (at.selectbox(key="target").value + 1) % 10
    at.selectbox(key="target").select(other).run()
    assert at.selectbox(key="target").value == other
    at.number_input(key="image").set_value(3).run()
    assert at.selectbox(key="target").value == int(cache.probabilities(model, cache.test_picture(3)).argmax())
    assert_fine(at)


@pytest.mark.parametrize(
    "method", ["saliency", "smooth_grad", "integrated_gradients", "occlusion", "feature_ablation", "input_x_gradient"]
)
def test_every_method_draws_a_map(method: str) -> None:
    at = until(open_page("attributions", method=method), lambda at: charts(at) == 3)
    assert_fine(at)
    assert at.selectbox(key="method").value == method
    assert charts(at) == 3  # top five, the map, the one beside it


def test_trade_offs_show_what_is_printed_beside_what_is_counted() -> None:
    at = open_page("costs")
    assert any("**23 of 25** printed costs" in text.value for text in at.markdown)
    table = next(frame for frame in at.dataframe if "beside what this program counts" in frame.proto.alt).value
    off = table[~table.agrees].to_dict("records")
    assert [(row["method"], row["quantity"], row["printed"]) for row in off] == [
        ("ReActNet-C", "OPs, full (1e8)", 2.3),
        ("BCDNet-B", "OPs, full (1e8)", 1.09),
    ]


# -- deployment and times ---------------------------------------------------------------------------------------------


def test_the_engine_decides_as_the_float_graph_does() -> None:
    at = open_page("deployment")
    assert_fine(at)
    model, isa = cache.catalogue()[0][0], engines.instruction_set()
    layers = engines.twin(model, cache.test_picture(0), isa).layers
    differ, bits = int(layers.differ.sum()), int(layers.bits.sum())
    shown = metrics(at)
    assert shown["Bits that differ"] == f"{differ:,}"
    assert [metric.delta for metric in at.metric][:1] == [f"of {bits:,}"]
    if not differ:  # on other machines rounding might turn one, which the page then explains
        assert f"all {bits:,} decisions alike" in at.success[0].value
    packed = engines.packed_file(model, isa)
    assert shown["File, kB"] == f"{len(packed) / 1e3:,.1f}"
    table = next(frame for frame in at.dataframe if frame.proto.alt.startswith("Bits, distances")).value
    assert list(table.layer) == ["stem", *cache.layers(model), "head"]
    assert (table[["float_ms", "packed_ms"]] > 0).all(axis=None)


def test_a_bit_too_far_from_its_threshold_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model, isa = cache.catalogue()[0][0], engines.instruction_set()
    real = engines.twin(model, cache.test_picture(0), isa)
    layers = real.layers.copy()
    layers.loc[1, ["differ", "turned", "distance"]] = [3, 3, 0.002]
    monkeypatch.setattr(engines, "twin", lambda *args: dataclasses.replace(real, layers=layers))
    at = open_page("deployment")
    for _ in each_tab(at):
        assert not at.exception and "lies 2·10⁻³ standard deviations" in at.error[0].value
    layers.loc[1, "distance"] = 4e-8
    layers.loc[2, ["differ", "carried"]] = 7
    at = open_page("deployment")
    assert_fine(at)
    sentence = at.info[0].value
    assert "10 of " in sentence and f"the first in {layers.layer[1]}: 3 because the two graphs round" in sentence
    assert "at most 4·10⁻⁸ standard deviations" in sentence and "7 because bits before them differ" in sentence
    drawn = []
    for _ in each_tab(at):
        assert_fine(at)
        drawn.append(charts(at))
    assert drawn == [3, 1, 1, 0]  # one more, of the bits; nothing was timed


def test_rounded_matrices_are_owned_up_to() -> None:
    said = everything_said(open_page("deployment", model="b_bcdnet"))
    assert "whose matrices the engine rounds to half precision" in said and "With its matrices rounded alike" in said
    assert "half precision" not in everything_said(open_page("deployment", model="a_bcdnet"))


def test_a_network_that_cannot_be_packed_says_why() -> None:
    at = open_page("deployment", model="twin")
    assert_fine(at)
    assert "only 1/1 networks can be packed, and this one is 32/32" in at.info[0].value


def test_speeds_are_measured_when_asked_for_and_then_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_BUDGET", 0.0)
    monkeypatch.setattr(engines, "cores", lambda: 2)
    cache._results.clear()
    tab = "How fast it runs here"
    at = open_page("deployment", model="reactnet", deployment_tab=tab)
    before = charts(at)
    at.button(key="speed_go").click().run()
    assert_fine(at)
    table = next(frame for frame in at.dataframe if frame.proto.alt.startswith("Median time")).value
    assert list(table.threads) == [1, 1, 1, 2, 2, 2] and charts(at) == before + 1
    assert (table["median"] > 0).all() and (table.runs >= 5).all()
    again = open_page("deployment", model="reactnet", deployment_tab=tab)
    remembered = next(frame for frame in again.dataframe if frame.proto.alt.startswith("Median time")).value
    assert list(remembered["median"]) == list(table["median"])
    again.button(key="speed_go").click().run()
    anew = next(frame for frame in again.dataframe if frame.proto.alt.startswith("Median time")).value
    assert list(anew["median"]) != list(table["median"])


def test_measuring_that_is_cancelled_lets_the_next_one_in(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cancelled(BaseException):
        """As Streamlit stops a page: not an Exception."""

    def cancel(done: int, total: int) -> None:
        if done:
            raise Cancelled

    monkeypatch.setattr(engines, "_BUDGET", 0.0)
    monkeypatch.setattr(engines, "cores", lambda: 2)
    cache._results.clear()
    model, isa, threads = cache.catalogue()[0][0], engines.instruction_set(), torch.get_num_threads()
    with pytest.raises(Cancelled):
        engines.speed(model, isa, cancel)
    assert not engines.speed_known(model, isa) and torch.get_num_threads() == threads
    assert len(engines.speed(model, isa)) == 6


def test_one_measurement_waits_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = cache.catalogue()[0][:2]
    isa, inside, release = engines.instruction_set(), threading.Event(), threading.Event()
    real, running = deployment.latency, []

    def hold(*args: Any) -> deployment.Latency:
        running.append(len(running))
        inside.set()
        assert release.wait(60)
        return real(*args, budget=0)

    monkeypatch.setattr(deployment, "latency", hold)
    cache._results.clear()
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(engines.latency, m, isa) for m in (model, other)]
        assert inside.wait(60)
        time.sleep(1)
        alone = len(running)
        release.set()
        assert all(job.result(60).float_ms > 0 for job in jobs)
    assert alone == 1 and len(running) == 2


def test_without_kernels_the_page_works_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCDNET_ISA", "reference")
    at = open_page("deployment")
    assert_fine(at)
    assert "reference in PyTorch" in at.warning[0].value
    layers = engines.twin(cache.catalogue()[0][0], cache.test_picture(0), "reference").layers
    assert metrics(at)["Bits that differ"] == f"{layers.differ.sum():,}" and layers.bits.sum() > 0
    for _ in each_tab(at):
        assert_fine(at)
    monkeypatch.setenv("BCDNET_ISA", "abacus")
    at = open_page("deployment")
    assert not at.exception and "'abacus' cannot run here" in at.error[0].value


def retrained(checkpoints: Path, folder: Path, name: str, identity: str, title: str, **recipe: object) -> None:
    """A checkpoint under another id and title, with a recipe on its card."""
    model = bcdnet.load(checkpoints / f"{name}.safetensors")
    bcdnet.save(model, folder / f"{identity}.safetensors", {**model.card, "title": title, "recipe": recipe})


def test_a_model_continued_from_another_says_what_it_may_be_compared_with(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BCDNET_CHECKPOINTS", str(tmp_path))
    more = {"init": "a", "steps": [{"epochs": 1}, {"epochs": 3}]}
    retrained(checkpoints, tmp_path, "a_bcdnet", "a", "Plain", init=None, steps=[{"epochs": 7}], teacher="t")
    retrained(checkpoints, tmp_path, "b_bcdnet", "b", "Embedded", **more, teacher="t")
    retrained(checkpoints, tmp_path, "twin", "t", "Teaching twin", init=None, steps=[{"epochs": 6}], teacher=None)
    alone = (
        "Embedded is continued from Plain, for 4 more epochs. A part of its lead may come from the longer training "
        "alone: no model here was trained as long without what it adds, so how large a part is not known."
    )
    at = open_page()
    captions = [caption.value for _ in each_tab(at) for caption in at.caption]
    assert sum(alone in caption for caption in captions) == 1
    assert not any("Plain is continued" in caption for caption in captions)
    # So is what the twin was for: it is the recipes that say so.
    twin = next(metric for metric in at.metric if metric.label == "Real-valued twin")
    assert twin.help == "Top-1 of Teaching twin, the teacher of 2 of the other models."

    retrained(checkpoints, tmp_path, "a_bcdnet", "a_longer", "Longer", **more)
    retrained(checkpoints, tmp_path, "a_bcdnet", "a_short", "Shorter", init="a", steps=[{"epochs": 2}])
    at = open_page("compare", model="a", beside="b")
    assert_fine(at)
    texts = [caption.value for caption in at.caption]
    assert sum("compare it with Longer, which was trained as long, rather than with Plain." in t for t in texts) == 1
    assert not any("Longer is continued" in t for t in texts)
    assert "Longer is continued from Plain, for 4 more epochs. Nothing else was changed" in " ".join(
        caption.value for caption in open_page().caption
    )


def everything_said(at: AppTest) -> str:
    """All words of a page, those of all its tabs."""
    kinds = ("markdown", "caption", "info", "warning", "metric")
    return " ".join(f"{getattr(w, 'value', '')} {w.proto.help if kind == 'metric' else ''}"
                    for _ in each_tab(at) for kind in kinds for w in at.get(kind))  # fmt: skip


def test_what_was_not_measured_or_is_inferred_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overview = everything_said(open_page())
    assert "How much another seed changes is in `docs/results.md`" in overview and "tenths of a percent" not in overview
    assert "the teacher" not in overview  # these tiny cards name none
    assert "The order is inferred" in everything_said(open_page("binarizing"))
    costs = everything_said(open_page("costs"))
    assert "Supplementary A" in costs and "Shorter training" not in costs
    monkeypatch.setenv("BCDNET_CHECKPOINTS", str(tmp_path))
    assert "minutes" not in everything_said(open_page())


def test_options_reach_as_far_as_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preprocess = {**FASHION_MNIST.to_dict(), "image_size": [56, 56]}
    model = bcdnet.create_model("bcdnet_a", **{**TINY, "image_size": 56}, mlp_groups=2)
    bcdnet.save(model, tmp_path / "large.safetensors", {"preprocess": preprocess})
    monkeypatch.setenv("BCDNET_CHECKPOINTS", str(tmp_path))
    monkeypatch.setattr(cache, "seconds_per_image", lambda model: 1e-6)
    at = open_page("attributions", method="occlusion")
    assert_fine(at)
    assert [at.number_input(key=f"occlusion_{name}").max for name in ("window", "stride")] == [56, 56]
    at.selectbox(key="method").select("feature_ablation").run()
    assert at.number_input(key="feature_ablation_grid").max == 56


def test_a_forward_only_map_is_not_charged_for_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    # 49 blocks and the picture itself: 50 passes, 2.5 s forward only, and not 7.5 s.
    monkeypatch.setattr(cache, "seconds_per_image", lambda model: 0.05)
    cache._results.clear()
    at = open_page("attributions", image="77")
    assert not any("forward passes" in note.value for note in at.info)
    until(at, lambda at: charts(at) == 3)
    at.selectbox(key="method").select("smooth_grad").run()  # 25 gradients, each about three passes
    assert ["about 4 s" in note.value for note in at.info] == [True]


# -- uploads ----------------------------------------------------------------------------------------------------------


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def rotated_jpeg() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.new("RGB", (40, 20), "white"), "JPEG", exif=exif)


RAMP = np.linspace(0, 65535, 40 * 40).reshape(40, 40).astype(np.uint16)
PICTURES = {
    "EXIF rotation": ("photo.jpg", rotated_jpeg(), "turned upright"),
    "16 bits": ("deep.png", encoded(Image.fromarray(RAMP), "PNG"), "16-bit"),
    "alpha": ("cut.png", encoded(Image.new("RGBA", (30, 30), (255, 0, 0, 0)), "PNG"), "Transparent"),
    "CMYK": ("print.jpg", encoded(Image.new("CMYK", (30, 30), (0, 90, 90, 0)), "JPEG"), "CMYK"),
    "palette": ("old.gif", encoded(Image.new("P", (30, 30), 3), "GIF"), "Palette"),
    "one pixel": ("dot.png", encoded(Image.new("RGB", (1, 1), "red"), "PNG"), "enlarged"),
    "hostile name": ("<img src=x onerror=alert(1)>**b**.png", encoded(Image.new("L", (28, 28)), "PNG"), "Exactly what"),
}


def upload(at: AppTest, name: str, content: bytes) -> AppTest:
    at.session_state["source"] = "Upload"
    at.run()
    at.file_uploader(key="upload").upload(name, content)
    return at.run()


@pytest.mark.parametrize("case", PICTURES)
def test_an_ordinary_picture_is_taken_and_changes_are_named(case: str) -> None:
    name, content, note = PICTURES[case]
    at = upload(open_page("attributions"), name, content)
    until(at, lambda at: charts(at) == 3)
    assert_fine(at)
    assert any(note in caption.value for caption in at.sidebar.caption)
    # The name of a file is never put where markup would act.
    assert not any(name in text.value for text in [*at.markdown, *at.caption])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"Dear reader, I am a letter.", "not a picture"), (b"", "empty"), (rotated_jpeg()[:200], "damaged")],
)
def test_anything_else_gets_one_sentence_and_the_page_goes_on(content: bytes, sentence: str) -> None:
    at = upload(open_page("attributions"), "letter.png", content)
    assert not at.exception
    assert len(at.error) == 1 and sentence in at.error[0].value
    until(at, lambda at: charts(at) == 3)  # of the test image


# -- several users at once --------------------------------------------------------------------------------------------


def test_maps_made_at_the_same_time_equal_those_made_one_by_one() -> None:
    model = cache.catalogue()[0][0]
    work = [(index, method) for index in range(4) for method in ("grad_cam", "saliency", "feature_ablation")]

    def one(index: int, method: str) -> np.ndarray:
        return cache.ask(attribute, model, cache.test_picture(index), 3, method).map

    cache._results.clear()
    serial = [one(*item) for item in work]
    cache._results.clear()
    start = threading.Barrier(8)

    def together(item: tuple[int, str]) -> np.ndarray:
        if not start.broken:
            start.wait(10)
        return one(*item)

    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(together, item) for item in (work + work[::-1])[:24]]
        found = [job.result() for job in jobs]
    for item, result in zip((work + work[::-1])[:24], found, strict=True):
        np.testing.assert_array_equal(result, serial[work.index(item)])
    with cache.locked(model) as network:
        assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in network.modules())
        assert not network.training


@pytest.mark.parametrize("method", ["grad_cam", "saliency", "feature_ablation"])
def test_nobody_enters_a_network_that_another_is_in_the_middle_of(method: str) -> None:
    model = cache.catalogue()[0][0]
    mine, theirs = cache.test_picture(0), cache.test_picture(1)
    cache._results.clear()
    serial = [cache.ask(attribute, model, *of).map for of in ((mine, 3, "feature_ablation"), (theirs, 3, method))]
    cache._results.clear()
    inside, release, entered = threading.Event(), threading.Event(), threading.Event()

    def hold(done: int, total: int) -> None:
        inside.set()
        assert release.wait(60)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.ask, attribute, model, mine, 3, "feature_ablation", progress=hold)
        try:
            assert inside.wait(60)
            second = pool.submit(cache.ask, attribute, model, theirs, 3, method, progress=lambda *_: entered.set())
            # Long enough for the map, which takes some hundredths of a second, and once the lock is free it is made.
            assert not entered.wait(2)
        finally:
            release.set()
        np.testing.assert_array_equal(first.result(60).map, serial[0])
        np.testing.assert_array_equal(second.result(60).map, serial[1])
    assert entered.is_set()


def test_work_that_is_cancelled_frees_the_model_and_leaves_nothing_behind() -> None:
    class Cancelled(BaseException):
        """As Streamlit stops a page: not an Exception."""

    def cancel(done: int, total: int) -> None:
        raise Cancelled

    model, picture = cache.catalogue()[0][0], cache.test_picture(5)
    with pytest.raises(Cancelled):
        cache.ask(attribute, model, picture, 1, "feature_ablation", progress=cancel)
    assert not cache.known(cache.question_key(attribute, model, (picture, 1, "feature_ablation"), {"progress": cancel}))
    with cache.locked(model) as network:
        assert not any(m._forward_hooks for m in network.modules())


def test_results_are_bounded_and_the_oldest_go_first() -> None:
    results = cache._Results(2)
    for key in (("a",), ("b",)):
        results.put(key, key)
    results.get(("a",))
    results.put(("c",), "c")
    assert results.get(("a",)) and results.get(("c",)) and results.get(("b",)) is None
