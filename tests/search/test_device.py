"""What the machine computes with, measured once and agreed upon."""

import json
from pathlib import Path

import pytest
import torch

from search.device import Device, _measured


def test_processes_that_share_a_memo_choose_alike(tmp_path: Path) -> None:
    memo = tmp_path / "device.json"
    _measured("cpu", memo)
    document = json.loads(memo.read_text())
    for choice in (True, False):
        memo.write_text(json.dumps(document | {"channels_last": choice}))
        _measured.cache_clear()
        assert _measured("cpu", memo).channels_last is choice


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"dtype": "float8"}', '{"name": "another", "threads": 1, "torch": "0"}']
)
def test_a_memo_that_says_nothing_of_this_machine_is_written_anew(tmp_path: Path, text: str) -> None:
    memo = tmp_path / "device.json"
    memo.write_text(text)
    _measured.cache_clear()
    device = _measured("cpu", memo)
    assert json.loads(memo.read_text())["channels_last"] is device.channels_last


def test_speed_is_measured_again_and_nothing_else_changes() -> None:
    device = Device.cpu()
    again = device.measured_again()
    assert again.flops_per_s > 0
    assert (again.dtype, again.channels_last, again.threads) == (device.dtype, device.channels_last, device.threads)
    assert again.dtype in (torch.float32, torch.bfloat16)
