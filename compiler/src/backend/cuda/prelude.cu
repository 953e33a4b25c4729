#define INFINITY_F __int_as_float(0x7f800000)

#ifdef __CUDACC__
__device__ inline float from_half(unsigned short bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}
__device__ inline unsigned short to_half(float x) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
__device__ inline unsigned short to_brain(float x) {
#if __CUDA_ARCH__ >= 800
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
#else
    // To the nearest, and of two to the even one; what is not a number stays none.
    const unsigned bits = __float_as_int(x);
    return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
#endif
}
#endif

__device__ inline float from_brain(unsigned short bits) { return __int_as_float((int)((unsigned)bits << 16)); }

// Numbers as memory keeps them: rounded to the nearest when they are written, f32 once they are read.
struct f16 {
    unsigned short bits;
    __device__ operator float() const { return from_half(bits); }
    __device__ void operator=(float x) { bits = to_half(x); }
};
struct bf16 {
    unsigned short bits;
    __device__ operator float() const { return from_brain(bits); }
    __device__ void operator=(float x) { bits = to_brain(x); }
};

// The range of the outermost loop, into how many parts it is cut, the call's time steps and samples, and where the caller's numbers lie.
struct Call {
    long long begin, end, ranges, first;
    int steps;
    float batch;
    const float *hyper;
};

// Whether this block is the last of its launch to come here; then it sees what the others wrote.
__device__ inline bool last_block(unsigned *done) {
    __shared__ unsigned before;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        before = atomicAdd(done, 1u);
        if (before == gridDim.x - 1) *done = 0;
    }
    __syncthreads();
    __threadfence();
    return before == gridDim.x - 1;
}

// Of what is done side by side, what this block belongs to: the last that begins no later.
template <typename Arguments> __device__ inline int entry(const Arguments *all, int count) {
    int low = 0, high = count;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (all[middle].first <= blockIdx.x) low = middle;
        else high = middle;
    }
    return low;
}

// As the other backend has them: what is not a number passes from the first of both.
__device__ inline float lesser(float a, float b) { return a < b ? a : b; }
__device__ inline float larger(float a, float b) { return b < a ? a : b; }

// x * 2^-k by the exponent field; a signed zero where that leaves the normal range.
__device__ inline float shifted(float x, int k) {
    const int bits = __float_as_int(x), exponent = bits & 0x7f800000;
    const int least = (k > 0 ? k : 0) << 23;
    return __int_as_float(exponent > least ? (int)((unsigned)bits - ((unsigned)k << 23)) : bits & (int)0x80000000);
}

// e^x = 2^n e^r, |r| <= ln 2 / 2, a polynomial of degree 6 (coefficients of Cephes' expf).
__device__ inline float exponential(float x) {
    x = larger(x, -86.6f);
    x = lesser(x, 88.72283f);
    const float rounded = x * 1.44269504f + 12582912.0f, n = rounded - 12582912.0f;
    const float r = x - n * 0.6933594f - n * -2.1219444e-4f;
    float p = 1.9875691e-4f;
    p = p * r + 1.3981999e-3f;
    p = p * r + 8.333452e-3f;
    p = p * r + 4.1665796e-2f;
    p = p * r + 0.16666665f;
    p = p * r + 0.5f;
    p = p * (r * r) + r + 1.0f;
    return (p + p) * __int_as_float((int)(((unsigned)__float_as_int(rounded) << 23) + (126u << 23)));
}

// ln x = e ln 2 + ln m, m from sqrt(1/2) to sqrt(2), a polynomial of degree 9 (coefficients of Cephes' logf); x > 0.
__device__ inline float logarithm(float x) {
    const int bits = __float_as_int(x), exponent = (bits - 0x3f3504f3) >> 23;
    const float f = __int_as_float((int)((unsigned)bits - ((unsigned)exponent << 23))) - 1.0f, e = (float)exponent;
    float p = 7.0376836e-2f;
    p = p * f + -0.1151461f;
    p = p * f + 0.11676998f;
    p = p * f + -0.12420141f;
    p = p * f + 0.14249323f;
    p = p * f + -0.16668057f;
    p = p * f + 0.20000715f;
    p = p * f + -0.24999994f;
    p = p * f + 0.3333333f;
    const float square = f * f;
    p = p * (square * f);
    p = p + e * -2.1219444e-4f;
    p = p - square * 0.5f;
    return f + p + e * 0.6933594f;
}

// From 0 to below 1: a hash of element, site and seed (Wellons' lowbias32), its upper 24 bits.
__device__ inline float uniform(long long element, unsigned site, float seed) {
    const unsigned start = (unsigned)(int)seed * 0x9e3779b9u + site * 0x85ebca6bu;
    unsigned x = ((unsigned)element * 0x9e3779b9u) ^ start;
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    x = x ^ (x >> 16);
    return (float)(int)(x >> 8) * 5.9604645e-8f;
}

// Adds, and takes from what is added next what this sum gained by rounding (Kahan 1965).
__device__ inline void add(float &sum, float &lost, float x) {
    const float y = x - lost, next = sum + y;
    lost = (next - sum) - y;
    sum = next;
}

// Over the rows of a block's threads, for every column, in a fixed order; the threads of the first row get their columns'.
template <int columns, int rows> __device__ inline float block_sum(float x) {
    __shared__ float parts[columns * rows];
    const int tid = threadIdx.x;
    parts[tid] = x;
    __syncthreads();
    for (int half = rows / 2; half > 0; half /= 2) {
        if (tid < half * columns) parts[tid] = parts[tid] + parts[tid + half * columns];
        __syncthreads();
    }
    return parts[tid % columns];
}
template <int columns, int rows> __device__ inline float block_max(float x) {
    __shared__ float parts[columns * rows];
    const int tid = threadIdx.x;
    parts[tid] = x;
    __syncthreads();
    for (int half = rows / 2; half > 0; half /= 2) {
        if (tid < half * columns) parts[tid] = fmaxf(parts[tid], parts[tid + half * columns]);
        __syncthreads();
    }
    return parts[tid % columns];
}
