__global__ void kScale(float *values, float factor, int count) {
    const int place = blockIdx.x * blockDim.x + threadIdx.x;
    if (place < count)
        values[place] *= factor;
}

void scale(float *values, float factor, int count) { kScale<<<(count + 255) / 256, 256>>>(values, factor, count); }
