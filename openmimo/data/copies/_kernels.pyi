"""Deduplication's arithmetic over addresses of contiguous arrays; nothing is checked here."""

def use(name: str = "", /) -> str: ...
def sign(
    data: int,
    borders: int,
    table: int,
    factors: int,
    offsets: int,
    out: int,
    texts: int,
    ngram: int,
    hashes: int,
    lanes: int,
    /,
) -> None: ...
def band_keys(signatures: int, out: int, texts: int, bands: int, rows: int, /) -> None: ...
def join(first: int, second: int, pairs: int, parent: int, nodes: int, /) -> None: ...
