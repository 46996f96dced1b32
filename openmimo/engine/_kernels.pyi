"""Row-independent float32 kernels over addresses of contiguous memory; nothing is checked here."""

def use(name: str = "", /) -> str: ...
def pack(weight: int, packed: int, outputs: int, inputs: int, /) -> None: ...
def product(
    x: int, packed: int, bias: int, out: int, rows: int, inputs: int, outputs: int, add: bool, threads: int, /
) -> None: ...
def norm(x: int, weight: int, out: int, rows: int, stride: int, width: int, eps: float, /) -> None: ...
def gate(x: int, out: int, rows: int, width: int, /) -> None: ...
def forward(
    room: int,
    blocks: int,
    count: int,
    first: int,
    join: int,
    states_in: int,
    states_out: int,
    columns: int,
    rows: int,
    eps: float,
    threads: int,
    /,
) -> None: ...
def logits(
    x: int,
    chosen: int,
    norm: int,
    y: int,
    packed: int,
    out: int,
    rows: int,
    inputs: int,
    outputs: int,
    eps: float,
    threads: int,
    /,
) -> None: ...
def draw(
    logits: int, asks: bytes | None, out: int, rows: int, vocabulary: int, allowed: int, score: bool, /
) -> None: ...
