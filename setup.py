"""Only the compiled parts; everything else stands in pyproject.toml. Without a C compiler the judge, the engine,
training and deduplication do without, the engine much slower; without OpenMP kernels run on one thread."""

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

OPENMP = "-fopenmp"


class Build(build_ext):
    """Tries again without OpenMP where the compiler has none."""

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except Exception:
            if OPENMP not in ext.extra_compile_args:
                raise
            ext.extra_compile_args.remove(OPENMP)
            ext.extra_link_args.remove(OPENMP)
            super().build_extension(ext)


setup(
    cmdclass={"build_ext": Build},
    ext_modules=[
        Extension("openmimo.judge.sandbox._spawn", ["openmimo/judge/sandbox/_spawn.c"], optional=True),
        *(
            Extension(
                f"openmimo.data.{name}",
                [f"openmimo/data/{path}.c"],
                depends=["openmimo/_module.h"],
                extra_compile_args=["-O3"],
                optional=True,
            )
            for name, path in (("copies._kernels", "copies/_kernels"), ("pages._source", "pages/_source"))
        ),
        *(
            Extension(
                f"openmimo.{room}._kernels",
                [f"openmimo/{room}/_kernels.c"],
                depends=["openmimo/_module.h", f"openmimo/{room}/_kernels.h"],
                extra_compile_args=["-O3", "-fno-math-errno", "-Wno-psabi", OPENMP],
                extra_link_args=[OPENMP],
                optional=True,
            )
            for room in ("engine", "model")
        ),
    ],
)
