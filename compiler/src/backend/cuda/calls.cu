// The parts of a sum, each of `size` elements, one after the other.
extern "C" __global__ void sum_parts(const float *parts, float *to, long long count, long long size) {
    for (long long e = blockIdx.x * 256LL + threadIdx.x; e < size; e += gridDim.x * 256LL) {
        float sum = parts[e];
        for (long long p = 1; p < count; p++) sum = sum + parts[p * size + e];
        to[e] = sum;
    }
}

// Extents of a tensor, and its distances before and after, the outermost first.
struct Shape {
    long long size[6], from[6], to[6];
};
extern "C" __global__ void copy_tensor(const float *from, float *to, const Shape s) {
    long long elements = 1;
    for (int d = 0; d < 6; d++) elements *= s.size[d];
    for (long long e = blockIdx.x * 256LL + threadIdx.x; e < elements; e += gridDim.x * 256LL) {
        long long rest = e, at = 0, place = 0;
        for (int d = 5; d >= 0; d--) {
            const long long i = rest % s.size[d];
            rest /= s.size[d];
            at += i * s.from[d];
            place += i * s.to[d];
        }
        to[place] = from[at];
    }
}
