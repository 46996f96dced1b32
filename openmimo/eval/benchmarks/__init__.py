"""Public benchmarks as `Problem`s (MiMo 2.4, 3.5): one file a family; import the function you use.

Each reads the benchmark's own public file; none is downloaded or shipped.
"""
