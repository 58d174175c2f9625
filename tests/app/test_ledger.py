"""The branch ledger, run without a browser on tiny untrained checkpoints."""

import base64
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import TINY
from pages import each_tab
from streamlit.testing.v1 import AppTest

import bcdnet
from analysis import branches
from app import cache, jobs
from bcdnet.model import Network

MAIN = str(Path(__file__).resolve().parents[2] / "app" / "main.py")
#: Tabs of the ledger and of the switches -> figures in them.
BOOK = {"The token": 1, "One channel over all tokens": 1, "The token as a table": 0}
TABS = {"This picture": 1, "Accuracy": 0, "Every branch alone": 1, "Shares": 1}


#: A few layers only, since all their branches are switched off in turn; maps of 7x7.
SMALL: dict[str, Any] = {"stem_channels": 8, "channels": (8, 16), "stem_stride": 2, "width": 1}
SMALL |= {"blocks": (1, 2), "strides": (2, 1), "mlps_per_conv": 2}


@pytest.fixture(scope="module")
def small(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks of the kinds of ``checkpoints``, with few layers."""
    folder = tmp_path_factory.mktemp("small")
    for path in checkpoints.glob("*.safetensors"):
        like = bcdnet.load(path)
        torch.manual_seed(0)
        groups = min(1, like.config.mlp_groups)
        model = bcdnet.Network(like.config.replace(**SMALL, mlp_groups=groups))
        bcdnet.save(model, folder / path.name, like.card)
    return folder


@pytest.fixture(autouse=True)
def small_models(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCDNET_CHECKPOINTS", str(small))
    monkeypatch.chdir(small)  # where the exported code looks for them
    monkeypatch.setattr(jobs, "_UNASKED", float("inf"))  # however slow the machine


def open_page(**query: str) -> AppTest:
    at = AppTest.from_file(MAIN, default_timeout=60)
    at.query_params.update({"model": "a_bcdnet", "n": "50", **query})
    at.run()
    at.switch_page("views/ledger.py").run()
    return finished(at)


def finished(at: AppTest) -> AppTest:
    """The page when its jobs have ended, which a browser would ask about by itself."""
    for _ in range(200):
        assert not at.exception, [e.message for e in at.exception]
        assert not at.error, [e.value for e in at.error]
        if not any("Cancel" in button.label for button in at.button):
            return at
        time.sleep(0.1)
        at.run()
    raise AssertionError("the work does not end")


def drawn(at: AppTest) -> dict[str, dict[str, Any]]:
    """What every figure of the page says in words -> what it draws."""
    return {chart.proto.alt: json.loads(chart.proto.spec) for chart in at.get("plotly_chart")}


def figure(at: AppTest, begin: str) -> dict[str, Any]:
    return next(spec for alt, spec in drawn(at).items() if alt.startswith(begin))


def said(at: AppTest) -> str:
    return "\n".join(text.value for text in [*at.markdown, *at.caption, *at.info])


def metrics(at: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in at.metric}


def asked(identity: str = "a_bcdnet") -> tuple[Network, torch.Tensor]:
    model = next(model for model in cache.catalogue()[0] if model.id == identity)
    return cache.private_copy(model), cache.seen(model, cache.test_picture(0)).x


def numbers(values: Any) -> np.ndarray:
    """Numbers of a figure's specification, which may be packed."""
    if isinstance(values, dict):
        flat = np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"])
        return flat.reshape([int(n) for n in values["shape"].split(",")] if "shape" in values else -1)
    return np.asarray(values)


def test_the_ledger_shows_the_terms_of_the_chosen_token_and_prints_its_residual() -> None:
    at = open_page(layer="mlp1_1", row="2", col="5")
    model, x = asked()
    found = branches.ledger(model, x, "mlp1_1")
    table = found.token(2, 5)
    traces = {trace["name"]: trace for trace in figure(at, "What adds up at row 2, column 5 of mlp1_1")["data"]}
    assert list(traces) == ["point", "short", "long", "bias", "shortcut", "computed by the network"]
    largest = table.total.abs().sort_values(ascending=False, kind="stable").index[:24]
    np.testing.assert_allclose(numbers(traces["long"]["y"]), table.long[largest])
    assert "**Residual" in said(at) and "nothing is left over" in said(at)
    at.segmented_control(key="upto").set_value("activation").run()
    at.segmented_control(key="split").set_value("sources").run()
    at.segmented_control(key="channels").set_value("number").run()
    finished(at)
    names = [trace["name"] for trace in figure(at, "What adds up")["data"]]
    assert "activation" in names and "short (-1, +0)" in names and len(names) == 1 + 4 + 4 + 3 + 1


def test_maps_of_a_channel_follow_the_scale() -> None:
    at = open_page(book_tab="One channel over all tokens", channel="3", scale="all")
    model, x = asked()
    maps = branches.ledger(model, x, "mlp1_1").channel(3)
    traces = [t for t in figure(at, "Maps of the terms of channel 3 of mlp1_1")["data"] if t["type"] == "heatmap"]
    assert len(traces) == 6 and len({trace["zmax"] for trace in traces}) == 1
    np.testing.assert_allclose(numbers(traces[2]["z"]).reshape(7, 7), maps["long"])
    assert traces[0]["zmax"] == pytest.approx(max(np.abs(map).max() for map in maps.values()))
    at.segmented_control(key="scale").set_value("map").run()
    for book in each_tab(at, "book_tab"):
        assert len(drawn(finished(at))) == BOOK[book] + 1


def test_a_switch_changes_the_classes_at_once() -> None:
    at = open_page(off="mlp1_1 point,everywhere long")
    assert at.get("button_group") and at.query_params["off"] == "mlp1_1 point,everywhere long"
    model, x = asked()
    effect = branches.switch_effect(model, x, [("mlp1_1", "point"), ("everywhere", "long")])
    shown = figure(at, "Likeliest classes before and after")["data"]
    order = effect.before.sort_values(ascending=False).index
    np.testing.assert_allclose(numbers(shown[0]["x"])[:3], 100 * effect.p_before[order[:3]])
    after = dict(zip(shown[1]["y"], numbers(shown[1]["x"]), strict=True))
    assert max(after.values()) == pytest.approx(100 * effect.p_after.max())
    at.pills(key="off").set_value([]).run()
    before, after = (numbers(trace["x"]) for trace in figure(finished(at), "Likeliest classes")["data"])
    np.testing.assert_allclose(before, after, rtol=1e-6)


def test_means_over_many_images_are_taken_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_AT_ONCE", 0)
    monkeypatch.setattr(jobs, "_UNASKED", 0)
    at = open_page(ledger_tab="This picture", off="everywhere long", replace="mean")
    assert "102 forward passes" in said(at)
    next(button for button in at.button if button.label == "Compute it").click().run()
    finished(at)
    model, x = asked()
    data = cache.test_set()
    assert data is not None
    images = next(data.batches(cache.preprocess(cache.catalogue()[0][0]), 100))[0]
    effect = branches.switch_effect(model, x, [("everywhere", "long")], images)
    after = figure(at, "Likeliest classes")["data"][1]
    assert max(numbers(after["x"])) == pytest.approx(100 * effect.p_after.max())


@pytest.mark.parametrize("replace", ["zero", "mean"])
def test_accuracy_without_branches_is_counted_on_the_set(replace: str) -> None:
    at = open_page(ledger_tab="Accuracy", off="everywhere long", replace=replace)
    data = cache.test_set()
    assert data is not None
    model, _ = asked()
    images, labels = next(data.batches(cache.preprocess(cache.catalogue()[0][0]), 50))
    row = branches.knockout(model, images, labels.tolist(), [[("everywhere", "long")]], replace).table.iloc[0]
    assert metrics(at) == {
        "Top-1": f"{row.top1:.1f} %",
        "Turn wrong": str(row.broken),
        "Turn right": str(row.mended),
        "p": f"{row.p:.2g}",
        "Change class": str(row.changed),
    }
    at.pills(key="off").set_value([]).run()
    assert "nothing changes" in said(finished(at)) and not metrics(at)


def test_every_branch_alone_has_a_cell_once_its_cost_was_agreed_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_UNASKED", 0)
    monkeypatch.setattr(jobs, "_AT_ONCE", 0)
    at = open_page(ledger_tab="Every branch alone")
    count = len(branches.switches(asked()[0]))
    assert f"Every branch switched off alone: {50 * (1 + count)} forward passes" in said(at).replace(",", "")
    next(button for button in at.button if button.label == "Compute it").click().run()
    finished(at)
    model, _ = asked()
    table = at.dataframe[-1].value
    assert list(zip(table.layer, table.branch, strict=True)) == branches.switches(model)
    text = np.asarray(figure(at, "What switching off each branch of each layer alone does to 50")["data"][0]["text"])
    assert (text != "").sum() == len(table)


@pytest.mark.parametrize("identity", ["b_bcdnet", "reactnet", "twin"])
@pytest.mark.parametrize("tab", TABS)
def test_every_network_has_its_ledger_and_its_code_makes_what_is_drawn(identity: str, tab: str) -> None:
    at = open_page(model=identity, ledger_tab=tab, replace="mean", split="sources", channels="number", image="7")
    ran = set()
    for book in each_tab(at, "book_tab"):
        finished(at)
        assert ("has no binary MLPs" in said(at)) == (identity == "reactnet")
        assert all(alt for alt in drawn(at)) and all(frame.proto.alt for frame in at.dataframe)
        assert any(frame.proto.alt.startswith("Every term of all") for frame in at.dataframe) == (not BOOK[book])
        assert len(at.code) == len(drawn(at)) == BOOK[book] + TABS[tab]
        for block in at.code:
            if block.value in ran:  # of the switches, which are below every tab
                continue
            ran.add(block.value)
            scope: dict[str, Any] = {}
            exec(block.value, scope)
            made = json.loads(scope["figure"].to_json())
            assert any(made["data"] == spec["data"] for spec in drawn(at).values()), block.value
    assert len(ran) == 2 + TABS[tab]


def test_every_control_says_what_it_does_and_a_badge_where_numbers_come_from() -> None:
    for tab in TABS:
        at = open_page(ledger_tab=tab)
        for _ in each_tab(at, "book_tab"):
            finished(at)
            kinds = ("selectbox", "number_input", "select_slider", "button", "button_group")
            assert not [w.proto.label for kind in kinds for w in at.get(kind) if not w.proto.help]
            assert said(at).count("measured ·") == 2
            assert any("misleads" in expander.label for expander in at.expander)


@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        ("bcdnet_a", {"mlp_groups": 1, "branches": "PSS"}),
        ("mlp_mixer_s", {"width": 1 / 64, "stem_stride": 4, "blocks": (1,), "strides": (1,)}),
    ],
)
def test_networks_of_other_kinds(
    variant: str, changes: dict, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bcdnet.create_model(variant, **{**TINY, **changes})
    bcdnet.save(model, tmp_path / "own.safetensors", bcdnet.load(checkpoints / "twin.safetensors").card)
    monkeypatch.setenv("BCDNET_CHECKPOINTS", str(tmp_path))
    at = open_page(model="own", off="mlp1_1 short 2")
    if variant == "mlp_mixer_s":
        assert "made of Mixer blocks" in said(at) and not drawn(at)
        return
    assert at.pills(key="off").value == ["mlp1_1 short 2"]
    assert "short 2" in [trace["name"] for trace in figure(at, "What adds up")["data"]]
    for book in each_tab(at, "book_tab"):
        assert len(drawn(finished(at))) == BOOK[book] + 1
