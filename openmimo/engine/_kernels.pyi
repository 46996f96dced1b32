"""Row-independent float32 kernels over addresses of contiguous memory; nothing is checked here."""

def use(name: str = "", /) -> str: ...
def pack(weight: int, packed: int, outputs: int, inputs: int, /) -> None: ...
def product(
    x: int, packed: int, bias: int, out: int, rows: int, inputs: int, outputs: int, add: bool, threads: int, /
) -> None: ...
def norm(x: int, weight: int, out: int, rows: int, stride: int, width: int, eps: float, /) -> None: ...
def gate(x: int, out: int, rows: int, width: int, /) -> None: ...
def blocks(
    room: int, blocks: int, count: int, first: int, columns: int, rows: int, eps: float, threads: int, /
) -> None: ...
def draw(
    logits: int,
    temperatures: int,
    top_p: int,
    min_p: int,
    top_k: int,
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
