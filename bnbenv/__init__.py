"""bitsandbytes environments that fit the driver and the GPU, proved by running kernels."""

__version__ = "0.1.0"
