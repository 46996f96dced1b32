"""Token shards: what is written is what is mapped; what is torn is named."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmimo.data.shards import open_shard, write_shard


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.lists(st.integers(0, 69_999), max_size=9), min_size=1, max_size=9).filter(any),
    st.sampled_from([70_000, 1 << 20]),
)
def test_documents_come_back_and_empty_ones_are_left_out(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], vocab_size: int
) -> None:
    shard = write_shard(documents, tmp_path_factory.mktemp("s") / "web", "web", vocab_size=vocab_size)
    assert [shard.document(i).tolist() for i in range(len(shard))] == [d for d in documents if d]
    assert shard.num_tokens == sum(map(len, documents)) and shard.source == "web"


def test_a_small_vocabulary_takes_two_bytes_a_token(tmp_path: Path) -> None:
    assert write_shard([[65_535]], tmp_path / "a", "a", vocab_size=65_536).tokens.dtype == np.uint16
    assert write_shard([[65_536]], tmp_path / "b", "b", vocab_size=65_537).tokens.dtype == np.uint32
    assert (tmp_path / "a" / "tokens.bin").stat().st_size == 2


def test_writing_replaces_the_older_shard_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_shard([[1, 2]], tmp_path / "a", "a", vocab_size=9)
    write_shard([[3]], tmp_path / "a", "a", vocab_size=9)
    assert open_shard(tmp_path / "a").tokens.tolist() == [3]

    def cut() -> object:
        yield [4]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(cut(), tmp_path / "a", "a", vocab_size=9)  # type: ignore[arg-type]
    assert open_shard(tmp_path / "a").tokens.tolist() == [3]
    write_shard([[5]], tmp_path / "a", "a", vocab_size=9)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_cannot_be_written_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="source 'web' has no documents to tokenize"):
        write_shard([[]], tmp_path / "a", "web", vocab_size=9)
    with pytest.raises(ValueError, match="source 'web' has token id 9; the vocabulary has 9"):
        write_shard([[1], [2, 9]], tmp_path / "a", "web", vocab_size=9)
    assert not list(tmp_path.iterdir())


def test_a_broken_shard_is_named(tmp_path: Path) -> None:
    def fresh() -> Path:
        write_shard([[1, 2], [3]], tmp_path / "a", "a", vocab_size=9)
        return tmp_path / "a"

    with pytest.raises(ValueError, match=r"is no token shard: shard\.json is missing"):
        open_shard(tmp_path)
    (fresh() / "tokens.bin").write_bytes(b"12345")
    with pytest.raises(ValueError, match=r"tokens\.bin has 5 bytes, shard\.json says 6"):
        open_shard(tmp_path / "a")
    for name in ("tokens.bin", "borders.npy"):
        (fresh() / name).unlink()
        with pytest.raises(ValueError, match=f"is torn: {name} is missing"):
            open_shard(tmp_path / "a")
    path = fresh() / "borders.npy"
    whole = path.read_bytes()
    for torn in (b"", whole[:40], whole[:-3]):
        path.write_bytes(torn)
        with pytest.raises(ValueError, match=r"borders\.npy is torn"):
            open_shard(tmp_path / "a")
    np.save(path, np.array([0, 3]))
    with pytest.raises(ValueError, match=r"1 documents and 3 tokens, shard\.json says 2 and 3"):
        open_shard(tmp_path / "a")
    path = fresh() / "shard.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "format_version": 7}))
    with pytest.raises(ValueError, match="has shard format 7, this is 1"):
        open_shard(tmp_path / "a")
    for torn_text in ('{"format_version": 1, "sou', "[]", "{}"):
        path.write_text(torn_text)
        with pytest.raises(ValueError, match=r"shard\.json is torn"):
            open_shard(tmp_path / "a")
