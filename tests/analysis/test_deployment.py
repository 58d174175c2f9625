"""The deployment twin on networks whose every number is a small whole one or a half, so that nothing is rounded."""

import numpy as np
import pandas as pd
import pytest
import torch
from nets import TINY

import bcdnet
from analysis import deployment
from analysis.figures import deployment as figures
from bcdnet import kernels
from bcdnet.bench import lively_network
from bcdnet.engine import PackError, load_engine
from bcdnet.layers import BinaryConv2d
from bcdnet.model import InputError
from bcdnet.variants import get_config

ONES = 5


def exact_net(variant="reactnet_a", **changes):
    """The stem hands the image on in every channel, weights are +-1, slopes 1, and thresholds 1/2."""
    torch.manual_seed(0)
    model = bcdnet.create_model(variant, **{**TINY, "width": 1 / 4, **changes}).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eps = 0.0
            if isinstance(module, BinaryConv2d):
                module.weight.copy_(torch.where(module.weight >= 0, 1.0, -1.0))
        model.stem.conv.weight.zero_()
        model.stem.conv.weight[:, :, 1, 1] = 1
        for _, unit in model.residual_units():
            unit.act.slope.fill_(1)
            if unit.sign is not None:
                unit.sign.bias.fill_(-0.5)
    return model


@pytest.fixture
def image():
    """Zeros and threes, and exactly ONES pixels of 1."""
    pixels = np.random.default_rng(0).integers(0, 2, 28 * 28) * 3
    pixels[100 : 100 + 3 * ONES : 3] = 1
    return torch.from_numpy(pixels).float().view(1, 1, 28, 28)


@pytest.mark.parametrize("isa", kernels.isas())
def test_where_nothing_is_rounded_nothing_differs(isa, image):
    model = exact_net("bcdnet_a", mlp_groups=2)
    with kernels.use_isa(isa):
        layers = deployment.twin(model, bcdnet.pack(model, 1), image).layers
    assert list(layers.layer) == ["stem", *(name for name, _ in model.residual_units()), "head"]
    assert set(layers.kind) == {"stem", "conv", "mlp", "head"}
    assert layers.bits.iloc[1] == 8 * 28 * 28 and layers.bits.iloc[0] == layers.bits.iloc[-1] == 0
    assert not layers[["differ", "turned", "matrices", "carried"]].any(axis=None)
    assert layers[["distance", "matrix_distance", "matrix_rounding"]].isna().all(axis=None)
    inner = layers[layers.bits > 0]
    assert (inner.rounding == 0).all()
    # Means over four tokens fall on thresholds exactly, where both must decide for 1.
    assert inner.nearest.iloc[0] > 0 and inner.nearest.min() == 0
    # The mean over 49 tokens in the head is the only number that may be rounded.
    assert not layers.iloc[:-1][["output_difference", "output_rounding"]].any(axis=None)


def test_a_moved_threshold_turns_exactly_the_bits_between(image):
    model = exact_net()
    engine = bcdnet.pack(model, 1)
    with torch.no_grad():
        dict(model.residual_units())["conv1_3x3"].sign.bias[0] = -1.5  # from 1/2: the ones of channel 0 lie between
    layers = deployment.twin(model, engine, image).layers.set_index("layer")
    first = layers.loc["conv1_3x3"]
    assert (first.differ, first.turned, first.matrices, first.carried) == (ONES, ONES, 0, 0)
    distances = np.tile(image.numpy().ravel(), (8, 1)) - np.array([[1.5], *[[0.5]] * 7])
    assert first.distance == pytest.approx(0.5 / distances.std(), rel=1e-12)
    assert first.nearest == first.distance
    assert first.rounding == pytest.approx(1 / distances.std(), rel=1e-12)
    # What differs later follows from it; given the same input, all other layers agree.
    later = layers.iloc[2:-1]
    assert later.carried.sum() > 0 and (later.differ == later.carried).all()
    assert later.distance.isna().all() and (later.rounding == 0).all()
    assert (later.output_rounding == 0).all() and (later.output_difference > 0).any()
    # Given the engine's bits, the first layer's output is right as well; its bits were not.
    assert first.output_rounding == 0 and first.output_difference > 0


def test_bits_that_rounded_matrices_turn_are_told_apart(image):
    model = exact_net("bcdnet_b", mlp_groups=2)
    embedding = dict(model.residual_units())["conv1_3x3"].embedding
    with torch.no_grad():
        embedding.reduce.weight.zero_()
        embedding.reduce.bias.fill_(1)
        # Threshold 1/2 + 1/2 + 2^-13 in float; half precision has steps of 2^-11 there, so the engine's is 1.
        embedding.threshold.weight[0, 0] = 0.5 + 2**-13
    twin = deployment.twin(model, bcdnet.pack(model, 1), image)
    layers = twin.layers.set_index("layer")
    first = layers.loc["conv1_3x3"]
    assert (first.differ, first.turned, first.matrices, first.carried) == (ONES, 0, ONES, 0)
    assert np.isnan(first.distance) and first.rounding == 0 and first.nearest == 0
    assert first.matrix_distance == first.matrix_rounding == pytest.approx(2**-13 / _spread(image), rel=1e-9)
    assert twin.differ_stored == 0 and layers.turned.sum() == 0
    stored = deployment.with_stored_matrices(model)
    assert dict(stored.residual_units())["conv1_3x3"].embedding.threshold.weight[0, 0] == 0.5
    assert embedding.threshold.weight[0, 0] == 0.5 + 2**-13


