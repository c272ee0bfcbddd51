"""Loads the library for the CPU: without torch nobody knows of a GPU."""

import ctypes as ct
from pathlib import Path

PACKAGE_DIR = Path(__file__).parent


def set_up_cuda(lib: ct.CDLL) -> ct.CDLL:
    """What the loader takes from a CUDA library at once."""
    lib.get_context.restype = ct.c_void_p
    lib.cget_managed_ptr.restype = ct.c_void_p
    return lib


lib = ct.CDLL(str(PACKAGE_DIR / "libbitsandbytes_cpu.so"))
lib.cadd_cpu.restype = ct.c_float
lib.cadd_cpu.argtypes = [ct.c_float, ct.c_float]
