// What Python calls. The names are those that bitsandbytes' own libraries have.
#include <cstddef>

#ifdef BUILD_CUDA
#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda_runtime_api.h>

void scale(float *values, float factor, int count);

struct Context {
    cublasHandle_t handle;
};
#endif

extern "C" {

float cadd_cpu(float one, float other) { return one + other; }

#ifdef BUILD_CUDA
Context *get_context() {
    Context *context = new Context();
    cublasCreate_v2(&context->handle);
    return context;
}

void *cget_managed_ptr(std::size_t bytes) {
    void *found = nullptr;
    return cudaMallocManaged(&found, bytes) == cudaSuccess ? found : nullptr;
}

std::size_t ccublaslt_version() { return cublasLtGetVersion(); }

void cscale(float *values, float factor, int count) { scale(values, factor, count); }
#endif
}
