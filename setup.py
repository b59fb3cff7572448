"""The one part that is compiled: what sampling and training compute on a processor. All else is in pyproject.toml.

Optional: where there is no compiler, or none that knows these options, the package installs all the same, and is
slower. One library for each kind of processor; `prefloop.kernels.native` picks. No OpenMP library is linked: the calls
to it find torch's, which is loaded before.
"""

import platform

from setuptools import Extension, setup

KINDS = {"x86_64": {"avx2": ["-march=x86-64-v3"], "avx512": ["-march=x86-64-v4"]}, "aarch64": {"neon": []}}
# sums may be added up in any order; infinities and NaN keep their meaning
OPTIONS = ["-O3", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"]

setup(
    ext_modules=[
        Extension(
            f"prefloop.kernels._native_{kind}",
            ["src/prefloop/kernels/native.c", "src/prefloop/kernels/learning.c"],
            depends=["src/prefloop/kernels/native.h"],
            extra_compile_args=OPTIONS + march,
            optional=True,
        )
        for kind, march in KINDS.get(platform.machine(), {}).items()
    ]
)
