"""Only the compiled parts; everything else stands in pyproject.toml. Without a C compiler the judge and the engine do
without, the engine much slower."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension("openmimo.judge.sandbox._spawn", ["openmimo/judge/sandbox/_spawn.c"], optional=True),
        Extension(
            "openmimo.engine._kernels",
            ["openmimo/engine/_kernels.c"],
            extra_compile_args=["-O3", "-fno-math-errno", "-Wno-psabi"],
            optional=True,
        ),
    ],
)
