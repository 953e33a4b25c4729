// NVIDIA's driver, cuBLASLt and cuDNN as far as snnc calls them, on the host: what a device would be told to do is done here, with
// the kernels that the host runs (the library that the file `current` beside this one names). Descriptions are kept as the
// documented calls make them, so that a wrong attribute, size or order shows.
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fstream>
#include <functional>
#include <string>
#include <utility>
#include <vector>

typedef unsigned long long Pointer;

namespace {
// Numbers as a library is told that memory keeps them.
enum class Format { f32, f16, bf16 };
float get(Format f, const void *at, size_t i) {
    if (f == Format::f32) return ((const float *)at)[i];
    if (f == Format::f16) return (float)((const _Float16 *)at)[i];
    const unsigned bits = (unsigned)((const unsigned short *)at)[i] << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
void set(Format f, void *at, size_t i, float x) {
    if (f == Format::f32) {
        ((float *)at)[i] = x;
    } else if (f == Format::f16) {
        ((_Float16 *)at)[i] = (_Float16)x;
    } else {
        unsigned bits;
        std::memcpy(&bits, &x, 4);
        ((unsigned short *)at)[i] = x != x ? 0x7fc0 : (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
}
struct Function {
    std::string name;
    void *library;
};
struct Graph {
    std::vector<std::function<void()>> launches;
};

bool recording = false;
Graph *recorded = nullptr;

// Runs it, or keeps it while a graph is recorded.
int launched(std::function<void()> f) {
    if (recording)
        recorded->launches.push_back(f);
    else
        f();
    return 0;
}

[[noreturn]] void refuse(const char *why) {
    std::fprintf(stderr, "the mock refuses: %s\n", why);
    std::abort();
}

// The folder of this library.
std::string folder() {
    Dl_info info;
    dladdr((void *)&refuse, &info);
    std::string path = info.dli_fname;
    return path.substr(0, path.rfind('/'));
}
}  // namespace

extern "C" {
// --- the driver
int cuInit(unsigned) { return 0; }
int cuGetErrorName(int, const char **name) { return *name = "MOCK", 0; }
int cuGetErrorString(int, const char **text) { return *text = "the mock refuses", 0; }
// As old as the environment says.
int cuDriverGetVersion(int *version) {
    const char *said = std::getenv("SNNC_MOCK_DRIVER");
    return *version = said ? std::atoi(said) : 99000, 0;
}
int cuDeviceGetCount(int *count) { return *count = 1, 0; }
int cuDeviceGet(int *device, int) { return *device = 0, 0; }
int cuDeviceGetName(char *name, int size, int) { return std::snprintf(name, (size_t)size, "a mock"), 0; }
// Of all attributes, the parts of the architecture: 9.0.
int cuDeviceGetAttribute(int *value, int which, int) { return *value = which == 75 ? 9 : 0, 0; }
int cuDevicePrimaryCtxRetain(void **context, int) { return *context = (void *)1, 0; }
int cuDevicePrimaryCtxRelease_v2(int) { return 0; }
int cuCtxSetCurrent(void *) { return 0; }
// The first stream is for what is computed, the second for copies beside it.
int cuStreamCreate(void **stream, unsigned) {
    static int count = 0;
    return *stream = count++ % 2 ? (void *)6 : (void *)2, 0;
}
int cuStreamWaitEvent(void *stream, void *event, unsigned) { return stream == (void *)2 && event == (void *)5 ? 0 : 1; }
int cuMemHostAlloc(void **at, size_t bytes, unsigned) { return *at = std::malloc(bytes), 0; }
int cuMemFreeHost(void *at) { return std::free(at), 0; }
int cuEventSynchronize(void *event) { return event == (void *)5 ? 0 : 1; }
int cuStreamDestroy_v2(void *) { return 0; }
int cuStreamSynchronize(void *) {
    if (recording) refuse("a wait while a graph is recorded");
    return 0;
}
int cuMemGetInfo_v2(size_t *free, size_t *total) { return *free = *total = 2000000000, 0; }
// Where it is measured how long a start takes: clearing its memory is the device's work, not the host's.
static const bool timed = std::getenv("SNNC_MOCK_TIMED");
int cuMemAlloc_v2(Pointer *at, size_t bytes) {
    if (recording) refuse("an allocation while a graph is recorded");
    if (timed) return *at = (Pointer)std::calloc(bytes, 1), 0;
    void *memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    std::memset(memory, 0xff, bytes);
    return *at = (Pointer)memory, 0;
}
int cuMemFree_v2(Pointer at) { return std::free((void *)at), 0; }
int cuMemsetD8Async(Pointer at, unsigned char value, size_t bytes, void *) {
    if (timed && value == 0 && !recording) return 0;
    return launched([=] { std::memset((void *)at, value, bytes); });
}
int cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t bytes, void *) {
    if (recording) refuse("a copy from the host while a graph is recorded");
    return std::memcpy((void *)to, from, bytes), 0;
}
int cuMemcpyDtoHAsync_v2(void *to, Pointer from, size_t bytes, void *) {
    if (recording) refuse("a copy to the host while a graph is recorded");
    return std::memcpy(to, (void *)from, bytes), 0;
}
int cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, void *) {
    return launched([=] { std::memcpy((void *)to, (const void *)from, bytes); });
}
int cuEventCreate(void **event, unsigned) { return *event = (void *)5, 0; }
int cuEventDestroy_v2(void *) { return 0; }
int cuEventRecord(void *, void *stream) { return stream == (void *)2 || stream == (void *)6 ? 0 : 1; }
// Every step takes a millisecond.
int cuEventElapsedTime(float *ms, void *, void *) { return *ms = 1, 0; }
int cuEventElapsedTime_v2(float *ms, void *, void *) { return *ms = 1, 0; }
int cuModuleLoadData(void **module, const void *image) {
    if (std::memcmp(image, "\x7f" "ELF", 4)) refuse("a module that is no cubin");
    if (std::getenv("SNNC_MOCK_DRIVER")) return 222;  // made by a later compiler
    std::ifstream current(folder() + "/current");
    std::string path;
    std::getline(current, path);
    *module = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!*module) refuse(dlerror());
    return 0;
}
int cuModuleUnload(void *) { return 0; }
int cuModuleGetFunction(void **function, void *module, const char *name) {
    *function = new Function{name, module};
    return 0;
}
int cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned ty, unsigned tz, unsigned shared, void *,
                   void **params, void **extra) {
    if (y != 1 || z != 1 || threads != 256 || ty != 1 || tz != 1 || shared || extra || !x) refuse("a launch of another form");
    const Function &f = *(Function *)function;
    void *launcher = dlsym(f.library, ("launch_" + f.name).c_str());
    if (!launcher) refuse(("no kernel " + f.name).c_str());
    const unsigned *size = (const unsigned *)dlsym(f.library, ("size_" + f.name).c_str());
    if (!size) refuse(("what does " + f.name + " take?").c_str());
    const auto run = (void (*)(const char *, int, unsigned, int))launcher;
    if (*size == 0) {
        const char *table = *(const char **)params[0];
        const int count = *(const int *)params[1];
        return launched([=] { run(table, count, x, 0); });
    }
    const std::vector<char> arguments((const char *)params[0], (const char *)params[0] + *size);
    return launched([=] { run(arguments.data(), 0, x, 0); });
}
int cuStreamBeginCapture_v2(void *, int) {
    recording = true;
    recorded = new Graph;
    return 0;
}
int cuStreamEndCapture(void *, void **graph) {
    recording = false;
    return *graph = recorded, 0;
}
int cuGraphInstantiateWithFlags(void **ready, void *graph, unsigned long long) { return *ready = new Graph(*(Graph *)graph), 0; }
int cuGraphDestroy(void *graph) { return delete (Graph *)graph, 0; }
int cuGraphExecDestroy(void *graph) { return delete (Graph *)graph, 0; }
int cuGraphLaunch(void *graph, void *) {
    for (auto &f : ((Graph *)graph)->launches) f();
    return 0;
}

