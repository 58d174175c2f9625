"""Sampling patterns: a token followed back to the image, rebuilt, and met by zero padding."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import assert_fine, charts, open_page

from analysis.branches import wrap_effect
from analysis.tracing import reconstruction, trace
from app import cache

ROOT = Path(__file__).resolve().parents[2]


def test_paths_reach_what_the_analysis_says() -> None:
    at = open_page("sampling", layer="mlp1_2", row="0", col="2", sampling_tab="Back to the image", trace_branch="long")
    assert_fine(at)
    table = next(frame for frame in at.dataframe if "how many tokens the paths reach" in frame.proto.alt).value
    with cache.locked(cache.catalogue()[0][0]) as network:
        wanted = trace(network, "mlp1_2", 0, 2, "long").table()
    assert list(table.layer) == list(wanted.layer) and list(table.tokens) == list(wanted.tokens)
    np.testing.assert_allclose(table.wrapped, 100 * wanted.wrapped)


def test_tokens_are_rebuilt_step_by_step_and_only_when_asked() -> None:
    at = open_page("sampling", layer="mlp1_1", sampling_tab="How tokens are rebuilt", rebuilt_branch="long")
    assert_fine(at)
    model = cache.catalogue()[0][0]
    with cache.locked(model) as network:
        wanted = reconstruction(network, cache.seen(model, cache.test_picture(0)).x, "mlp1_1", "long")
    chart = next(c for c in at.get("plotly_chart") if c.proto.alt.startswith("The four channel quarters"))
    spec = json.loads(chart.proto.spec)
    assert [step["label"] for step in spec["layout"]["sliders"][0]["steps"]] == ["0", "1", "2", "3"]
    assert len(spec["frames"]) == len(wanted.frames) == 4
    at.selectbox(key="layer").select("conv1_3x3").run()
    assert_fine(at)
    assert any("Only binary MLPs" in note.value for note in at.info)


def test_zero_padding_moves_the_logits_as_the_analysis_says() -> None:
    at = open_page("sampling", sampling_tab="Without wrap-round")
    assert_fine(at)
    model = cache.catalogue()[0][0]
    with cache.locked(model) as network:
        effect = wrap_effect(network, cache.seen(model, cache.test_picture(0)).x)
    moved = (effect.after - effect.before).abs().max()
    assert moved > 0 and any(f"by up to {moved:.2f}." in text.value for text in at.markdown)
    at.segmented_control(key="padding").set_value("wrap-round").run()
    assert any("nothing changes" in text.value for text in at.markdown)
    assert any("nothing wraps round" in note.value for note in open_page(
        "sampling", model="reactnet", sampling_tab="Without wrap-round").info)  # fmt: skip


@pytest.mark.parametrize("tab", ["Back to the image", "How tokens are rebuilt", "Without wrap-round"])
def test_the_code_of_every_figure_makes_what_is_drawn(tab: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BCDNET_CHECKPOINTS")
    at = open_page("sampling", sampling_tab=tab, image="7")
    assert_fine(at)
    drawn = [json.loads(chart.proto.spec) for chart in at.get("plotly_chart")]
    monkeypatch.chdir(ROOT)
    assert len(at.code) == charts(at) == 2
    for code, spec in zip(at.code, drawn, strict=True):
        scope: dict[str, Any] = {}
        exec(code.value, scope)
        made = json.loads(scope["figure"].to_json())
        assert made["data"] == spec["data"] and made.get("frames") == spec.get("frames")
