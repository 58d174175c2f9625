"""The table of variants and its configurations."""

import json
from typing import Any

import pytest

from bcdnet.variants import Config, ConfigError, get_config, list_models


def test_the_table_holds_every_network_of_the_paper() -> None:
    paper = {"reactnet_a", "reactnet_b", "reactnet_c", "bcdnet_a", "bcdnet_b", "reactnet_18", "bcdnet_a_18"}
    assert paper | {"bcdnet_b_18", "mlp_mixer_s", "resnet_mixer_18"} == set(list_models())


@pytest.mark.parametrize("name", list_models())
def test_json_round_trip(name: str) -> None:
    config = get_config(name, num_classes=7, long_range=3, width=0.5)
    assert Config.from_json(config.to_json()) == config
    assert hash(Config.from_json(config.to_json())) == hash(config)


def test_one_number_is_a_square_image() -> None:
    assert get_config("bcdnet_a", image_size=64).image_size == (64, 64)
    assert get_config("bcdnet_a", image_size=[64, 96]).image_size == (64, 96)


@pytest.mark.parametrize(
    ("groups", "blocks"),
    [
        (0, (1, 2, 2, 6, 2)),
        (1, (1, 2, 2, 6, 1)),
        (3, (1, 2, 2, 4, 1)),
        (5, (1, 2, 2, 2, 1)),
        (6, (1, 2, 2, 1, 1)),
        (8, (1, 1, 1, 1, 1)),
    ],
)
def test_mlp_groups_take_the_place_of_the_last_plain_blocks(groups: int, blocks: tuple[int, ...]) -> None:
    assert get_config("reactnet_a", mlp_groups=groups).conv_blocks() == blocks


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("bcdnet_z", {}, "there is no variant 'bcdnet_z'; did you mean"),
        ("bcdnet_a", {"brances": "PSS"}, "no field 'brances'; did you mean 'branches'"),
        ("bcdnet_a", {"branches": "PXL"}, "letters P, S and L"),
        ("bcdnet_a", {"branches": ""}, "letters P, S and L"),
        ("bcdnet_a", {"branches": 3}, "must be a text"),
        ("bcdnet_a", {"precision": "2/2"}, "precision must be one of 32/32, 32/1, 1/32, 1/1"),
        ("bcdnet_a", {"long_range": 0}, "long_range must be a positive whole number"),
        ("bcdnet_a", {"long_range": "third"}, "or 'half'"),
        ("bcdnet_a", {"image_size": 0}, "image_size must be"),
        ("bcdnet_a", {"image_size": "large"}, "image_size must be"),
        ("bcdnet_a", {"num_classes": 0}, "num_classes must be a positive number"),
        ("bcdnet_a", {"num_classes": 2.5}, "num_classes must be a positive number"),
        ("bcdnet_a", {"in_channels": "RGB"}, "in_channels must be a positive number"),
        ("bcdnet_a", {"width": -1}, "width must be a positive number"),
        ("bcdnet_a", {"width": float("nan")}, "width must be a positive number"),
        ("bcdnet_a", {"width": float("inf")}, "wrong kind"),
        ("bcdnet_a", {"width": 1 / 1000}, "without channels"),
        ("bcdnet_a", {"width": 0.3}, "rounds 32 and 64 channels to 10 and 19"),
        ("bcdnet_a", {"mlp_groups": 9}, "more than the 8 blocks"),
        ("bcdnet_a", {"mlp_stages": (4,)}, "mlp_stages is for the resnet family"),
        ("bcdnet_a", {"strides": (1, 2, 3, 2, 2)}, "strides must be 1 or 2"),
        ("bcdnet_a", {"strides": (1, 2)}, "one number for each stage"),
        ("bcdnet_a", {"blocks": 5}, "wrong kind"),
        ("bcdnet_a", {"blocks": 5}, "blocks has"),
        ("bcdnet_a", {"blocks": [1, 2, 2, 6, True]}, "blocks has"),
        ("bcdnet_a", {"channels": "abcde"}, "channels has"),
        ("bcdnet_a", {"strides": [[1, 2], 2, 2, 2, 2]}, "strides has"),
        ("bcdnet_a_18", {"mlp_stages": 4}, "mlp_stages has"),
        ("bcdnet_a_18", {"mlp_stages": [4.0]}, "mlp_stages has"),
        ("bcdnet_a", {"image_size": 28.0}, "image_size must be one or two numbers of pixels"),
        ("bcdnet_a", {"image_size": None}, "image_size must be one or two numbers of pixels"),
        ("bcdnet_a", {"image_size": [True, 28]}, "image_size must be one or two numbers of pixels"),
        ("bcdnet_a", {"num_classes": True}, "num_classes must be a positive number, not True"),
        ("bcdnet_a", {"width": True}, "width must be a positive number, not True"),
        ("bcdnet_a", {"width": float("inf")}, "width must be a finite number"),
        ("bcdnet_a", {"stem_channels": 10**400}, "wrong kind"),
        ("bcdnet_a", {"heads": True}, "heads must be 1 or 2"),
        ("bcdnet_a", {"heads": 2.0}, "heads must be 1 or 2"),
        (
            "bcdnet_a",
            {"mlp_groups": 1.5},
            "mlp_groups has a value of the wrong kind: it must be a whole number, not 1.5",
        ),
        ("bcdnet_a", {"long_range": True}, "long_range must be a positive whole number"),
        ("bcdnet_a", {"embedding_ratio": True}, "embedding_ratio must be positive, not True"),
        ("bcdnet_a", {"stem_pool": 1}, "stem_pool must be true or false"),
        ("bcdnet_a", {"channels": (64, 128, 256, 512, 1000)}, "512 to 1000 does neither"),
        ("bcdnet_a", {"heads": 3}, "heads must be 1 or 2"),
        ("reactnet_b", {"width": 1 / 16}, "doubling_groups 4 must divide the 2 stem channels"),
        ("bcdnet_a_18", {"mlp_groups": 1}, "mlp_groups is for the mobile family"),
        ("bcdnet_a_18", {"mlp_stages": (5,)}, "numbers from 1 to 4"),
        ("bcdnet_a_18", {"width": 3 / 512}, "channels"),
        ("mlp_mixer_s", {"channels": (256,)}, "as wide as its stem"),
    ],
)
def test_bad_fields_get_one_sentence(name: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get_config(name, **changes)
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert message.endswith(".")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "{}", '{"name": "x", "colour": 1}', json.dumps({"name": "x", "blocks": [1]})]
)
def test_broken_json_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError):
        Config.from_json(text)