// --- cuBLASLt
struct Layout {
    Format format;
    unsigned long long rows, columns;
    long long leading;
    int count = 1;
    long long next = 0;
};
struct Description {
    int a = 0, b = 0;
    bool tf32 = false;
};
int cublasLtCreate(void **handle) { return *handle = (void *)3, 0; }
int cublasLtDestroy(void *) { return 0; }
int cublasLtMatrixLayoutCreate(void **layout, int type, unsigned long long rows, unsigned long long columns, long long leading) {
    if (type != 0 && type != 2 && type != 14) refuse("a matrix of other numbers");
    if (leading < (long long)rows) refuse("columns that overlap");
    return *layout = new Layout{type == 0 ? Format::f32 : type == 2 ? Format::f16 : Format::bf16, rows, columns, leading}, 0;
}
int cublasLtMatrixLayoutDestroy(void *layout) { return delete (Layout *)layout, 0; }
int cublasLtMatrixLayoutSetAttribute(void *layout, int which, const void *value, size_t size) {
    Layout &l = *(Layout *)layout;
    if (which == 5 && size == 4)
        l.count = *(const int *)value;
    else if (which == 6 && size == 8)
        l.next = *(const long long *)value;
    else
        refuse("an attribute of a matrix");
    return 0;
}
int cublasLtMatmulDescCreate(void **description, int compute, int scale) {
    if ((compute != 68 && compute != 77) || scale != 0) refuse("products not in f32");
    auto *own = new Description;
    own->tf32 = compute == 77;
    return *description = own, 0;
}
int cublasLtMatmulDescDestroy(void *description) { return delete (Description *)description, 0; }
int cublasLtMatmulDescSetAttribute(void *description, int which, const void *value, size_t size) {
    Description &d = *(Description *)description;
    if (size != 4 || (which != 3 && which != 4)) refuse("an attribute of a product");
    (which == 3 ? d.a : d.b) = *(const int *)value;
    return 0;
}
struct Preference {
    int set;
    unsigned aligned[4];
};
int cublasLtMatmulPreferenceCreate(void **preference) { return *preference = new Preference{0, {256, 256, 256, 256}}, 0; }
int cublasLtMatmulPreferenceDestroy(void *preference) {
    if (((Preference *)preference)->set != 3) refuse("products whose sums may be split in any order");
    return delete (Preference *)preference, 0;
}
int cublasLtMatmulPreferenceSetAttribute(void *preference, int which, const void *value, size_t size) {
    Preference &own = *(Preference *)preference;
    if (which == 1 && size == 8)
        own.set |= 1;
    else if (which == 3 && size == 4 && *(const unsigned *)value == 0)
        own.set |= 2;
    else if (which >= 5 && which <= 8 && size == 4)
        own.aligned[which - 5] = *(const unsigned *)value;
    else
        refuse("an attribute of a preference");
    return 0;
}
struct Heuristic {
    unsigned long long algorithm[8];
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};
int cublasLtMatmulAlgoGetHeuristic(void *, void *, void *, void *, void *, void *, void *preference, int asked, Heuristic *results, int *found) {
    if (asked < 1) refuse("no algorithm asked for");
    const unsigned *aligned = ((Preference *)preference)->aligned;
    *results = Heuristic{{42, aligned[0], aligned[1], aligned[2], aligned[3]}, 0, 0, 1, {}};
    return *found = 1, 0;
}
// Ten bits behind the point.
static float tf32(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, 4);
    bits = (bits + 0x1000) & ~0x1fffu;
    std::memcpy(&x, &bits, 4);
    return x;
}
int cublasLtMatmul(void *, void *description, const void *alpha, const void *a, void *la, const void *b, void *lb, const void *beta, const void *c,
                   void *lc, void *d, void *ld, const void *algorithm, void *, size_t, void *stream) {
    const Layout x = *(Layout *)la, y = *(Layout *)lb, z = *(Layout *)ld;
    const Description how = *(Description *)description;
    const float scale = *(const float *)alpha, kept = *(const float *)beta;
    const unsigned long long *chosen = (const unsigned long long *)algorithm;
    if (c != d || lc != ld || *chosen != 42 || stream != (void *)2) refuse("a product of another form");
    // An algorithm reads as many bytes at once as it was promised that matrices are aligned to.
    for (auto [at, aligned] : {std::pair(a, chosen[1]), {b, chosen[2]}, {c, chosen[3]}, {(const void *)d, chosen[4]}})
        if ((size_t)at % aligned) refuse("a matrix that begins elsewhere than the algorithm was chosen for");
    const unsigned long long m = z.rows, n = z.columns, k = how.a ? x.rows : x.columns;
    if ((how.a ? x.columns : x.rows) != m || (how.b ? y.rows : y.columns) != n || (how.b ? y.columns : y.rows) != k)
        refuse("a product of matrices that do not fit");
    if (x.format != y.format || (z.format != x.format && z.format != Format::f32)) refuse("a product of other formats");
    if (x.count != z.count || y.count != z.count) refuse("another number of products");
    return launched([=] {
        for (int p = 0; p < z.count; p++)
            for (unsigned long long j = 0; j < n; j++)
                for (unsigned long long i = 0; i < m; i++) {
                    float sum = 0;
                    for (unsigned long long l = 0; l < k; l++) {
                        float left = get(x.format, a, p * x.next + (how.a ? l + i * x.leading : i + l * x.leading));
                        float right = get(y.format, b, p * y.next + (how.b ? j + l * y.leading : l + j * y.leading));
                        if (how.tf32) left = tf32(left), right = tf32(right);
                        sum += left * right;
                    }
                    const size_t to = p * z.next + i + j * z.leading;
                    set(z.format, d, to, scale * sum + (kept == 0 ? 0 : kept * get(z.format, d, to)));
                }
    });
}

