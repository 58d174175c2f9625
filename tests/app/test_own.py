"""Checkpoints and images of the reader's own: taken, refused, shown everywhere, forgotten."""

import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nets import TINY
from pages import assert_fine, charts, each_tab, open_page, until
from PIL import Image
from streamlit.testing.v1 import AppTest

import bcdnet
from app import cache, uploads
from bcdnet.data import FASHION_MNIST, DataError, Dataset, open_dataset
from bcdnet.data.fashion_mnist import CLASSES


def images(n: int = 6, classes: tuple[str, ...] = CLASSES[:2]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for k in range(n):
            picture = io.BytesIO()
            Image.fromarray(np.random.default_rng(k).integers(0, 256, (28, 28), np.uint8)).save(picture, "PNG")
            folder = classes[k % len(classes)].replace("/", "-") + "/" if classes else ""
            file.writestr(f"{folder}{k}.png", picture.getvalue())
    return stream.getvalue()


def checkpoint(checkpoints: Path) -> bytes:
    return (checkpoints / "b_bcdnet.safetensors").read_bytes()


def hand_in(at: AppTest, kind: str, name: str, content: bytes) -> AppTest:
    next(u for u in at.file_uploader if u.key.startswith(f"own_{kind}")).upload(name, content)
    return at.run()


def test_a_checkpoint_behaves_as_a_shipped_one(checkpoints: Path) -> None:
    at = hand_in(open_page("own"), "checkpoint", "my <b>net.safetensors", checkpoint(checkpoints))
    assert_fine(at)
    assert "**my b net**" in at.success[0].value
    own = at.selectbox(key="model").options[-1]
    assert own == "my b net"
    identity = next(button.key for button in at.button if button.label == "Look at it").removeprefix("look_")
    next(button for button in at.button if button.label == "Look at it").click().run()
    assert at.selectbox(key="model").value == identity
    for page in ("sampling", "attributions", "deployment"):
        at.switch_page(f"views/{page}.py").run()
        codes = []
        for tab in each_tab(at):
            assert_fine(at)
            assert at.selectbox(key="model").value == identity
            assert charts(at) or tab == "How fast it runs here"  # nothing was timed
            codes += [block.value for block in at.code]
    assert any("your-checkpoint.safetensors" in code for code in codes)
    at.switch_page("views/own.py").run()
    next(button for button in at.button if button.label == "Remove").click().run()
    assert_fine(at)
    assert own not in at.selectbox(key="model").options


def test_two_files_of_one_name_are_told_apart(checkpoints: Path) -> None:
    at = open_page("own")
    for name in ("a_bcdnet", "reactnet"):  # one of them has no MLPs
        hand_in(at, "checkpoint", "model.safetensors", (checkpoints / f"{name}.safetensors").read_bytes())
        assert_fine(at)
    first, second = at.session_state["own_models"].values()
    titles = {f"model ({first.id})", f"model ({second.id})"}
    assert titles < set(at.selectbox(key="model").options)
    assert all(any(f"**{title}**" in text.value for text in at.markdown) for title in titles)
    at.selectbox(key="model").select(first.id).run()
    at.multiselect(key="beside").set_value([second.id]).run()
    for page in ("binarizing", "compare"):
        at.switch_page(f"views/{page}.py").run()
        until(at, lambda at: not any(button.label == "Cancel" for button in at.button))
        assert_fine(at)
    dots = json.loads(next(c for c in at.get("plotly_chart") if c.proto.alt.startswith("Top-1 accuracy")).proto.spec)
    assert {trace["y"][0] for trace in dots["data"]} == titles


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"", "my.safetensors"), (b"PK not a checkpoint", "my.safetensors"), (b"\x80\x04pickle", "my.safetensors")],
)
def test_what_is_no_checkpoint_gets_one_sentence(content: bytes, sentence: str) -> None:
    at = hand_in(open_page("own"), "checkpoint", "my.safetensors", content)
    assert not at.exception and len(at.error) == 1
    assert sentence in at.error[0].value and "own-" not in at.error[0].value


def test_weights_that_are_not_finite_are_refused(checkpoints: Path, tmp_path: Path) -> None:
    content = bytearray(checkpoint(checkpoints))
    content[-4:] = np.float32(np.nan).tobytes()
    at = hand_in(open_page("own"), "checkpoint", "nan.safetensors", bytes(content))
    assert not at.exception and len(at.error) == 1


def test_too_large_a_checkpoint_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "CHECKPOINT_MB", 1)
    at = hand_in(open_page("own"), "checkpoint", "large.safetensors", bytes(2**20 + 1))
    assert "larger than 1 MB" in at.error[0].value


