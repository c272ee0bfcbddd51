"""What a torch preloads, in the forms that torch/__init__.py has had."""

from __future__ import annotations

from typing import Any

import pytest

from bnbenv.doctor.examine.startup import Plan, Preload, plan_of

NVRTC, JIT = Preload("cuda_nvrtc", "libnvrtc.so.*[0-9]"), Preload("nvjitlink", "libnvJitLink.so.*[0-9]")
CUBLAS = Preload("cublas", "libcublas.so.*[0-9]")
MAPS = "        with open('/proc/self/maps') as f:\n            _maps = f.read()\n"

FORMS = {
    "1.13": (
        "cublas_path = os.path.join(nvidia_path, 'cublas', 'lib', 'libcublas.so.11')\nctypes.CDLL(cublas_path)\n",
        Plan(rescue=(Preload("cublas", "libcublas.so.11"),)),
    ),
    "2.0 to 2.5": (
        "cuda_libs: Dict = {\n    'cublas': 'libcublas.so.*[0-9]',\n    'cuda_nvrtc': 'libnvrtc.so.*[0-9]',\n}\n",
        Plan(rescue=(CUBLAS, NVRTC)),
    ),
    "2.6 to 2.8": (
        f"try:\n{MAPS}"
        '        if "nvidia/cuda_runtime/lib/libcudart.so" not in _maps:\n            return\n'
        '        _preload_cuda_deps("nvjitlink", "libnvJitLink.so.*[0-9]")\n'
        'except Exception:\n    cuda_libs = {"cublas": "libcublas.so.*[0-9]", "cuda_nvrtc": "libnvrtc.so.*[0-9]"}\n',
        Plan((CUBLAS, NVRTC), (JIT,), "nvidia/cuda_runtime/lib/libcudart.so"),
    ),
    "2.13": (
        'os.path.join(path, "nvidia", f"cu{maj_cuda_version}", "lib", lib_name)\n'
        'cuda_libs = [("cublas", "libcublas.so.*[0-9]"), ("nvjitlink", "libnvJitLink.so.*[0-9]")]\n'
        f'try:\n{MAPS}        if "libcudart.so" not in _maps:\n            return\n        _preload_cuda_deps()\n'
        "except Exception:\n    pass\n",
        Plan((CUBLAS, JIT), (CUBLAS, JIT), "libcudart.so", with_major=True),
    ),
    "2.15": (
        'cuda_libs = [("cublas", "libcublas.so.*[0-9]")]\n'
        f'try:\n{MAPS}        if "libcudart.so" not in _maps:\n            return\n'
        "        _preload_cuda_deps(required=False)\nexcept Exception:\n    pass\n",
        Plan((CUBLAS,), (Preload("cublas", "libcublas.so.*[0-9]", required=False),), "libcudart.so"),
    ),
    "none": ("import ctypes\n", Plan()),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_forms_of_the_file(form: str) -> None:
    text, expected = FORMS[form]
    assert plan_of(text) == expected


@pytest.mark.real
def test_the_file_of_a_real_torch_names_the_cuda_libraries(synced: Any) -> None:
    (path,) = synced.root.glob(".venv-bnb/lib/python3*/site-packages/torch/__init__.py")
    plan = plan_of(path.read_text())
    folders = {one.folder for one in plan.rescue}
    assert {"cublas", "cudnn", "cuda_runtime", "cusparse", "nvjitlink"} <= folders and len(plan.rescue) > 10
    assert plan.always and plan.mapped.endswith("libcudart.so") and plan.with_major
