"""Flips and errors by hand, and the files that tell of a run."""

import json
import os
import platform
from pathlib import Path

import pytest
import torch

from bcdnet.model import Network
from bcdnet.training.monitor import Monitor, binary_weights, signs_of, weight_statistics
from bcdnet.variants import get_config

GEOMETRY = {"image_size": 28, "in_channels": 1, "num_classes": 10, "width": 1 / 64, "stem_channels": 512}
STAGES = {"channels": (512, 1024), "blocks": (1, 2), "strides": (1, 2), "mlp_groups": 1}
#: Latent weights of each kind: 8x8x3x3 twice; 8x8, 8x16 and 16x16; three MLPs with 16x16 a branch.
COUNTS = {"conv3x3": 1152, "conv1x1": 64 + 128 + 256, "P": 768, "S": 768, "L": 768}
TOTAL = 3904


def network(precision: str = "1/1") -> Network:
    return Network(get_config("bcdnet_a", **GEOMETRY, **STAGES, precision=precision))


def fill(target: Network, kind: str, values: tuple[float, float]) -> None:
    """Every other latent weight of a kind is the one value, the rest are the other."""
    for _, weight in (pair for pair in binary_weights(target).values() if pair[0] == kind):
        weight.view(-1)[0::2], weight.view(-1)[1::2] = values


@pytest.mark.parametrize("precision", ["1/1", "32/1", "32/32"])
def test_binary_weights_are_known_by_kind_at_every_precision(precision: str) -> None:
    found = dict.fromkeys(COUNTS, 0)
    for kind, weight in binary_weights(network(precision)).values():
        found[kind] += weight.numel()
    assert found == COUNTS and sum(COUNTS.values()) == TOTAL


def test_errors_and_flips_by_hand() -> None:
    net = network()
    fill(net, "conv3x3", (1.0, -3.0))  # alpha 2, so each is off by 1
    fill(net, "conv1x1", (0.5, -0.5))  # exact
    fill(net, "P", (1.0, -2.0))  # alpha 1.5, off by 0.5
    fill(net, "S", (0.0, -4.0))  # alpha 2, off by 2
    fill(net, "L", (3.0, 3.0))  # exact
    before = signs_of(net)
    assert all(float(value) == 0 for key, value in weight_statistics(net, before).items() if key.startswith("flips"))

    first = net.units.conv1_3x3.op.weight.detach()
    first[0] *= -1  # one of its eight channels: 72 weights
    last = net.units.mlp1_3.op.branches[1].weight.detach()
    assert last.view(-1)[0] == 0
    last.view(-1)[0] = -0.0  # minus zero is no less than zero: its sign is plus, as that of zero is
    last.view(-1)[1] = 4.0
    now = weight_statistics(net, before)
    by_hand = {
        "flips": 73 / TOTAL,
        "flips_conv3x3": 72 / 1152,
        "flips_conv1x1": 0,
        "flips_P": 0,
        "flips_S": 1 / 768,
        "flips_L": 0,
        "error": (1152 * 1 + 768 * 0.5 + 768 * 2) / TOTAL,
        "error_conv3x3": 1,
        "error_conv1x1": 0,
        "error_P": 0.5,
        "error_S": 2,
        "error_L": 0,
    }
    assert now == pytest.approx(by_hand, abs=1e-7)


def test_branches_that_there_are_not_have_no_numbers() -> None:
    pss = Network(get_config("bcdnet_a", **GEOMETRY, **STAGES, branches="PSS"))
    names = {key for key in weight_statistics(pss, signs_of(pss)) if key.startswith("error_")}
    assert names == {"error_P", "error_S", "error_conv1x1", "error_conv3x3"}
    plain = Network(get_config("reactnet_a", **GEOMETRY, **{**STAGES, "mlp_groups": 0}))
    names = {key for key in weight_statistics(plain, signs_of(plain)) if key.startswith("error_")}
    assert names == {"error_conv1x1", "error_conv3x3"}


def row(iteration: int, loss: float = 1.0) -> dict[str, float | int | str]:
    numbers = {"train_loss": loss, "train_top1": 50.0, "test_top1": 40.0, "lr": 0.5, "seconds": 2.0}
    return {"epoch": "", "iteration": iteration, **numbers, "flips": 0.25, "error": 0.125, "error_P": 1 / 3}


def lines(folder: Path) -> list[str]:
    return (folder / "log.csv").read_text().splitlines()


def test_rows_of_later_places_give_way(tmp_path: Path) -> None:
    with Monitor(tmp_path, 1, 2, "32/1", 9, speaks=True) as first:
        for iteration in (3, 6, 9):
            first.row(row(iteration))
        first.row(row(6, loss=2.0))  # as if resumed between 3 and 6
    header = "step,precision,epoch,iteration,lr,train_loss,train_top1,test_top1,seconds,flips,error,error_P"
    expected = [header, "1,32/1,,3,0.5,1,50,40,2,0.25,0.125,0.333333", "1,32/1,,6,0.5,2,50,40,2,0.25,0.125,0.333333"]
    assert lines(tmp_path) == expected
    with Monitor(tmp_path, 2, 2, "1/1", 9, speaks=True) as second:
        second.row(row(3) | {"flips_S": 0.5})  # a new column; the rows before have nothing in it
    assert lines(tmp_path)[0] == header + ",flips_S"
    assert lines(tmp_path)[1:3] == [line + "," for line in expected[1:]]
    assert lines(tmp_path)[3].startswith("2,1/1,,3,") and lines(tmp_path)[3].endswith(",0.333333,0.5")


def test_progress_tells_where_it_is_and_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("bcdnet.training.monitor.time.monotonic", lambda: clock[0])

    def told() -> dict[str, object]:
        document = json.loads((tmp_path / "progress.json").read_text())
        assert document.pop("updated").endswith("+00:00")
        assert (document.pop("process"), document.pop("host")) == (os.getpid(), platform.node())
        return document

    with Monitor(tmp_path, 2, 3, "1/1", 100, speaks=True) as monitor:
        monitor.begin(40)  # resumed there
        start = {"step": 2, "steps": 3, "iteration": 40, "iterations": 100, "eta_s": None, "stopped": False}
        assert told() == start
        clock[0] += 1
        monitor.advance(45, 0.5)
        assert told() == start  # every two seconds is enough
        clock[0] += 9
        monitor.advance(60, 0.5)
        # 20 iterations took 10 seconds, so the 40 that are left take 20.
        assert told() == start | {"iteration": 60, "eta_s": 20}
    assert told()["stopped"] is False
    with pytest.raises(KeyboardInterrupt), Monitor(tmp_path, 2, 3, "1/1", 100, speaks=True) as monitor:
        monitor.begin(60)
        monitor.advance(61, 0.5)
        raise KeyboardInterrupt
    assert told() == start | {"iteration": 61, "eta_s": 0, "stopped": True}


def test_all_processes_but_the_first_are_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Monitor(tmp_path, 1, 1, "1/1", 9, speaks=False) as monitor:
        monitor.begin(0)
        monitor.advance(3, 1.0)
        monitor.row(row(3))
        monitor.say("nothing")
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")


def test_signs_do_not_follow_the_weights(tmp_path: Path) -> None:
    net = network()
    before = signs_of(net)
    copies = {name: sign.clone() for name, sign in before.items()}
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(-1)
    assert all(torch.equal(before[name], copies[name]) for name in copies)
    assert weight_statistics(net, before)["flips"] == pytest.approx(1)
