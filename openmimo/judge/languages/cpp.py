"""C++: compiled in the sandbox into a static binary, with the whole standard library precompiled."""

from __future__ import annotations

from openmimo.judge.languages.language import Language

_FLAGS = ("-O2", "-std=c++20")

CPP = Language(
    "cpp",
    (".cpp", ".cc", ".cxx"),
    compiler=("g++", *_FLAGS, "-pipe", "-static", "-I{headers}", "-x", "c++", "{source}", "-o", "{binary}"),
    header="bits/stdc++.h",
    header_compiler=("g++", *_FLAGS, "-x", "c++-header", "{source}", "-o", "{binary}"),
    profile=lambda source: "native",
)
