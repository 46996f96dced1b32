"""Safetensors read and written a piece at a time: torn files and false indexes named, peak memory measured."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from openmimo.model import tensors
from openmimo.model.config import MiMoConfig
from openmimo.model.folder import inspect_folder
from openmimo.model.headers import INDEX, find_tensors, read_header
from openmimo.model.hf import convert_folder, load_folder, save_folder
from openmimo.model.mimo import MiMo
from openmimo.model.tensors import Source, read_pieces, read_tensor, write_shards

CONFIG = MiMoConfig(
    vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, rope_theta=1e4, max_position_embeddings=64,
)  # fmt: skip
NAME = "model.layers.1.mlp.up_proj.weight"


def model_of(config: MiMoConfig = CONFIG) -> MiMo:
    return MiMo(config).init_weights(torch.Generator().manual_seed(0))


def sharded(tmp_path: Path) -> Path:
    return save_folder(model_of(), tmp_path / "m", max_shard_bytes=30_000)


def reindexed(folder: Path, tensor: str, file: str) -> None:
    path = folder / INDEX
    index = json.loads(path.read_text())
    index["weight_map"][tensor] = file
    path.write_text(json.dumps(index))


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "PIECE_BYTES", 1000)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool])
def test_safetensors_reads_what_we_write_and_we_what_it_writes(
    dtype: torch.dtype, tmp_path: Path, small_pieces: None
) -> None:
    generator = torch.Generator().manual_seed(0)
    whole = {
        "matrix": torch.randn(37, 41, generator=generator).to(dtype),
        "turned": torch.randn(12, 50, generator=generator).to(dtype).T,
        "scalar": torch.tensor(3.0).to(dtype),
        "empty": torch.zeros(0, 4, dtype=dtype),
    }
    write_shards({n: tensors.source_of(t) for n, t in whole.items()}, tmp_path, 10**9)
    ours = load_file(tmp_path / "model.safetensors")
    theirs = tmp_path / "theirs.safetensors"
    save_file({n: t.contiguous() for n, t in whole.items()}, theirs)
    header = read_header(theirs)
    for name, tensor in whole.items():
        assert torch.equal(ours[name], tensor) and ours[name].dtype == dtype, name
        found = read_tensor(header[name])
        assert torch.equal(found, tensor) and found.dtype == dtype and found.shape == tensor.shape, name
        assert found.data_ptr() % 64 == 0
        pieces = [piece.clone() for piece in read_pieces(header[name])]
        assert torch.equal(torch.cat([torch.zeros(0, dtype=dtype), *pieces]), tensor.flatten())


def test_a_truncated_file_names_the_tensor_that_it_cuts(tmp_path: Path) -> None:
    folder = save_folder(model_of(), tmp_path / "m")
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    last = max(read_header(path).values(), key=lambda stored: stored.start)
    for size, said in (
        (last.start + 5, f"tensor {last.name} ends at byte {len(whole)}, the file has {last.start + 5}"),
        (500, "500 bytes are too few for its header"),
        (3, "3 bytes are too few for its header"),
        (0, "0 bytes are too few for its header"),
    ):
        path.write_bytes(whole[:size])
        for read in (load_folder, inspect_folder, find_tensors):
            with pytest.raises(ValueError, match="cannot be read") as caught:
                read(folder)
            assert said in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("[]", "its header is a list"),
        ("{nope", "its header is not JSON"),
        ('{"x": {"dtype": "F32"}}', "tensor x has no dtype, shape and data_offsets"),
        ('{"x": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}', "tensor x has no dtype, shape and"),
        ('{"x": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}', "tensor x is F8_E4M3"),
        ('{"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}', "takes 12 bytes, its header gives it 8"),
        ('{"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}', "tensor x ends at byte"),
    ],
)
def test_a_header_that_is_wrong_is_named(header: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(8))
    with pytest.raises(ValueError, match=r"model\.safetensors") as caught:
        find_tensors(tmp_path)
    assert said in str(caught.value)


def test_a_file_cut_while_it_is_read_is_named(tmp_path: Path) -> None:
    folder = save_folder(model_of(), tmp_path / "m")
    stored = find_tensors(folder)["model.norm.weight"]
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(stored.start + 4)
    with pytest.raises(ValueError, match=r"ends inside tensor model\.norm\.weight"):
        read_tensor(stored)


def test_an_index_that_names_a_shard_without_the_tensor_is_named(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    files = sorted(p.name for p in folder.glob("*.safetensors"))
    other = next(f for f in files if NAME not in read_header(folder / f))
    reindexed(folder, NAME, other)
    with pytest.raises(ValueError, match=f"says that tensor {NAME} is in {other}, which lacks it"):
        load_folder(folder)


@pytest.mark.parametrize("file", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "", ".."])
def test_an_index_never_leads_out_of_its_folder(file: str, tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    save_file({NAME: torch.ones(48, 32)}, tmp_path / "secret.safetensors")
    reindexed(folder, NAME, file)
    with pytest.raises(ValueError, match="a name of a file in the folder is right"):
        load_folder(folder)


def test_a_shard_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    reindexed(folder, NAME, "model-9.safetensors")
    with pytest.raises(ValueError, match=r"model-9\.safetensors cannot be read: No such file"):
        load_folder(folder)


def test_a_tensor_in_two_files_is_named_unless_an_index_decides(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    first = min(folder.glob("*.safetensors"))
    (folder / "zz.safetensors").write_bytes(first.read_bytes())
    load_folder(folder)
    (folder / INDEX).unlink()
    with pytest.raises(ValueError, match=r"is in model-00001-of-\d+\.safetensors and in zz\.safetensors"):
        load_folder(folder)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    folder = save_folder(model_of(), tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no safetensors file \(pytorch_model\.bin is not read"):
        load_folder(folder)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_converting_rounds_every_tensor_like_torch(dtype: torch.dtype, tmp_path: Path, small_pieces: None) -> None:
    model = model_of()
    out = convert_folder(save_folder(model, tmp_path / "m"), tmp_path / "out", dtype=dtype, max_shard_bytes=30_000)
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == str(dtype).removeprefix("torch.")
    again = load_folder(out).state_dict()
    for name, tensor in model.state_dict().items():
        assert again[name].dtype == dtype and torch.equal(again[name], tensor.to(dtype)), name
    back = convert_folder(out, tmp_path / "back", dtype=torch.float32)
    for (name, tensor), other in zip(load_folder(back).state_dict().items(), again.values(), strict=True):
        assert torch.equal(tensor, other.float()), name
    loaded = load_folder(tmp_path / "m", dtype=dtype).state_dict()
    assert all(torch.equal(loaded[name], again[name]) for name in again)


def test_a_value_that_the_new_dtype_cannot_hold_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    model = model_of()
    with torch.no_grad():
        model.model.norm.weight[3] = 1e5
    folder = save_folder(model, tmp_path / "m")
    with pytest.raises(ValueError, match=r"tensor model\.norm\.weight holds 100000, beyond float16's 65504"):
        convert_folder(folder, tmp_path / "out", dtype=torch.float16)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    convert_folder(folder, tmp_path / "out", dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="exists already"):
        convert_folder(folder, tmp_path / "out")


def test_exporting_a_folder_equals_saving_its_model(tmp_path: Path) -> None:
    folder = save_folder(model_of(), tmp_path / "m")
    for form in ("mimo", "qwen2"):
        saved = save_folder(load_folder(folder), tmp_path / f"saved-{form}", format=form)  # type: ignore[arg-type]
        out = convert_folder(folder, tmp_path / f"out-{form}", format=form)  # type: ignore[arg-type]
        assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in saved.iterdir())
        assert all(p.read_bytes() == (saved / p.name).read_bytes() for p in out.iterdir())


def sparse_folder(folder: Path) -> int:
    """Half a gigabyte of zeros that take no room on the disk; the bytes of the weights."""
    config = MiMoConfig(
        vocab_size=100_000, hidden_size=1024, intermediate_size=4096, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip

    def nothing() -> Iterator[torch.Tensor]:
        return iter(())

    with torch.device("meta"):
        model = MiMo(config)
    small = MiMoConfig(**{**vars(config), "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "head_dim": 1})
    save_folder(MiMo(small).bfloat16(), folder)
    raw = json.loads((folder / "config.json").read_text())
    fields = ("vocab_size", "hidden_size", "intermediate_size", "head_dim")
    (folder / "config.json").write_text(json.dumps({**raw, **{name: vars(config)[name] for name in fields}}))
    header, end = {}, 0
    for name, tensor in model.state_dict().items():
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [end, end + 2 * tensor.numel()]}
        end += 2 * tensor.numel()
    head = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.truncate(8 + len(head) + end)
    return end


PEAK = r"""
import re
from pathlib import Path
import torch
from openmimo.model.hf import convert_folder, load_folder
def peak():  # ru_maxrss would be the parent's at first
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
{work}
print(peak() - before)
"""


def peak_bytes(work: str) -> int:
    done = subprocess.run([sys.executable, "-c", PEAK.format(work=work)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_peak_memory_is_the_weights_and_a_little_and_converting_takes_a_piece(tmp_path: Path) -> None:
    folder = tmp_path / "big"
    weights = sparse_folder(folder)
    assert weights > 0.5e9
    assert weights * 0.95 < peak_bytes(f"model = load_folder(Path({str(folder)!r}))") < weights + 200e6
    assert inspect_folder(folder)["bytes"] == weights
    work = f"convert_folder(Path({str(folder)!r}), Path({str(tmp_path / 'out')!r}), dtype=torch.float16)"
    assert peak_bytes(work) < 0.5 * weights
    assert inspect_folder(tmp_path / "out")["dtypes"] == ["float16"]


def test_pieces_of_a_wrong_number_never_become_a_file_that_is_read(tmp_path: Path) -> None:
    short = Source((4,), torch.float32, lambda: iter([torch.zeros(3)]))
    with pytest.raises(AssertionError):
        write_shards({"x": short}, tmp_path, 10**9)


@pytest.mark.parametrize("changed", [{}, {"num_nextn_predict_layers": 3}, {"num_nextn_predict_layers": 0}])
@pytest.mark.parametrize("bias", [True, False])
def test_the_shapes_of_a_config_are_those_of_its_model_in_order(changed: dict[str, int], bias: bool) -> None:
    config = MiMoConfig(**{**vars(CONFIG), **changed, "attention_bias": bias})
    found = {name: tuple(tensor.shape) for name, tensor in MiMo(config).state_dict().items()}
    assert list(config.tensor_shapes().items()) == list(found.items())


def test_a_folder_is_inspected_without_torch(tmp_path: Path) -> None:
    folder = save_folder(model_of(), tmp_path / "m")
    code = (
        "import sys\nfrom openmimo.cli import main\n"
        f"try: main(['checkpoint', 'inspect', {str(folder)!r}, '--json'])\nexcept SystemExit: pass\n"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["dtypes"] == ["float32"]
