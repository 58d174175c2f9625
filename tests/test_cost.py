"""The counts against the paper's printed tables, digit for digit, and against a count by hand."""

import pytest
import torch

from bcdnet import create_model, list_models
from bcdnet.cost import network_cost
from bcdnet.model import InputError
from bcdnet.variants import get_config


@pytest.mark.parametrize(
    ("name", "bops", "flops", "conv_fc", "ops", "ops_conv_fc"),
    [
        # BOPs in 1e9, the rest in 1e8: every digit of the accounting that gives the paper's Table 1.
        ("reactnet_a", "4.817", "0.3118", "0.1186", "1.0644", "0.8713"),
        ("reactnet_b", "4.688", "0.6096", "0.4397", "1.3422", "1.1723"),
        ("reactnet_c", "4.688", "1.5730", "1.4031", "2.3055", "2.1357"),
        ("bcdnet_a", "4.817", "0.3248", "0.1186", "1.0775", "0.8713"),
        ("bcdnet_b", "4.817", "0.3440", "0.1378", "1.0966", "0.8904"),
        ("reactnet_18", "1.6763", "1.4497", "1.3779", "1.7116", "1.6399"),
        ("bcdnet_a_18", "1.6763", "1.4602", "1.3779", "1.7221", "1.6399"),
    ],
)
def test_table_1(name: str, bops: str, flops: str, conv_fc: str, ops: str, ops_conv_fc: str) -> None:
    cost = network_cost(get_config(name))
    digits = len(bops.split(".")[1])
    assert f"{cost.bops / 1e9:.{digits}f}" == bops
    printed = [f"{value / 1e8:.4f}" for value in (*cost.flops.values(), *cost.ops.values())]
    assert printed == [flops, conv_fc, ops, ops_conv_fc]
    assert list(cost.flops) == list(cost.ops) == ["full", "conv_fc"]


@pytest.mark.parametrize("groups", range(6))
def test_fig_5_every_split_has_the_same_bops(groups: int) -> None:
    cost = network_cost(get_config("reactnet_a", mlp_groups=groups))  # 14/0, 13/3, … 9/15
    assert cost.bops == 4_816_896_000
    assert sum(layer.name.endswith("branches.0") for layer in cost.layers) == 3 * groups


@pytest.mark.parametrize(("mlps", "printed"), [(0, "3.8134"), (1, "1.5053"), (2, "3.0106"), (3, "4.5158")])
def test_table_5_a_block_of_two_layers_at_512_channels(mlps: int, printed: str) -> None:
    changes = {"mlp_stages": (4,), "mlps_per_conv": mlps} if mlps else {}
    layers = network_cost(get_config("reactnet_18", **changes)).layers
    block = [layer for layer in layers if layer.name.startswith(("units.stage4_unit3", "units.stage4_unit4"))]
    ops = sum(layer.bops / 64 + layer.flops["full"] for layer in block)
    assert f"{ops / 1e6:.4f}" == printed


def test_published_parameters_of_bcdnet_a() -> None:
    cost = network_cost(get_config("bcdnet_a"))
    assert cost.params == 46_146_384
    assert cost.binary_params == 43_981_824
    assert cost.bits == 43_981_824 + 32 * 2_164_560


def test_embeddings_add_1_914_million_macs() -> None:
    a, b = (network_cost(get_config(name)) for name in ("bcdnet_a", "bcdnet_b"))
    assert b.flops["conv_fc"] - a.flops["conv_fc"] == 1_913_600
    assert b.bops == a.bops


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("precision", ["1/1", "32/1", "32/32", "1/32"])
def test_parameters_are_those_of_the_network(name: str, precision: str) -> None:
    with torch.device("meta"):
        model = create_model(name, precision=precision)
    cost = network_cost(get_config(name, precision=precision))
    assert cost.params == sum(p.numel() for p in model.parameters())
    assert (cost.bops > 0) == (precision == "1/1")
    assert (cost.binary_params > 0) == precision.startswith("1/")


def test_precision_moves_operations_but_loses_none() -> None:
    products = {}
    for precision in ("1/1", "32/1", "32/32"):
        cost = network_cost(get_config("bcdnet_a", precision=precision))
        products[precision] = cost.bops + cost.flops["conv_fc"]
    assert len(set(products.values())) == 1


SMALL = {
    "image_size": (4, 6), "in_channels": 1, "num_classes": 3, "stem_channels": 4, "stem_stride": 1,
    "channels": (8,), "blocks": (1,), "strides": (2,),
}  # fmt: skip


def test_a_small_network_counted_by_hand() -> None:
    cost = network_cost(get_config("reactnet_a", **SMALL))
    by_name = {layer.name: layer for layer in cost.layers}
    tokens = 2 * 3
    assert by_name["stem.conv"].macs == 9 * 4 * 24
    assert by_name["units.conv1_3x3.sign"].elementwise == 4 * 24
    assert by_name["units.conv1_3x3.op"].bops == 9 * 4 * 4 * tokens
    assert by_name["units.conv1_3x3.op"].elementwise == 4 * tokens
    assert by_name["units.conv1_1x1.op"].bops == 4 * 8 * tokens
    assert by_name["fc"].macs == 8 * 3
    elementwise = 4 * 24 + (4 * 24 + 3 * 4 * tokens) + (4 * tokens + 3 * 8 * tokens)
    assert cost.flops == {"full": 864 + 24 + elementwise, "conv_fc": 864 + 24}
    assert cost.bops == 864 + 192
    assert cost.ops["conv_fc"] == (864 + 192) / 64 + 888
    assert cost.binary_params == 9 * 16 + 32


@pytest.mark.parametrize(
    ("precision", "signs", "scales"),
    [
        ("32/32", 0, 0),
        ("32/1", 4 * 24 + 4 * 6, 0),  # the inputs of both units
        ("1/32", 0, 4 * 6 + 8 * 6),  # the outputs of both
    ],
)
def test_only_what_is_binary_is_signed_and_scaled(precision: str, signs: int, scales: int) -> None:
    cost = network_cost(get_config("reactnet_a", precision=precision, **SMALL))
    elementwise = {
        "RSign": signs,
        "BinaryConv2d": scales,
        "BatchNorm2d": 4 * 24 + 4 * 6 + 8 * 6,
        "RPReLU": 4 * 6 + 8 * 6,
    }
    counted = {kind: sum(layer.elementwise for layer in cost.layers if layer.kind == kind) for kind in elementwise}
    assert counted == elementwise
    macs = 864 + 24 + (864 + 192)  # stem, head, and the units' products, now real
    assert cost.flops == {"full": macs + signs + scales + 168 + 72, "conv_fc": macs}
    assert cost.bops == 0
    assert cost.ops == cost.flops


def test_cost_scales_with_the_image_and_refuses_what_the_network_refuses() -> None:
    config = get_config("bcdnet_a")
    assert network_cost(config, (448, 224)).bops == 2 * network_cost(config).bops
    with pytest.raises(InputError):
        network_cost(config, (224, 225))
