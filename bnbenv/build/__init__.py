"""bitsandbytes compiled for exactly some architectures: toolchain, source, compilation, wheel, cache.

``source`` gets a tree and says what it is, ``toolchain`` a CUDA toolkit with a host compiler, CMake and Ninja,
``run.build`` makes the wheel of them, or takes it out of the cache. Nothing here needs a GPU.
"""
