def serve(
    control: int,
    own_pids: int,
    uid: int,
    drop_rights: bool,
    ruleset: int,
    filter: bytes,
    cpu_limit_s: int,
    wait_ms: int,
) -> tuple[int, float] | tuple[bytes, list[int]] | None: ...
