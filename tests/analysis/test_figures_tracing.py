"""Figures of paths and of rebuilt tokens: one map a layer, one frame a step."""

import numpy as np
import torch
from nets import TINY

import bcdnet
from analysis.figures.tracing import reconstruction_steps, trace_strip
from analysis.tracing import Reconstruction, Trace, trace


def test_each_map_is_drawn_on_its_own_logarithm_and_unreached_tokens_stay_empty() -> None:
    weights = np.array([[0.9, 0.09], [0.01, 0.0]])
    found = Trace("mlp", 0, 0, None, {"mlp": weights}, {"mlp": np.array([[0.0, 0.09], [0.0, 0.0]])})
    (drawn,) = trace_strip(found).data
    np.testing.assert_allclose(drawn.z, [[0, -1], [np.log10(1 / 90), np.nan]])
    np.testing.assert_allclose(drawn.customdata[..., 1], [[0, 100], [0, 0]])
    assert drawn.colorbar.title.text == "share of each<br>map's largest"
    assert len(trace_strip(found, np.zeros((8, 8), np.uint8)).data) == 2


def test_the_strip_goes_from_the_layer_to_the_image() -> None:
    torch.manual_seed(0)
    found = trace(bcdnet.create_model("bcdnet_a", **TINY, mlp_groups=2), "mlp1_2", 3, 3)
    titles = [note.text for note in trace_strip(found).layout.annotations]
    assert titles == list(found.maps) and titles[0] == "mlp1_2" and titles[-2:] == ["stem", "image"]


def test_there_is_a_frame_for_each_step_and_nothing_plays_by_itself() -> None:
    frames = np.arange(3 * 4 * 4, dtype=float).reshape(3, 4, 2, 2)
    fig = reconstruction_steps(Reconstruction("mlp", "long", ((-1, 0), (1, 0), (0, -2), (0, 0)), frames))
    assert [note.text for note in fig.layout.annotations] == [
        "quarter 1: from 1 above", "quarter 2: from 1 below", "quarter 3: from 2 left", "quarter 4: stays"
    ]  # fmt: skip
    for step, frame in enumerate(fig.frames):
        assert all(np.array_equal(drawn.z, frames[step, k]) for k, drawn in enumerate(frame.data))
        assert frame.traces == (0, 1, 2, 3)
    assert len(fig.frames) == 3 and all(np.array_equal(fig.data[k].z, frames[0, k]) for k in range(4))
    assert [button.label for button in fig.layout.updatemenus[0].buttons] == ["▶ Play"]