def _spread(image):
    values = np.tile(image.numpy().ravel(), (8, 1)) - np.array([[1.0], *[[0.5]] * 7])
    return values.std()


def test_causes_add_up_on_networks_that_do_round():
    for seed in range(3):
        model = lively_network(get_config("bcdnet_b", **TINY, mlp_groups=2), seed)
        x = torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
        twin = deployment.twin(model, bcdnet.pack(model, 1), x)
        layers = twin.layers
        assert (layers.differ == layers.turned + layers.matrices + layers.carried).all()
        assert layers.rounding.max() < deployment.ROUNDING
        assert not layers.distance.max() > deployment.ROUNDING
        assert layers.output_difference.iloc[-1] == np.abs(twin.float_logits - twin.packed_logits).max()


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_no_hook_is_left_behind_even_after_an_error(image, monkeypatch):
    model = exact_net()
    engine = bcdnet.pack(model, 1)
    deployment.twin(model, engine, image)
    deployment.layer_times(model, engine, image, budget=0)
    with pytest.raises(InputError):
        deployment.twin(model, engine, image * float("nan"))

    def fail(x):
        raise RuntimeError("in the middle")

    monkeypatch.setattr(model.units[-1].act, "forward", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        deployment.twin(model, engine, image)
    assert hooks(model) == 0 and not model.training


def test_the_maps_of_a_layer_are_those_of_both_graphs(image):
    model = exact_net()
    engine = bcdnet.pack(model, 1)
    with torch.no_grad():
        dict(model.residual_units())["conv1_3x3"].sign.bias[0] = -1.5
    maps = deployment.layer_maps(model, engine, image, "conv1_3x3")
    pixels = image[0, 0].numpy()
    np.testing.assert_array_equal(maps.float_bits[0], pixels > 1)
    np.testing.assert_array_equal(maps.packed_bits[0], pixels > 0)
    np.testing.assert_array_equal(maps.float_bits[1:], maps.packed_bits[1:])
    stem = deployment.layer_maps(model, engine, image, "stem")
    np.testing.assert_array_equal(stem.packed_output, np.tile(pixels, (8, 1, 1)))
    assert stem.float_bits is None
    with pytest.raises(ValueError, match="no layer 'nowhere'"):
        deployment.layer_maps(model, engine, image, "nowhere")


def test_the_parts_of_both_files_add_up_to_their_sizes(tmp_path):
    model = exact_net("bcdnet_b", mlp_groups=2)
    engine = bcdnet.pack(model, 1)
    bcdnet.save(model, tmp_path / "net.safetensors", {})
    checkpoint, packed = (tmp_path / "net.safetensors").stat().st_size, deployment.packed_file(engine)
    parts = deployment.file_parts(model, engine, checkpoint, len(packed))
    assert parts.groupby("file").bytes.sum().to_dict() == {"checkpoint": checkpoint, "packed": len(packed)}
    held = parts.set_index(["file", "part"]).bytes
    # Every channel count here is a multiple of 8, so no bit is padding.
    assert (
        held["checkpoint", "binary"] == 4 * engine.binary_params
        and held["packed", "binary"] == engine.binary_params / 8
    )
    assert held["packed", "real"] / 4 + held["packed", "half"] / 2 == engine.real_params
    assert (parts.bytes > 0).all()
    (tmp_path / "packed").write_bytes(packed)
    x = torch.randn(1, 1, 28, 28)
    assert torch.equal(load_engine(tmp_path / "packed", 1)(x), engine(x))


def test_times_are_taken_of_each_layer_and_each_way_to_run(image):
    model = exact_net()
    engine = bcdnet.pack(model, 1)
    times = deployment.layer_times(model, engine, image, budget=0)
    assert list(times.layer) == ["stem", *(name for name, _ in model.residual_units()), "head"]
    assert (times[["float_ms", "packed_ms"]] > 0).all(axis=None) and times.attrs["runs"] == 5
    quick = deployment.latency(model, image, budget=0)
    assert quick.float_ms > 0 and quick.packed_ms > 0 and quick.deployed_ms == quick.packed_ms
    assert quick.isa == kernels.active() and quick.runs >= 5 and quick.packed_runs >= 5 and not quick.why
    before = torch.get_num_threads()
    table = deployment.speed(model, image, 2, budget=0)
    assert torch.get_num_threads() == before
    assert list(table.runtime) == list(deployment.RUNTIMES) and set(table.threads) == {2}
    assert table.times_faster[1] == 1
    assert table.times_faster[2] == pytest.approx(table["median"][1] / table["median"][2])
    assert (table.p10 <= table["median"]).all() and (table["median"] <= table.p90).all() and (table.runs >= 5).all()


def test_what_cannot_be_packed_is_timed_in_float_and_says_why(image):
    model = bcdnet.create_model("bcdnet_a", **TINY, mlp_groups=2, precision="32/32")
    assert "only 1/1 networks can be packed" in deployment.packable(model) and deployment.packable(exact_net()) == ""
    quick = deployment.latency(model, image, budget=0)
    assert quick.packed_ms is None and quick.packed_runs == 0 and quick.isa == "" and "32/32" in quick.why
    assert quick.deployed_ms == quick.float_ms > 0
    with pytest.raises(PackError):
        deployment.speed(model, image, 1, budget=0)


@pytest.mark.parametrize(
    ("cores", "counts"), [(1, [1]), (2, [1, 2]), (4, [1, 2, 3, 4]), (6, [1, 2, 3, 4, 6]), (16, [1, 2, 3, 4, 8, 16])]
)
def test_thread_counts_end_with_all_cores(cores, counts):
    assert deployment.thread_counts(cores) == counts


# -- figures ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def moved(image):
    model = exact_net()
    engine = bcdnet.pack(model, 1)
    with torch.no_grad():
        dict(model.residual_units())["conv1_3x3"].sign.bias[0] = -1.5
    return model, engine, deployment.twin(model, engine, image)


def test_bars_of_differing_bits_add_up_and_name_only_causes_that_are_there(moved):
    layers = moved[2].layers
    bars = [trace for trace in figures.differing_bits(layers).data if trace.type == "bar"]
    assert [bar.name for bar in bars] == ["turned by float rounding", "follow from bits that differ before"]
    assert sum(sum(bar.x) for bar in bars) == layers.differ.sum()
    assert (bars[0].y[0], bars[0].x[0]) == ("conv1_3x3", ONES)


def test_no_difference_at_all_has_a_place_on_the_logarithmic_axis(moved):
    fig = figures.threshold_room(moved[2].layers)
    rounding = next(trace for trace in fig.data if trace.name == "float rounding of the layer")
    assert min(rounding.x) == 1e-9 and min(value[0] for value in rounding.customdata) == 0
    assert not any(trace.name == "with matrices in half precision" for trace in fig.data)
    assert fig.layout.shapes[0].x0 == deployment.ROUNDING


def test_maps_show_one_channel_and_their_difference(moved, image):
    model, engine, _ = moved
    maps = deployment.layer_maps(model, engine, image, "conv1_3x3")
    fig = figures.twin_maps(maps, 3, 0)
    assert len(fig.data) == 6
    np.testing.assert_array_equal(fig.data[2].z, maps.float_bits[0].astype(float) - maps.packed_bits[0])
    np.testing.assert_array_equal(fig.data[5].z, maps.float_output[3].astype(float) - maps.packed_output[3])
    assert (fig.data[3].zmin, fig.data[3].zmax) == (fig.data[4].zmin, fig.data[4].zmax)
    assert fig.data[5].zmin == -fig.data[5].zmax
    assert len(figures.twin_maps(deployment.layer_maps(model, engine, image, "stem"), 0, 0).data) == 3


def test_lines_of_time_say_how_many_times_as_fast():
    times = pd.DataFrame({"layer": ["stem", "head"], "float_ms": [1.0, 3.0], "packed_ms": [0.05, 2.0]})
    dots = [trace for trace in figures.layer_dumbbells(times).data if trace.name]
    assert [trace.name for trace in dots] == ["packed engine", "float, weights binarized once"]
    assert list(dots[1].text) == ["20×", "1.5×"] and list(dots[1].x) == [1, 3]
    speed = pd.DataFrame(
        {"threads": [1, 1, 1], "runtime": list(deployment.RUNTIMES), "median": [3.0, 2.0, 1.0], "p10": [2.5, 1.5, 0.5],
         "p90": [4.0, 3.0, 2.0], "runs": [5, 6, 7]}
    )  # fmt: skip
    lines = figures.speed_lines(speed).data
    assert [list(line.y) for line in lines] == [[3], [2], [1]]
    assert (lines[0].error_y.array[0], lines[0].error_y.arrayminus[0]) == (1, 0.5)


def test_bars_of_files_add_up_to_the_totals_beside_them():
    parts = pd.DataFrame(
        [("checkpoint", "binary", 3200), ("checkpoint", "real", 500), ("checkpoint", "rest", 300),
         ("packed", "binary", 100), ("packed", "real", 400), ("packed", "half", 0), ("packed", "rest", 500)],
        columns=["file", "part", "bytes"],
    )  # fmt: skip
    fig = figures.file_bars(parts)
    assert [note.text for note in fig.layout.annotations] == ["4.0 kB", "1.0 kB"]
    assert sum(sum(bar.x) for bar in fig.data) == pytest.approx(5.0)
    assert "embedding matrices" not in [bar.name for bar in fig.data]
