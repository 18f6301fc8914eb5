"""Values of tensors: what is finite, what has moved and by how much, in bounded memory."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from swiftalign.checkpoint.values import look_deeply
from swiftalign.model.bytes import BLOCK_BYTES, digest, is_finite, largest_change
from swiftalign.model.safetensors import read_stored

pytestmark = pytest.mark.filterwarnings("ignore:.*embedding layers|.*CUDA extension|.*butterfly:UserWarning")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_each_16_bit_pattern_is_finite_or_not_as_torch_says(dtype: torch.dtype) -> None:
    patterns = np.arange(65536, dtype=np.uint16)
    finite = torch.isfinite(torch.from_numpy(patterns.view(np.int16).copy()).view(dtype)).numpy()
    name = str(dtype).removeprefix("torch.")
    ours = [is_finite(patterns[place : place + 1].view(np.uint8), name) for place in range(65536)]
    assert (np.array(ours) == finite).all()


@pytest.mark.parametrize(("dtype", "kind"), [("float32", np.uint32), ("float64", np.uint64)])
def test_random_patterns_are_finite_or_not_as_numpy_says(dtype: str, kind: Any) -> None:
    random = np.random.default_rng(0)
    patterns = random.integers(0, np.iinfo(kind).max, size=20_000, dtype=kind, endpoint=True)
    patterns[::3] |= kind(0x7F800000 if kind is np.uint32 else 0x7FF0 << 48)  # about a third not finite
    expected = np.isfinite(patterns.view(dtype))
    ours = [is_finite(patterns[place : place + 1].view(np.uint8), dtype) for place in range(len(patterns))]
    assert (np.array(ours) == expected).all()
    assert 0.2 < 1 - expected.mean() < 0.5


@pytest.mark.parametrize("place", [0, BLOCK_BYTES // 2 - 1, BLOCK_BYTES // 2, BLOCK_BYTES // 2 + 1, -1])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_bad_element_is_found_wherever_it_lies(place: int, value: float, tmp_path: Path) -> None:
    tensor = torch.full((BLOCK_BYTES + 3,), -1.5, dtype=torch.bfloat16)
    tensor[place] = value
    save_file({"odd": torch.zeros(3, dtype=torch.uint8), "x": tensor}, tmp_path / "x.safetensors")
    values = look_deeply(read_stored(tmp_path / "x.safetensors"), {}, None)
    assert values["x"].finite is False
    assert values["odd"].zero is True


def test_digests_are_those_of_the_bytes(tmp_path: Path) -> None:
    tensors = {f"t{size}": torch.randn(size) for size in (0, 1, BLOCK_BYTES // 4, BLOCK_BYTES // 4 + 1)}
    save_file(tensors, tmp_path / "x.safetensors")
    stored = read_stored(tmp_path / "x.safetensors")
    expected = {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in tensors.items()}
    assert {tensor.info.name: digest(tensor) for tensor in stored} == expected
    assert not any(values.moved for values in look_deeply(stored, expected, None).values())
    other = dict.fromkeys(expected, "0")
    assert all(values.moved for values in look_deeply(stored, other, None).values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_largest_change_is_the_one_torch_finds(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(1)
    base, mine = torch.randn(700, 1000).to(dtype), torch.randn(700, 1000).to(dtype)
    for name, tensor in (("base", base), ("mine", mine)):
        save_file({"x": tensor}, tmp_path / f"{name}.safetensors")
    [a], [b] = (read_stored(tmp_path / f"{name}.safetensors") for name in ("mine", "base"))
    assert largest_change(a, b) == (mine.float() - base.float()).abs().max().item()
    assert largest_change(a, a) == 0


@pytest.mark.parametrize(("one", "other"), [(0.0, -0.0), (1.0, float("nan")), (float("inf"), 2.0)])
def test_a_change_of_sign_or_to_no_number_is_a_change(one: float, other: float, tmp_path: Path) -> None:
    for name, value in (("one", one), ("other", other)):
        save_file({"x": torch.tensor([3.0, value])}, tmp_path / f"{name}.safetensors")
    [a], [b] = (read_stored(tmp_path / f"{name}.safetensors") for name in ("one", "other"))
    assert largest_change(a, b) > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_wider_base_is_rounded_as_loading_it_does(dtype: torch.dtype, tmp_path: Path) -> None:
    """A frozen tensor of a run in 16 bits equals its base in float32 once that is rounded; a changed one does not."""
    base = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    mine = base.to(dtype)
    changed = mine.clone()
    changed[7] += 1
    names = {"base": base, "mine": mine, "changed": changed}
    save_file(names, tmp_path / "all.safetensors")
    stored = {tensor.info.name: tensor for tensor in read_stored(tmp_path / "all.safetensors")}
    assert largest_change(stored["mine"], stored["base"]) == 0
    assert largest_change(stored["changed"], stored["base"]) == (changed.float() - mine.float()).abs().max().item()


def test_reading_every_byte_takes_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    size = 400_000_000
    with path.open("wb") as file:  # one tensor of 400 MB, sparse on disk
        header = json.dumps({"x": {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}}).encode()
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    code = (
        "import re, sys; from pathlib import Path; from swiftalign.checkpoint.verify import verify\n"
        "assert verify(Path(sys.argv[1]), deep=True).values['x'].zero\n"
        # Not ru_maxrss: that counts from what the parent held when it forked.
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 150_000
