"""The variants as rows of data: one frozen :class:`Config`; an ablation, a step or a precision is one changed field."""

import difflib
import json
import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

#: Longest side of an image in pixels; no stride, distance or number of colour channels is larger either.
MAX_SIDE = 65_536
PRECISIONS = ("32/32", "32/1", "1/32", "1/1")


class ConfigError(ValueError):
    """A configuration that describes no network; the message is one sentence that says what to change."""


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class Config:
    """Everything that defines a network's shape. Channel counts are before ``width``.

    Attributes:
        name: row of the table of variants this started from.
        family: "mobile" (MobileNet-V1 pairs of 3x3 and 1x1 units), "resnet" (single 3x3 units) or "mixer".
        image_size: (height, width) in pixels the network is meant for; other sizes the strides allow work too.
        in_channels, num_classes: of images and of the heads.
        width: multiplier on every channel count.
        stem_channels, stem_stride: of the real-valued first convolution ("mixer": the patch size is the stride).
        stem_pool: 3x3 stride-2 max-pooling after the stem.
        channels, blocks, strides: per stage; "blocks" counts convolution blocks before any gives way to MLPs.
        mlp_groups: "mobile" only: how many convolution blocks, counted from the last, give way to a group of
            ``mlps_per_conv`` binary MLPs and one pointwise unit (Fig. 5: split 11/9 is 3).
        mlp_stages: "resnet" only: stages, from 1, whose stride-1 convolutions give way to MLPs (Table 4).
        mlps_per_conv: binary MLPs that replace one convolution (Table 5).
        replacement: "mlp", or "mixer" for the pilot study's conv + MLP-Mixer hybrid.
        mixer_ratio: expansion of both mixings in an MLP-Mixer block.
        branches: letters P, S, L: the branches of every binary MLP (Table 6).
        long_range: distance of the long branch in tokens, or "half" of the actual map.
        embedding_ratio: reduction r of the dynamic context embeddings in the convolution stage; None: no embeddings.
        doubling_groups: of the 1x1 convolutions that double the channels, which are then real; None: they are binary.
        heads: 2 adds ``fc_dist``, which learns the teacher; inference averages both.
        precision: weights/activations in bits: 32/32 (twin), 32/1 (training step 1), 1/1 (step 2), 1/32.
    """

    name: str
    family: str = "mobile"
    image_size: tuple[int, int] = (224, 224)
    in_channels: int = 3
    num_classes: int = 1000
    width: float = 1.0
    stem_channels: int = 32
    stem_stride: int = 2
    stem_pool: bool = False
    channels: tuple[int, ...] = (64, 128, 256, 512, 1024)
    blocks: tuple[int, ...] = (1, 2, 2, 6, 2)
    strides: tuple[int, ...] = (1, 2, 2, 2, 2)
    mlp_groups: int = 0
    mlp_stages: tuple[int, ...] = ()
    mlps_per_conv: int = 3
    replacement: str = "mlp"
    mixer_ratio: int = 4
    branches: str = "PSL"
    long_range: int | str = "half"
    embedding_ratio: int | None = None
    doubling_groups: int | None = None
    heads: int = 1
    precision: str = "1/1"

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.type is str and not isinstance(value := getattr(self, field.name), str):
                raise ConfigError(f"{field.name} must be a text, not {value!r}.")
        for name in ("channels", "blocks", "strides", "mlp_stages"):
            value = getattr(self, name)
            if not isinstance(value, list | tuple) or not all(map(_is_whole, value)):
                raise ConfigError(f"{name} has a value of the wrong kind: it must be whole numbers, not {value!r}.")
            object.__setattr__(self, name, tuple(value))
        size: Any = self.image_size
        size = (size, size) if _is_whole(size) else tuple(size) if isinstance(size, list) else size
        object.__setattr__(self, "image_size", size)
        try:
            self._check()
        except OverflowError as error:
            raise ConfigError(f"a number of {self.name!r} is of the wrong kind ({error}); make it smaller.") from error

    def _check(self) -> None:
        def require(ok: bool, sentence: str) -> None:
            if not ok:
                raise ConfigError(sentence)

        require(
            self.family in ("mobile", "resnet", "mixer"),
            f"family must be mobile, resnet or mixer, not {self.family!r}.",
        )
        require(
            self.precision in PRECISIONS, f"precision must be one of {', '.join(PRECISIONS)}, not {self.precision!r}."
        )
        require(self.replacement in ("mlp", "mixer"), f"replacement must be mlp or mixer, not {self.replacement!r}.")
        require(_is_whole(self.heads) and self.heads in (1, 2), f"heads must be 1 or 2, not {self.heads!r}.")
        positive = (
            "in_channels",
            "num_classes",
            "width",
            "stem_channels",
            "stem_stride",
            "mlps_per_conv",
            "mixer_ratio",
        )
        for name in positive:
            value = getattr(self, name)
            good = _is_whole(value) or (name == "width" and isinstance(value, float))
            require(good and value > 0, f"{name} must be a positive number, not {value!r}.")
        require(math.isfinite(self.width), f"width must be a finite number; {self.width} is of the wrong kind.")
        for name in ("in_channels", "stem_stride"):
            value = getattr(self, name)
            require(value <= MAX_SIDE, f"{name} must be at most {MAX_SIDE}, not {value}.")
        require(isinstance(self.stem_pool, bool), f"stem_pool must be true or false, not {self.stem_pool!r}.")
        require(
            isinstance(self.image_size, tuple)
            and len(self.image_size) == 2
            and all(_is_whole(s) and 0 < s <= MAX_SIDE for s in self.image_size),
            f"image_size must be one or two numbers of pixels from 1 to {MAX_SIDE}, not {self.image_size!r}.",
        )
        stages = len(self.channels)
        require(
            stages > 0 and len(self.blocks) == stages and len(self.strides) == stages,
            "channels, blocks and strides must have one number for each stage.",
        )
        require(
            all(n > 0 for n in (*self.channels, *self.blocks)),
            "channels and blocks must be positive whole numbers.",
        )
        require(all(s in (1, 2) for s in self.strides), f"strides must be 1 or 2, not {self.strides!r}.")
        require(
            0 < len(self.branches) <= 9 and set(self.branches) <= set("PSL"),
            f"branches must be letters P, S and L, such as PSL, not {self.branches!r}.",
        )
        require(
            self.long_range == "half" or (_is_whole(self.long_range) and 0 < int(self.long_range) <= MAX_SIDE),
            f"long_range must be a positive whole number of tokens, at most {MAX_SIDE}, or 'half', "
            f"not {self.long_range!r}.",
        )
        require(
            all(1 <= s <= stages for s in self.mlp_stages),
            f"mlp_stages must be numbers from 1 to {stages}, not {self.mlp_stages!r}.",
        )
        require(
            _is_whole(self.mlp_groups),
            f"mlp_groups has a value of the wrong kind: it must be a whole number, not {self.mlp_groups!r}.",
        )
        require(self.mlp_groups == 0 or self.family == "mobile", "mlp_groups is for the mobile family; use mlp_stages.")
        require(not self.mlp_stages or self.family == "resnet", "mlp_stages is for the resnet family; use mlp_groups.")
        require(self.mlp_groups >= 0, f"mlp_groups must not be negative, it is {self.mlp_groups}.")
        for ratio in ("embedding_ratio", "doubling_groups"):
            value = getattr(self, ratio)
            require(value is None or (_is_whole(value) and value > 0), f"{ratio} must be positive, not {value!r}.")
        require(
            min(self.scaled(c) for c in (self.stem_channels, *self.channels)) > 0,
            f"width {self.width} leaves a layer without channels; make it larger.",
        )
        if self.family == "mobile":
            for before, after in zip((self.stem_channels, *self.channels), self.channels, strict=False):
                require(
                    after in (before, 2 * before),
                    f"the mobile family keeps or doubles its channels; {before} to {after} does neither.",
                )
                require(
                    self.scaled(after) * before == self.scaled(before) * after,
                    f"width {self.width} rounds {before} and {after} channels to {self.scaled(before)} and "
                    f"{self.scaled(after)}, which is no doubling; use a multiple of 1/{self.stem_channels}.",
                )
        stem, groups = self.scaled(self.stem_channels), self.doubling_groups
        require(groups is None or stem % groups == 0, f"doubling_groups {groups} must divide the {stem} stem channels.")
        require(
            self.family != "mixer" or self.channels == (self.stem_channels,),
            f"the mixer family has one stage as wide as its stem; channels must be ({self.stem_channels},).",
        )
        if self.mlp_groups or self.mlp_stages:
            require(
                all(c % 4 == 0 for c in self.mlp_channels()),
                f"binary MLPs need channels in multiples of 4; width {self.width} gives {self.mlp_channels()}.",
            )
        if self.family == "mobile":
            self.conv_blocks()

    @property
    def binary_weights(self) -> bool:
        """Whether the weights of the binary layers are 1 bit."""
        return self.precision.startswith("1/")

    @property
    def binary_activations(self) -> bool:
        """Whether the inputs of the binary layers are 1 bit."""
        return self.precision.endswith("/1")

    def scaled(self, channels: int) -> int:
        """Channels after the width multiplier."""
        return round(channels * self.width)

    def mlp_channels(self) -> list[int]:
        """Channels of every stage that holds binary MLPs."""
        stages = [len(self.channels)] if self.family == "mobile" else list(self.mlp_stages)
        return [self.scaled(self.channels[s - 1]) for s in stages]

    def conv_blocks(self) -> tuple[int, ...]:
        """Convolution blocks left in each stage once ``mlp_groups`` have taken the place of the last ones.

        A block that changes stride or width cannot be replaced, so each stage but one of plain blocks keeps its first.
        """
        left, to_replace = list(self.blocks), self.mlp_groups
        for stage in reversed(range(len(left))):
            taken = min(to_replace, left[stage] - 1)
            left[stage] -= taken
            to_replace -= taken
        if to_replace:
            most = self.mlp_groups - to_replace
            raise ConfigError(f"mlp_groups {self.mlp_groups} is more than the {most} blocks that can be replaced.")
        return tuple(left)

    def replace(self, **changes: Any) -> "Config":
        """A copy with some fields changed; an unknown field is an error that names the nearest one."""
        known = [f.name for f in fields(self)]
        for key in changes:
            if key not in known:
                raise ConfigError(f"a variant has no field {key!r}{_suggestion(key, known)}.")
        return replace(self, **changes)

    def to_json(self) -> str:
        """One JSON object with every field."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Config":
        """Inverse of :meth:`to_json`; raises ConfigError on anything else."""
        try:
            data = json.loads(text)
            return cls(name=data.pop("name")).replace(**data)
        except ConfigError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"the configuration cannot be read ({error}).") from error


_REACTNET_A = Config("reactnet_a")
_BCDNET_A = replace(_REACTNET_A, name="bcdnet_a", mlp_groups=3, heads=2)
_REACTNET_18 = Config(
    "reactnet_18",
    family="resnet",
    stem_channels=64,
    stem_pool=True,
    channels=(64, 128, 256, 512),
    blocks=(4, 4, 4, 4),
    strides=(1, 2, 2, 2),
)
_BCDNET_A_18 = replace(_REACTNET_18, name="bcdnet_a_18", mlp_stages=(4,), heads=2)

VARIANTS: dict[str, Config] = {
    config.name: config
    for config in (
        _REACTNET_A,
        replace(_REACTNET_A, name="reactnet_b", doubling_groups=4),
        replace(_REACTNET_A, name="reactnet_c", doubling_groups=1),
        _BCDNET_A,
        replace(_BCDNET_A, name="bcdnet_b", embedding_ratio=4),
        _REACTNET_18,
        _BCDNET_A_18,
        replace(_BCDNET_A_18, name="bcdnet_b_18", embedding_ratio=4),
        Config(
            "mlp_mixer_s", family="mixer", stem_channels=512, stem_stride=16, channels=(512,), blocks=(8,), strides=(1,)
        ),
        replace(_REACTNET_18, name="resnet_mixer_18", mlp_stages=(4,), replacement="mixer", mlps_per_conv=1),
    )
}


def list_models() -> list[str]:
    """Names :func:`bcdnet.create_model` knows."""
    return list(VARIANTS)


def get_config(name: str, **overrides: Any) -> Config:
    """The row of the table named ``name``, with some fields changed; ConfigError if there is none."""
    if name not in VARIANTS:
        raise ConfigError(f"there is no variant {name!r}{_suggestion(name, list_models())}; see `bcdnet list`.")
    return VARIANTS[name].replace(**overrides)


def _suggestion(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
