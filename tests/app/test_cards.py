"""Cards that are not written as this library writes them: pages go on, and a sentence says what is left out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nets import TINY
from pages import assert_fine, each_tab, open_page

import bcdnet
from app import cache
from bcdnet.data import FASHION_MNIST
from bcdnet.data.fashion_mnist import CLASSES

PAGES = ["overview", "own", "sampling", "receptive", "attributions", "ledger", "binarizing", "deployment"]
PAGES += ["costs", "compare", "runs"]
GOOD = {"top1": 90.0, "top5": 99.0, "n": 100, "ci95": [82.0, 94.0]}
#: What a file's card says, each of which no page can read.
WRONG: dict[str, dict[str, Any]] = {
    "text": {"metrics": GOOD | {"top1": "high"}},
    "short": {"metrics": GOOD | {"ci95": [1]}},
    "null": {"metrics": GOOD | {"ci95": None}},
    "count": {"metrics": GOOD | {"n": "all"}},
    "list": {"metrics": [1, 2]},
    "classes": {"classes": 10},
    "recipe": {"recipe": {"init": "text", "steps": [{"epochs": "many"}]}},
    "dataset": {"dataset": ["fashion-mnist"]},
}
#: Cards that say less than most.
SPARSE = {"top1": {"metrics": {"top1": 90.0}}, "silent": {"metrics": {}}, "nulls": {"metrics": None, "recipe": None}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, dict[str, Any]]], Path]:
    model = bcdnet.create_model("bcdnet_a", **TINY, mlp_groups=2)

    def fill(cards: dict[str, dict[str, Any]]) -> Path:
        for name, changes in cards.items():
            card = {"classes": list(CLASSES), "preprocess": FASHION_MNIST.to_dict(), "dataset": "fashion-mnist"}
            bcdnet.save(model, tmp_path / f"{name}.safetensors", card | changes)
        monkeypatch.setenv("BCDNET_CHECKPOINTS", str(tmp_path))
        return tmp_path

    return fill


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("cards", [WRONG, SPARSE], ids=["wrong", "sparse"])
def test_no_page_fails_on_a_card(folder: Callable[..., Path], cards: dict[str, dict[str, Any]], page: str) -> None:
    folder(cards)
    beside = list(cards)[1:4]
    at = open_page(page, model=next(iter(cards)), beside=",".join(beside))
    for _ in each_tab(at):
        assert_fine(at)
        said = [warning.value for warning in at.warning]
        for name, changes in cards.items():
            sentence = f"{name} is shown without what its card says of {next(iter(changes))}"
            assert any(text.startswith(sentence) for text in said) == (cards is WRONG)
    if page == "overview":
        closed = next(expander for expander in at.expander if expander.label == "Cards of the models")
        at.session_state[closed.proto.id] = True  # as a click on it does
        at.run()
        assert_fine(at)
        assert len(at.json) == len(cards)


def test_what_is_wrong_is_left_out_and_all_else_kept(folder: Callable[..., Path]) -> None:
    folder(WRONG)
    models, problems = cache.catalogue()
    assert len(models) == len(WRONG) and len(problems) == len(WRONG)
    for model in models:
        assert set(WRONG[model.id]).isdisjoint(model.card) and "preprocess" in model.card
        assert model.classes == ([str(k) for k in range(10)] if model.id == "classes" else list(CLASSES))


def test_a_reader_is_told_of_an_uploaded_card(folder: Callable[..., Path]) -> None:
    content = (folder({"mine": WRONG["text"], "fine": {}}) / "mine.safetensors").read_bytes()
    at = open_page("own", model="fine")
    at.file_uploader[0].upload("handed in.safetensors", content)
    at.run()
    assert_fine(at)
    assert any("handed in is shown without what its card says of metrics" in text.value for text in at.caption)