@pytest.mark.parametrize(("side", "sentence"), [(2048, "more than 1,048,576 pixels"), (1024, "more than 2,048 MB")])
def test_a_network_that_takes_too_much_memory_is_refused(
    side: int, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Strides of 1 all the way: the file is as small as any, its maps are not.
    model = bcdnet.create_model("reactnet_a", **{**TINY, "image_size": side, "strides": (1,) * 5})
    preprocess = {**FASHION_MNIST.to_dict(), "image_size": [side, side]}
    bcdnet.save(model, tmp_path / "x.safetensors", {"preprocess": preprocess})
    at = hand_in(open_page("own"), "checkpoint", "huge.safetensors", (tmp_path / "x.safetensors").read_bytes())
    assert not at.exception and "huge.safetensors" in at.error[0].value and sentence in at.error[0].value
    assert not at.session_state["own_models"] and not list(Path(at.session_state["own_folder"].name).iterdir())


def test_there_is_an_end_to_what_one_session_holds(checkpoints: Path, tmp_path: Path) -> None:
    at = open_page("own")
    for k in range(uploads.MOST + 1):
        model = bcdnet.load(checkpoints / "reactnet.safetensors")
        bcdnet.save(model, tmp_path / "x.safetensors", {**model.card, "nth": k})
        hand_in(at, "checkpoint", "x.safetensors", (tmp_path / "x.safetensors").read_bytes())
    assert f"You have {uploads.MOST} models here already" in at.error[0].value


def test_nobody_else_sees_them(checkpoints: Path) -> None:
    at = hand_in(open_page("own"), "checkpoint", "mine.safetensors", checkpoint(checkpoints))
    assert "mine" in at.selectbox(key="model").options
    assert "mine" not in open_page("own").selectbox(key="model").options


def test_images_become_a_set_with_labels_where_the_classes_are_the_models() -> None:
    at = hand_in(open_page("own"), "images", "shoes.zip", images())
    assert_fine(at)
    assert any("**shoes** · 6 images, 2 classes" in text.value for text in at.markdown)
    (own,) = at.session_state["own_sets"].values()
    # "T-shirt/top" cannot be a folder; letters and digits are enough.
    assert own.labels(cache.catalogue()[0][0]).tolist() == [0, 0, 0, 1, 1, 1]
    cactus = hand_in(open_page("own"), "images", "plants.zip", images(4, ("Sneaker", "cactus")))
    (own,) = cactus.session_state["own_sets"].values()
    with pytest.raises(ValueError, match="the network has no class 'cactus' as plants does"):
        own.labels(cache.catalogue()[0][0])
    sneakers = hand_in(open_page("own"), "images", "shoes.zip", images(4, ("Sneaker", "bag")))
    (own,) = sneakers.session_state["own_sets"].values()
    found = own.labels(cache.catalogue()[0][0])
    assert [CLASSES[k] for k in found] == ["Sneaker", "Sneaker", "Bag", "Bag"]


def test_what_is_no_zip_file_gets_one_sentence() -> None:
    at = hand_in(open_page("own"), "images", "x.zip", b"not a zip file")
    assert not at.exception and "no zip file" in at.error[0].value


def test_a_folder_named_at_the_start_is_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCDNET_IMAGES", str(tmp_path))
    assert "holds no folders" in open_page("own").warning[0].value
    for k in range(3):
        Image.new("L", (28, 28), k).save(tmp_path / f"{k}.png")
    cache.st.cache_resource.clear()
    at = open_page("own")
    assert any(f"**{tmp_path.name}** · 3 images, 1 class" in text.value for text in at.markdown)
    (tmp_path / "1.png").write_bytes(b"no picture")
    cache.st.cache_resource.clear()
    assert "1.png" in open_page("own").warning[0].value


def test_of_a_large_folder_some_images_are_taken_evenly_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k in range(11):
        Image.new("L", (28, 28), k).save(tmp_path / f"{k:02}.png")
    monkeypatch.setenv("BCDNET_IMAGES", str(tmp_path))
    monkeypatch.setattr(uploads, "MOST_IMAGES", 10)
    at = open_page("own")
    assert any(f"**{tmp_path.name}** · 10 images" in text.value for text in at.markdown)
    assert any("10 of 11 files were taken, evenly over their names." in text.value for text in at.caption)


@pytest.mark.parametrize("classes", [("Sneaker", "bag"), ()], ids=["labelled", "side by side"])
@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_the_code_of_a_set_of_ones_own_runs_on_what_was_handed_in(
    kind: str, classes: tuple[str, ...], checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = images(8, classes)
    (tmp_path / "your-images.zip").write_bytes(packed)
    with zipfile.ZipFile(io.BytesIO(packed)) as file:
        file.extractall(tmp_path / "your-images")
    if kind == "folder":
        monkeypatch.setenv("BCDNET_IMAGES", str(tmp_path / "your-images"))
        at = open_page("own", model="a_bcdnet", beside="reactnet")
        key = f"folder-{tmp_path / 'your-images'}"
    else:
        at = hand_in(open_page("own", model="a_bcdnet", beside="reactnet"), "images", "my set.zip", packed)
        (key,) = at.session_state["own_sets"]
    at.selectbox(key="set").select(key).run()
    at.segmented_control(key="source").set_value("From the set").run()
    at.number_input(key="image").set_value(5).run()
    for name in checkpoints.iterdir():
        (tmp_path / name.name).symlink_to(name)
    monkeypatch.chdir(tmp_path)
    for page in ("receptive", "compare", "sampling"):
        at.switch_page(f"views/{page}.py").run()
        for _ in each_tab(at):
            until(at, lambda at: not any(button.label == "Cancel" for button in at.button))
            assert_fine(at)
            drawn = [json.loads(chart.proto.spec)["data"] for chart in at.get("plotly_chart")]
            codes = [block.value for block in at.code]
            assert len(codes) == len(drawn) and (codes or (page, classes) == ("compare", ()))
            for code in codes:
                scope: dict[str, Any] = {}
                exec(code, scope)
                assert json.loads(scope["figure"].to_json())["data"] in drawn, code


def test_what_is_removed_is_dropped(checkpoints: Path) -> None:
    at = hand_in(open_page("own"), "checkpoint", "mine.safetensors", checkpoint(checkpoints))
    at = hand_in(at, "images", "shoes.zip", images())
    (own,), (key,) = at.session_state["own_models"].values(), at.session_state["own_sets"]
    at.selectbox(key="set").select(key).run()
    at.selectbox(key="model").select(own.id).run()
    at.segmented_control(key="source").set_value("From the set").run()
    at.switch_page("views/ledger.py").run()
    for _ in each_tab(at):
        assert_fine(at)
    kept = [repr(found) for found in cache._results()._kept]
    assert any(own.key in found for found in kept) and any(f"{key}-0" in found for found in kept)
    at.switch_page("views/own.py").run()
    for _ in range(2):
        next(button for button in at.button if button.label == "Remove").click().run()
        assert_fine(at)
    kept = [repr(found) for found in cache._results()._kept]
    assert not any(own.key in found or key in found for found in kept)
    assert not own.path.exists()


def test_a_link_to_an_uploaded_picture_names_its_digest_and_asks_for_the_file() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (30, 30), "red").save(stream, "PNG")
    at = open_page("sampling")
    at.segmented_control(key="source").set_value("Upload").run()
    at.file_uploader(key="upload").upload("red.png", stream.getvalue())
    at.run()
    digest = at.query_params["digest"]
    assert len(digest) == 16
    link = {name: at.query_params[name] for name in at.query_params}
    other = open_page("sampling", **link)
    assert any(digest[:8] in note.value and "Upload the same file" in note.value for note in other.sidebar.info)
    other.file_uploader(key="upload").upload("red.png", stream.getvalue())
    other.run()
    assert not other.sidebar.info and other.query_params["digest"] == digest


@pytest.mark.parametrize("page", ["receptive", "binarizing", "compare", "ledger"])
def test_the_set_of_a_question_is_chosen_in_the_sidebar_and_linked(page: str) -> None:
    at = hand_in(open_page("own"), "images", "shoes.zip", images())
    (key,) = at.session_state["own_sets"]
    at.selectbox(key="set").select(key).run()
    assert at.query_params["set"] == key
    at.switch_page(f"views/{page}.py").run()
    for _ in each_tab(at):
        assert_fine(at)
        assert at.selectbox(key="set").value == key


def test_the_test_images_are_those_of_the_set_a_model_was_trained_for(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bcdnet.create_model("bcdnet_a", **{**TINY, "num_classes": 2}, mlp_groups=2)
    about = {"classes": ["functional", "defective"], "preprocess": FASHION_MNIST.to_dict(), "dataset": "elpv"}
    bcdnet.save(model, tmp_path / "cells.safetensors", about)
    shutil.copy(checkpoints / "twin.safetensors", tmp_path)
    monkeypatch.setenv("BCDNET_CHECKPOINTS", str(tmp_path))
    at = open_page("sampling", model="twin", image="9999")
    assert "**Sandal** · the label in the test set" in [text.value for text in at.sidebar.markdown]
    assert at.number_input(key="image").max == 9_999
    at.selectbox(key="model").select("cells").run()
    assert_fine(at)
    assert at.number_input(key="image").max == 655 and at.number_input(key="image").value == 0
    cells = open_dataset("elpv")
    label = cells.classes[cells.labels[0]]
    assert f"**{label}** · the label in the test set" in [text.value for text in at.sidebar.markdown]
    (code,) = at.code
    assert "open_dataset('elpv').images[0]" in code.value

    monkeypatch.setattr(cache, "open_dataset", missing)
    cache.test_set.clear()
    at = open_page("sampling", model="cells")
    assert_fine(at)
    said = " ".join(text.value for text in at.sidebar.caption)
    assert "The test images of ELPV solar cells are not here: run `pip install elpv-dataset`." in said
    assert any("Choose a picture" in note.value for note in at.info)


def missing(name: str) -> Dataset:
    raise DataError(f"no {name}")
