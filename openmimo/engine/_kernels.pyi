"""Row-independent float32 kernels over addresses of contiguous memory; nothing is checked here."""

def use(name: str = "", /) -> str: ...
def pack(weight: int, packed: int, outputs: int, inputs: int, /) -> None: ...
def product(
    x: int, packed: int, bias: int, out: int, rows: int, inputs: int, outputs: int, add: bool, threads: int, /
) -> None: ...
def norm(x: int, weight: int, out: int, rows: int, stride: int, width: int, eps: float, /) -> None: ...
def gate(x: int, out: int, rows: int, width: int, /) -> None: ...
def attend(
    qkv: int,
    cos: int,
    sin: int,
    keys: int,
    values: int,
    table: int,
    positions: int,
    table_rows: int,
    slots: int,
    lengths: int,
    out: int,
    rows: int,
    heads: int,
    kv_heads: int,
    width: int,
    block: int,
    columns: int,
    threads: int,
    /,
) -> None: ...
def draw(
    logits: int,
    temperatures: int,
    least: int,
    seeds: int,
    indices: int,
    ids: int,
    logprobs: int,
    raw: int,
    rows: int,
    stride: int,
    vocabulary: int,
    allowed: int,
    given: bool,
    /,
) -> None: ...
