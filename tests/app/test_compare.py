"""Compare variants: several models on one set, whose classes, order of classes and sizes need not be the same."""

import functools
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import TINY
from PIL import Image
from streamlit.testing.v1 import AppTest

import bcdnet
from analysis import comparison
from app import cache
from bcdnet.data import FASHION_MNIST
from bcdnet.data.fashion_mnist import CLASSES

ROOT = Path(__file__).resolve().parents[2]
BOTH = {"model": "a_bcdnet", "beside": "twin"}


@pytest.fixture(autouse=True)
def tiny_models(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCDNET_CHECKPOINTS", str(checkpoints))
    monkeypatch.setattr(cache, "seconds_per_image", lambda model: 1e-3)  # however slow the machine


def open_page(**query: str) -> AppTest:
    at = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=60)
    for name, value in query.items():
        at.query_params[name] = value
    at.run()
    return finished(at.switch_page("views/compare.py").run())


def finished(at: AppTest) -> AppTest:
    """Run until no job is under way any more."""
    for _ in range(300):
        if not any(button.label == "Cancel" for button in at.button):
            return at
        time.sleep(0.1)
        at.run()
    raise AssertionError("a job did not end")


def assert_fine(at: AppTest) -> None:
    assert not at.exception, [e.message for e in at.exception]
    assert not at.error, [e.value for e in at.error]


def chart(at: AppTest, start: str) -> dict[str, Any]:
    return json.loads(next(c for c in at.get("plotly_chart") if c.proto.alt.startswith(start)).proto.spec)


def said(at: AppTest) -> str:
    return " ".join(text.value for text in [*at.markdown, *at.caption, *at.info])


def answers(at: AppTest) -> list[Any]:
    return [button for button in at.button if "see which pixels speak for" in (button.help or "")]


def test_accuracy_with_interval_and_a_test_for_each_pair() -> None:
    at = open_page(**BOTH)
    assert_fine(at)
    assert "measured · on the first 500 images of Fashion-MNIST, test" in said(at)
    dots = chart(at, "Top-1 accuracy")["data"]
    assert [trace["y"] for trace in dots] == [["Tiny a_bcdnet"], ["Tiny twin"]]
    pairs = next(frame for frame in at.dataframe if "McNemar" in frame.proto.alt).value
    model, other = cache.catalogue()[0][0], cache.catalogue()[0][3]
    data = cache.test_set()
    assert data is not None
    with cache.locked(model) as one, cache.locked(other) as two:
        batches = [next(data.batches(cache.preprocess(m), 500)) for m in (model, other)]
        logits = {
            model.title: comparison.predict_set(one, batches[:1]),
            other.title: comparison.predict_set(two, batches[1:]),
        }
    truth = comparison.compare(logits, data.labels[:500], data.classes)
    assert pairs[["only_a", "only_b"]].to_numpy().tolist() == truth.mcnemar[["only_a", "only_b"]].to_numpy().tolist()
    assert pairs.same.item() == truth.agreement.iloc[0, 1]
    assert dots[0]["x"] == [truth.accuracy.top1.iloc[0]]


def test_a_click_on_an_answer_leads_to_why_that_model_gives_it() -> None:
    at = open_page(**BOTH)
    assert len(answers(at)) == 24  # two models, a dozen images
    button = next(b for b in answers(at) if b.help.startswith("Tiny twin"))
    index, cls = int(button.key.split("-")[1]), button.help.removesuffix(".").split("speak for ")[1]
    button.click().run()
    assert_fine(at)
    assert at.title[0].value == "Attribution"
    assert at.selectbox(key="model").value == "twin" and at.number_input(key="image").value == index
    assert at.session_state["target"] == CLASSES.index(cls)
    assert at.multiselect(key="beside").value == ["a_bcdnet"]  # both stay side by side
    model = next(m for m in cache.catalogue()[0] if m.id == "twin")
    assert cache.probabilities(model, cache.test_picture(index)).argmax() == CLASSES.index(cls)


def test_answers_wait_for_the_last_model(monkeypatch: pytest.MonkeyPatch) -> None:
    at, held, predict = open_page(**BOTH), threading.Event(), comparison.predict_set

    @functools.wraps(predict)
    def last(*arguments: Any, **options: Any) -> Any:
        assert held.wait(60)
        return predict(*arguments, **options)

    monkeypatch.setattr(comparison, "predict_set", last)
    monkeypatch.setattr(cache, "seconds_per_image", lambda model: 2e-3)  # a job, begun without asking
    at.multiselect(key="beside").set_value(["twin", "reactnet"]).run()
    try:
        assert any(button.label == "Cancel" for button in at.button) and "Once every model is done" in said(at)
        assert len(answers(at)) == 24 and all(button.disabled for button in answers(at))
        next(button for button in at.button if button.label == "Cancel").click().run()
        assert "Cancelled" in said(at) and not any(button.disabled for button in answers(at))
        next(button for button in at.button if button.label == "Compute it").click().run()
        assert all(button.disabled for button in answers(at))
    finally:
        held.set()
    finished(at)
    assert len(answers(at)) == 36 and not any(button.disabled for button in answers(at))


