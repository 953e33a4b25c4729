// The parts of a sum, each of `size` elements, one after the other; many sums side by side. The result is f32, f16 (1) or bf16 (2).
struct Sum {
    const float *parts;
    void *to;
    long long count, size, format, first;
};
extern "C" __global__ void __launch_bounds__(256) sum_parts(const Sum *all, const int count) {
    const int i = entry(all, count);
    const Sum &s = all[i];
    const long long blocks = (i + 1 < count ? all[i + 1].first : (long long)gridDim.x) - s.first;
    for (long long e = (blockIdx.x - s.first) * 256LL + threadIdx.x; e < s.size; e += blocks * 256LL) {
        float sum = s.parts[e];
        for (long long p = 1; p < s.count; p++) sum = sum + s.parts[p * s.size + e];
        if (s.format == 0) ((float *)s.to)[e] = sum;
        else if (s.format == 1) ((f16 *)s.to)[e] = sum;
        else ((bf16 *)s.to)[e] = sum;
    }
}

// Where a tensor is and where it goes, its extents, and its distances before and after, the outermost first.
template <typename From, typename To> struct Copy {
    const From *from;
    To *to;
    long long size[6], distance[6], next[6];
};
template <typename From, typename To> __device__ inline void copy(const Copy<From, To> &s) {
    long long elements = 1;
    for (int d = 0; d < 6; d++) elements *= s.size[d];
    for (long long e = blockIdx.x * 256LL + threadIdx.x; e < elements; e += gridDim.x * 256LL) {
        long long rest = e, at = 0, place = 0;
        for (int d = 5; d >= 0; d--) {
            const long long i = rest % s.size[d];
            rest /= s.size[d];
            at += i * s.distance[d];
            place += i * s.next[d];
        }
        s.to[place] = s.from[at];
    }
}
extern "C" __global__ void __launch_bounds__(256) copy_f32_f32(const Copy<float, float> s) { copy(s); }
extern "C" __global__ void __launch_bounds__(256) copy_f32_f16(const Copy<float, f16> s) { copy(s); }
extern "C" __global__ void __launch_bounds__(256) copy_f16_f32(const Copy<f16, float> s) { copy(s); }
extern "C" __global__ void __launch_bounds__(256) copy_f16_f16(const Copy<unsigned short, unsigned short> s) { copy(s); }
extern "C" __global__ void __launch_bounds__(256) copy_f32_bf16(const Copy<float, bf16> s) { copy(s); }
extern "C" __global__ void __launch_bounds__(256) copy_bf16_f32(const Copy<bf16, float> s) { copy(s); }

// Whether some number is not finite: then 1 is stored, by whoever finds one.
struct Numbers {
    const float *at;
    float *found;
    long long size, first;
};
extern "C" __global__ void __launch_bounds__(256) overflow(const Numbers *all, const int count) {
    const int i = entry(all, count);
    const Numbers &s = all[i];
    const long long blocks = (i + 1 < count ? all[i + 1].first : (long long)gridDim.x) - s.first;
    for (long long e = (blockIdx.x - s.first) * 256LL + threadIdx.x; e < s.size; e += blocks * 256LL) {
        if ((__float_as_int(s.at[e]) & 0x7f800000) == 0x7f800000) *s.found = 1.0f;
    }
}

// What each of these functions takes.
typedef Sum sum_parts_arguments;
typedef Numbers overflow_arguments;
typedef Copy<float, float> copy_f32_f32_arguments;
typedef Copy<float, f16> copy_f32_f16_arguments;
typedef Copy<f16, float> copy_f16_f32_arguments;
typedef Copy<unsigned short, unsigned short> copy_f16_f16_arguments;
typedef Copy<float, bf16> copy_f32_bf16_arguments;
typedef Copy<bf16, float> copy_bf16_f32_arguments;