// --- cuDNN: tensors with channels last
struct Tensor {
    int n, c, h, w;
    Format format = Format::f32;
};
static Format numbers(int type) {
    if (type != 0 && type != 2 && type != 9) refuse("a tensor of other numbers");
    return type == 0 ? Format::f32 : type == 2 ? Format::f16 : Format::bf16;
}
struct Window {
    int ph, pw, sh, sw, math = -1;
};
struct Performance {
    int algorithm, status;
    float time;
    size_t memory;
    int determinism, math, reserved[3];
};
int cudnnCreate(void **handle) { return *handle = (void *)4, 0; }
int cudnnDestroy(void *) { return 0; }
int cudnnSetStream(void *, void *stream) { return stream == (void *)2 ? 0 : 1; }
int cudnnCreateTensorDescriptor(void **t) { return *t = new Tensor{}, 0; }
int cudnnDestroyTensorDescriptor(void *t) { return delete (Tensor *)t, 0; }
int cudnnSetTensor4dDescriptor(void *t, int format, int type, int n, int c, int h, int w) {
    if (format != 1) refuse("a tensor whose channels are not last");
    return *(Tensor *)t = Tensor{n, c, h, w, numbers(type)}, 0;
}
int cudnnCreateFilterDescriptor(void **t) { return *t = new Tensor{}, 0; }
int cudnnDestroyFilterDescriptor(void *t) { return delete (Tensor *)t, 0; }
int cudnnSetFilter4dDescriptor(void *t, int type, int format, int k, int c, int h, int w) {
    if (format != 1) refuse("a filter whose channels are not last");
    return *(Tensor *)t = Tensor{k, c, h, w, numbers(type)}, 0;
}
int cudnnCreateConvolutionDescriptor(void **t) { return *t = new Window{}, 0; }
int cudnnDestroyConvolutionDescriptor(void *t) { return delete (Window *)t, 0; }
int cudnnSetConvolution2dDescriptor(void *t, int ph, int pw, int sh, int sw, int dh, int dw, int mode, int type) {
    if (dh != 1 || dw != 1 || mode != 1 || type != 0) refuse("no cross-correlation in f32");
    return *(Window *)t = Window{ph, pw, sh, sw}, 0;
}
int cudnnSetConvolutionMathType(void *t, int math) { return ((Window *)t)->math = math, 0; }
static int algorithms(void *window, int asked, int *found, Performance *results) {
    if (asked < 2) refuse("no algorithm asked for");
    // The first is fast and gives other bits every time.
    const int math = ((Window *)window)->math;
    results[0] = Performance{0, 0, 1, 0, 0, math, {}};
    results[1] = Performance{1, 0, 2, 512, 1, math, {}};
    return *found = 2, 0;
}
int cudnnGetConvolutionForwardAlgorithm_v7(void *, void *, void *, void *window, void *, int asked, int *found, Performance *results) {
    return algorithms(window, asked, found, results);
}
int cudnnGetConvolutionBackwardDataAlgorithm_v7(void *, void *, void *, void *window, void *, int asked, int *found, Performance *results) {
    return algorithms(window, asked, found, results);
}
int cudnnGetConvolutionBackwardFilterAlgorithm_v7(void *, void *, void *, void *window, void *, int asked, int *found, Performance *results) {
    return algorithms(window, asked, found, results);
}
// f(place in y, place in x, place in w) for every product of a convolution.
extern "C++" {
template <typename F> void products(Tensor x, Tensor w, Tensor y, Window s, F f) {
    if (x.format != w.format || w.format != y.format) refuse("a convolution of several formats");
    if (x.format == Format::f32 ? s.math != 3 && s.math != 0 : s.math != 1) refuse("tensor cores for f32, or none for 16 bits");
    if (x.n != y.n || w.c != x.c || w.n != y.c) refuse("a convolution of tensors that do not fit");
    if ((x.h + 2 * s.ph - w.h) / s.sh + 1 != y.h || (x.w + 2 * s.pw - w.w) / s.sw + 1 != y.w) refuse("a convolution of another extent");
    for (int n = 0; n < y.n; n++)
        for (int h = 0; h < y.h; h++)
            for (int v = 0; v < y.w; v++)
                for (int a = 0; a < w.h; a++)
                    for (int b = 0; b < w.w; b++) {
                        const int i = h * s.sh + a - s.ph, j = v * s.sw + b - s.pw;
                        if (i < 0 || j < 0 || i >= x.h || j >= x.w) continue;
                        for (int o = 0; o < y.c; o++)
                            for (int c = 0; c < x.c; c++)
                                f(((size_t)(n * y.h + h) * y.w + v) * y.c + o, ((size_t)(n * x.h + i) * x.w + j) * x.c + c,
                                  ((size_t)(o * w.h + a) * w.w + b) * w.c + c);
                    }
}
}
static size_t elements(Tensor t) { return (size_t)t.n * t.c * t.h * t.w; }
static void plain(const void *alpha, const void *beta, int algorithm, void *aside, size_t bytes) {
    if (*(const float *)alpha != 1 || *(const float *)beta != 0) refuse("a convolution that is scaled");
    if (algorithm != 1) refuse("an algorithm that gives other bits every time");
    if (!aside || bytes != 512) refuse("a convolution without its workspace");
}
int cudnnConvolutionForward(void *, const void *alpha, void *dx, const void *x, void *dw, const void *w, void *window, int algorithm, void *aside,
                            size_t bytes, const void *beta, void *dy, void *y) {
    plain(alpha, beta, algorithm, aside, bytes);
    const Tensor tx = *(Tensor *)dx, tw = *(Tensor *)dw, ty = *(Tensor *)dy;
    const Window s = *(Window *)window;
    return launched([=] {
        std::vector<float> sums(elements(ty));
        products(tx, tw, ty, s, [&](size_t i, size_t j, size_t k) { sums[i] += get(tx.format, x, j) * get(tw.format, w, k); });
        for (size_t i = 0; i < sums.size(); i++) set(ty.format, y, i, sums[i]);
    });
}
int cudnnConvolutionBackwardData(void *, const void *alpha, void *dw, const void *w, void *dy, const void *y, void *window, int algorithm, void *aside,
                                 size_t bytes, const void *beta, void *dx, void *x) {
    plain(alpha, beta, algorithm, aside, bytes);
    const Tensor tx = *(Tensor *)dx, tw = *(Tensor *)dw, ty = *(Tensor *)dy;
    const Window s = *(Window *)window;
    return launched([=] {
        std::vector<float> sums(elements(tx));
        products(tx, tw, ty, s, [&](size_t i, size_t j, size_t k) { sums[j] += get(ty.format, y, i) * get(tw.format, w, k); });
        for (size_t i = 0; i < sums.size(); i++) set(tx.format, x, i, sums[i]);
    });
}
int cudnnConvolutionBackwardFilter(void *, const void *alpha, void *dx, const void *x, void *dy, const void *y, void *window, int algorithm,
                                   void *aside, size_t bytes, const void *beta, void *dw, void *w) {
    plain(alpha, beta, algorithm, aside, bytes);
    const Tensor tx = *(Tensor *)dx, tw = *(Tensor *)dw, ty = *(Tensor *)dy;
    const Window s = *(Window *)window;
    return launched([=] {
        std::vector<float> sums(elements(tw));
        products(tx, tw, ty, s, [&](size_t i, size_t j, size_t k) { sums[k] += get(ty.format, y, i) * get(tx.format, x, j); });
        for (size_t i = 0; i < sums.size(); i++) set(tw.format, w, i, sums[i]);
    });
}
}
