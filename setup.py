"""Only the compiled helper; everything else stands in pyproject.toml. Without a C compiler the judge does without."""

from setuptools import Extension, setup

setup(
    ext_modules=[Extension("openmimo.judge.sandbox._spawn", ["openmimo/judge/sandbox/_spawn.c"], optional=True)],
)
