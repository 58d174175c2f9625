"""A packed file that was cut, flipped or forged is refused in one sentence, or runs and answers what it says."""

import json
import random
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from robustness.tiny import NETWORKS, differs, is_sentence, network

import bcdnet
from bcdnet import kernels
from bcdnet.checkpoint import CheckpointError
from bcdnet.engine import PackError
from bcdnet.model import InputError

MUTATED = 1000
NUMBERS = [0, -1, 1, 2, 3, 4, 7, 8, 12, 16, 32, 64, 65_535, 65_536, 65_537, 2**24, 2**31 - 1, 2**31, 2**63, 10**30]
ODD = [*NUMBERS, 0.5, 1e-300, 1e300, float("nan"), float("inf"), None, True, False, "", "half", "PSL", "LLLL", [], {}]
Header = dict[str, Any]


def opened(data: bytes) -> tuple[Header, bytes]:
    """The header of a safetensors file and what follows it."""
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def closed(header: Header | str, body: bytes) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def lengthened(data: bytes, chance: random.Random) -> bytes:
    return data + chance.randbytes(chance.randrange(1, 100))


def flipped(data: bytes, chance: random.Random, first: int, last: int) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        changed[chance.randrange(first, last)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def flipped_in_header(data: bytes, chance: random.Random) -> bytes:
    return flipped(data, chance, 0, len(data) - len(opened(data)[1]))


def flipped_in_body(data: bytes, chance: random.Random) -> bytes:
    return flipped(data, chance, len(data) - len(opened(data)[1]), len(data))


def with_wrong_length(data: bytes, chance: random.Random) -> bytes:
    size = struct.unpack("<Q", data[:8])[0]
    lie = chance.choice((0, 1, size - 1, size + 1, len(data), 2**31, 2**63, 2**64 - 1, chance.randrange(2 * size)))
    return struct.pack("<Q", lie) + data[8:]


def with_wrong_tensor(data: bytes, chance: random.Random) -> bytes:
    """A lie about one tensor: its shape, its type or where it lies."""
    header, body = opened(data)
    entry = header[chance.choice([key for key in header if key != "__metadata__"])]
    lie = chance.randrange(4)
    if lie == 0:
        entry["shape"] = chance.sample(entry["shape"], len(entry["shape"])) + [1] * chance.randrange(2)
    elif lie == 1:
        entry["shape"] = [chance.choice((n, *NUMBERS)) for n in entry["shape"]]
    elif lie == 2:
        entry["dtype"] = chance.choice(("F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "X", ""))
    else:
        entry["data_offsets"][chance.randrange(2)] = chance.choice((*NUMBERS, len(body), len(body) - 4))
    return closed(header, body)


def with_other_tensors(data: bytes, chance: random.Random) -> bytes:
    """A tensor is missing, renamed, named twice, there twice, or lies where another does."""
    header, body = opened(data)
    metadata, names = header.pop("__metadata__"), list(header)
    one, other = chance.sample(names, 2)
    change = chance.randrange(5)
    if change == 0:  # the body is cut out, too, so that the file is sound
        first, last = header.pop(one)["data_offsets"]
        body = body[:first] + body[last:]
        for entry in header.values():
            entry["data_offsets"] = [o - (last - first) * (o >= last) for o in entry["data_offsets"]]
    elif change == 1:
        header[chance.choice(("", "stem", one + "x", "unit\n", "ä" * 3000))] = header.pop(one)
    elif change == 2:
        text = json.dumps({"__metadata__": metadata, **header})
        return closed(f"{text[:-1]}, {json.dumps(one)}: {json.dumps(header[other])}}}", body)
    elif change == 3:
        header["extra.weight"] = {"dtype": "U8", "shape": [8], "data_offsets": [len(body), len(body) + 8]}
        body += bytes(8)
    else:
        header[one], header[other] = header[other], header[one]
    return closed({"__metadata__": metadata, **header}, body)


def with_wrong_label(data: bytes, chance: random.Random) -> bytes:
    """Metadata that are missing, damaged or of another version."""
    header, body = opened(data)
    label = header["__metadata__"]
    key = chance.choice(list(label))
    change = chance.randrange(4)
    if change == 0:
        del label[key]
    elif change == 1:
        label[key] = chance.choice(("", "{", "[]", "null", "1", "2", "99999", "-1", "[" * 50_000, "bcdnet-checkpoint"))
    elif change == 2:
        label[key] = chance.choice((1, None, [], {}))
    else:
        place = chance.randrange(len(label[key]))
        label[key] = label[key][:place] + chr(chance.randrange(1, 0x2FF)) + label[key][place + 1 :]
    return closed(header, body)


def with_wrong_config(data: bytes, chance: random.Random) -> bytes:
    """A configuration that asks for another network than the tensors are of, or for an impossible one."""
    header, body = opened(data)
    config = json.loads(header["__metadata__"]["config"])
    for _ in range(chance.choice((1, 1, 2))):
        key = chance.choice(list(config))
        old = config[key]
        if isinstance(old, list) and old and chance.random() < 0.8:
            old[chance.randrange(len(old))] = chance.choice(ODD)
        elif isinstance(old, list):
            config[key] = [chance.choice(NUMBERS) for _ in range(chance.randrange(7))]
        else:
            config[key] = chance.choice(ODD)
    header["__metadata__"]["config"] = json.dumps(config)
    return closed(header, body)


def with_plausible_config(data: bytes, chance: random.Random) -> bytes:
    """A configuration whose tensors have the same shapes, so that the lie must be run."""
    header, body = opened(data)
    config = json.loads(header["__metadata__"]["config"])
    shuffled = "".join(chance.choice("PSL") for _ in config["branches"])
    changes = {
        "image_size": [chance.choice(NUMBERS), chance.choice(NUMBERS)],
        "stem_stride": chance.choice(NUMBERS),
        "stem_pool": chance.choice((True, False)),
        "strides": [chance.choice((1, 2)) for _ in config["strides"]],
        "branches": shuffled,
        "long_range": chance.choice(("half", *NUMBERS)),
        "heads": chance.choice((1, 2)),
        "mixer_ratio": chance.choice(NUMBERS),
        "name": chance.choice(("", "another", "\n", "x" * 5000)),
    }
    for key in chance.sample(list(changes), chance.choice((1, 2, 4))):
        config[key] = changes[key]
    header["__metadata__"]["config"] = json.dumps(config)
    return closed(header, body)


def with_wild_values(data: bytes, chance: random.Random) -> bytes:
    """A tensor of numbers no training gives: huge, tiny, not finite."""
    header, body = opened(data)
    entry = header[chance.choice([key for key in header if header[key].get("dtype") in ("F32", "F16")])]
    kind: type = np.float32 if entry["dtype"] == "F32" else np.float16
    first, last = entry["data_offsets"]
    values = np.frombuffer(body[first:last], kind).copy()
    pick = chance.choice((0.0, -0.0, 1e-45, 1e-40, 6e4, -6e4, 3e38, -3e38, 1e20, np.inf, -np.inf, np.nan))
    with np.errstate(over="ignore"):
        values[chance.randrange(len(values)) :] = pick
    return closed(header, body[:first] + values.tobytes() + body[last:])


MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [
    cut,
    lengthened,
    flipped_in_header,
    flipped_in_body,
    flipped_in_body,
    with_wrong_length,
    with_wrong_tensor,
    with_other_tensors,
    with_wrong_label,
    with_wrong_config,
    with_plausible_config,
    with_plausible_config,
    with_wild_values,
]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The bytes of a packed file of every tiny network."""
    folder = tmp_path_factory.mktemp("packed")
    files = []
    for name in NETWORKS:
        bcdnet.pack(network(name)).save(folder / name)
        header, body = opened((folder / name).read_bytes())
        # Metadata are written in an order that chance decides; in one order every run mutates the same bytes.
        files.append(closed({"__metadata__": dict(sorted(header.pop("__metadata__").items())), **header}, body))
    return files


def test_mutated_packed_files(packed: list[bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.safetensors"
    isas = kernels.isas()
    counts: Counter[str] = Counter()
    surprises: list[str] = []
    for trial in range(MUTATED):
        chance = random.Random(trial)
        mutate = MUTATIONS[trial % len(MUTATIONS)]
        data = packed[chance.randrange(len(packed))]
        path.write_bytes(mutate(data, chance))
        isa = isas[trial % len(isas)]
        label = f"trial {trial} ({mutate.__name__}, {isa})"
        try:
            with kernels.use_isa(isa):
                engine = bcdnet.load_engine(path, threads=1 + trial % 3)
        except (CheckpointError, PackError) as error:
            counts["refused"] += 1
            if not is_sentence(str(error)):
                surprises.append(f"{label}: {error!r}")
            continue
        except Exception as error:
            surprises.append(f"{label}: {error!r}")
            continue
        counts["loaded"] += 1
        height, width = engine.config.image_size
        if height * width > 2**14:  # the size a lie about the stride made fit
            height, width = json.loads(opened(data)[0]["__metadata__"]["config"])["image_size"]
        torch.manual_seed(trial)
        x = torch.randn(1, engine.config.in_channels, height, width)
        try:
            logits = engine(x)
        except InputError as error:
            counts["refused the image"] += 1
            if not is_sentence(str(error)):
                surprises.append(f"{label}: {error!r}")
            continue
        except Exception as error:
            surprises.append(f"{label}: {error!r}")
            continue
        counts["answered"] += 1
        if wrong := differs(engine, x, logits):
            surprises.append(f"{label}: {wrong}")
    with capsys.disabled():
        print(
            f"\n{MUTATED} mutated packed files: {counts['refused']} refused, {counts['loaded']} loaded, of which "
            f"{counts['answered']} answered and {counts['refused the image']} refused the image; "
            f"{len(surprises)} surprises."
        )
    assert not surprises, "\n".join(surprises[:20])
    # The mutations must reach both ends of the loader.
    assert counts["refused"] > MUTATED / 4 and counts["answered"] > MUTATED / 10