def test_the_gallery_shows_the_class_and_the_pattern_that_are_asked_for() -> None:
    at = open_page(**BOTH)
    before = [b.key for b in answers(at)]
    at.selectbox(key="gallery_class").select("Bag").run()
    assert_fine(at)
    data = cache.test_set()
    assert data is not None
    shown = {int(b.key.split("-")[1]) for b in answers(at)}
    assert shown and {data.classes[data.labels[k]] for k in shown} == {"Bag"}
    assert [b.key for b in answers(at)] != before
    patterns = at.selectbox(key="gallery_right")
    assert patterns.options[0] == "any" and all(set(p.split(" (")[0]) <= set("✓✗ ") for p in patterns.options[1:])
    patterns.set_value("00").run()
    assert_fine(at)
    assert {b.icon for b in answers(at)} <= {":material/close:"}


def test_a_link_restores_the_view() -> None:
    at = open_page(**BOTH, compare_view="classes", confused="Tiny twin")
    assert_fine(at)
    confusion = chart(at, "Confusion matrix of Tiny twin")
    counts = sum(int(a["text"]) for a in confusion["layout"]["annotations"])
    assert counts == 500
    assert at.query_params["compare_view"] == "classes" and at.query_params["beside"] == "twin"


@pytest.mark.parametrize(("view", "figures"), [("gallery", 1), ("classes", 3), ("calibration", 2), ("roc", 2)])
def test_the_code_of_every_figure_makes_what_is_drawn(
    view: str, figures: int, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = open_page(**BOTH, compare_view=view)
    assert_fine(at)
    drawn = [json.loads(c.proto.spec) for c in at.get("plotly_chart")]
    assert len(at.code) == len(drawn) == figures
    assert all(c.proto.alt for c in at.get("plotly_chart")) and all(frame.proto.alt for frame in at.dataframe)
    monkeypatch.chdir(checkpoints)  # where the files that the code names lie
    for block in at.code:
        scope: dict[str, Any] = {}
        exec(block.value, scope)
        made = json.loads(scope["figure"].to_json())
        assert any(made["data"] == spec["data"] for spec in drawn), block.value


def test_a_class_is_found_against_all_others() -> None:
    at = open_page(**BOTH, compare_view="roc", roc_class="3")
    assert_fine(at)
    curves = chart(at, f"How many images of {CLASSES[3]} are found")["data"]
    assert [trace["name"].split(":")[0] for trace in curves if trace["mode"] == "lines"][1:] == [
        "Tiny a_bcdnet",
        "Tiny twin",
    ]
    data = cache.test_set()
    assert data is not None
    count = int((data.labels[:500] == 3).sum())
    assert f"{count} images of {CLASSES[3]} against {500 - count} others" in said(at)


def test_calibration_names_its_bins_and_interval() -> None:
    at = open_page(**BOTH, compare_view="calibration", bins="10")
    assert_fine(at)
    table = next(frame for frame in at.dataframe if frame.proto.alt.startswith("Expected calibration")).value
    assert table.model.tolist() == ["Tiny a_bcdnet", "Tiny twin"]
    assert (table.low <= table.high).all() and "10 bins of equal width" in said(at)


def save(folder: Path, name: str, classes: list[str], side: int = 28, turned: bool = False) -> None:
    torch.manual_seed(3)
    model = bcdnet.create_model("reactnet_a", **{**TINY, "num_classes": len(classes), "image_size": side})
    if turned:
        with torch.no_grad():
            for parameter in model.fc.parameters():
                parameter.copy_(parameter.flip(0))
    preprocess = {**FASHION_MNIST.to_dict(), "image_size": [side, side]}
    bcdnet.save(model, folder / f"{name}.safetensors", {"title": name, "classes": classes, "preprocess": preprocess})


@pytest.fixture
def mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network, the same with its classes in another order, one of larger images, and one of other classes."""
    save(tmp_path, "a", list(CLASSES))
    save(tmp_path, "b", [name.upper() for name in reversed(CLASSES)], turned=True)
    save(tmp_path, "c", list(CLASSES), side=56)
    save(tmp_path, "d", ["functional", "defective"])
    monkeypatch.setenv("BCDNET_CHECKPOINTS", str(tmp_path))
    return tmp_path


def test_models_of_other_classes_sizes_and_orders_are_told_apart(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = open_page(model="a", beside="b,c,d")
    assert_fine(at)
    assert "d tells other classes apart (functional, defective) than a" in said(at)
    assert "c is given the images at 56 × 56 pixels" in said(at)
    pairs = next(frame for frame in at.dataframe if "McNemar" in frame.proto.alt).value.set_index(
        ["model_a", "model_b"]
    )
    assert len(pairs) == 3
    # The same network under another order of classes gives the same answers.
    assert pairs.loc[("a", "b"), ["only_a", "only_b", "same"]].tolist() == [0, 0, 100]
    # The class to explain is one of the model's own: bags have another number there.
    button = next(b for b in answers(at) if b.help.startswith("b: "))
    cls = button.help.removesuffix(".").split("speak for ")[1]
    monkeypatch.chdir(mixed)
    scope: dict[str, Any] = {}
    exec(at.code[0].value, scope)
    assert json.loads(scope["figure"].to_json())["data"] == chart(at, "Top-1 accuracy")["data"]
    button.click().run()
    assert at.session_state["target"] == list(reversed(CLASSES)).index(cls)


def test_a_network_of_other_classes_than_the_set_has_no_right_or_wrong(mixed: Path) -> None:
    at = open_page(model="d", beside="a")
    assert_fine(at)
    assert "a tells other classes apart" in said(at)
    assert "the network has no class" in said(at) and "Nothing is right or wrong here" in said(at)
    assert not at.get("plotly_chart") and not at.dataframe
    assert len(answers(at)) == 12 and "№" in said(at)


def test_images_of_ones_own_without_labels_are_set_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for k in range(5):
        Image.fromarray(rng.integers(0, 256, (30, 20 + 40 * k), np.uint8)).save(tmp_path / f"{k}.png")
    monkeypatch.setenv("BCDNET_IMAGES", str(tmp_path))
    at = open_page(**BOTH, set=f"folder-{tmp_path}")
    assert_fine(at)
    assert f"on all 5 images of {tmp_path.name}" in said(at)
    assert f"the images of {tmp_path.name} lie in no class folders. Nothing is right or wrong here" in said(at)
    assert len(answers(at)) == 10
    button = next(b for b in answers(at) if b.help.startswith("Tiny twin") and b.key.startswith("why-3-"))
    cls = button.help.removesuffix(".").split("speak for ")[1]
    button.click().run()
    assert_fine(at)
    assert at.title[0].value == "Attribution" and at.selectbox(key="model").value == "twin"
    chosen = at.session_state["chosen"][1]
    assert (chosen.images.key, chosen.index) == (f"folder-{tmp_path}", 3) and chosen.image.size == (140, 30)
    assert at.session_state["target"] == CLASSES.index(cls)
    # The address leads to the same picture in another session.
    link = {name: at.query_params[name] for name in ("source", "set", "image", "model")}
    again = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=60)
    for name, value in link.items():
        again.query_params[name] = value
    assert_fine(again.run())
    assert again.session_state["chosen"][1] == chosen


def test_folders_named_as_classes_give_true_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A folder's name cannot hold the slash of T-shirt/top.
    for folder in ("t-shirt-top", "ankle_boot"):
        (tmp_path / folder).mkdir()
        for k in range(3):
            Image.new("L", (28, 28), 40 * k).save(tmp_path / folder / f"{k}.png")
    monkeypatch.setenv("BCDNET_IMAGES", str(tmp_path))
    at = open_page(**BOTH, set=f"folder-{tmp_path}")
    assert_fine(at)
    assert "Nothing is right or wrong here" not in said(at) and chart(at, "Top-1 accuracy")
    chosen = at.session_state["images"].labels(cache.catalogue()[0][0])
    assert chosen.tolist() == [CLASSES.index("Ankle boot")] * 3 + [CLASSES.index("T-shirt/top")] * 3


def test_much_work_is_begun_only_when_the_reader_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    cache._results.clear()
    monkeypatch.setattr(cache, "seconds_per_image", lambda model: 0.004)
    at = open_page(**BOTH)
    assert_fine(at)
    assert any("1,000 forward passes, about 4 s" in note.value for note in at.info)
    # Until then it shows what the models' cards say.
    assert [trace["x"] for trace in chart(at, "Top-1 accuracy")["data"]] == [[10.8], [10.4]]
    assert "from the models' cards" in said(at)
    scope: dict[str, Any] = {}
    exec(at.code[0].value, scope)
    assert json.loads(scope["figure"].to_json())["data"] == chart(at, "Top-1 accuracy")["data"]
    next(button for button in at.button if button.label == "Compute it").click().run()
    assert_fine(finished(at))
    assert "on the first 500 images" in said(at) and "from the models' cards" not in said(at)
