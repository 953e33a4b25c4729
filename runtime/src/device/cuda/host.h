// CUDA's built-ins on the host, as far as generated kernels use them. A block's threads are fibres: each runs until it reaches a
// barrier, in an order that the caller chooses, so that what hangs on the order shows. One block runs at a time.
#include <algorithm>
#include <bit>
#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <ucontext.h>

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(threads)

using std::min;

struct Index {
    unsigned x = 0, y = 0, z = 0;
};
static Index threadIdx, blockIdx, blockDim, gridDim;

static inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
static inline float __int_as_float(int x) { return std::bit_cast<float>(x); }

static inline float from_half(unsigned short bits) { return (float)std::bit_cast<_Float16>(bits); }
static inline unsigned short to_half(float x) { return std::bit_cast<unsigned short>((_Float16)x); }
// To the nearest, to even where two are as near; what is not a number stays none.
static inline unsigned short to_brain(float x) {
    const unsigned bits = std::bit_cast<unsigned>(x);
    return x != x ? 0x7fc0 : (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
static inline void __threadfence() {}
static inline unsigned atomicAdd(unsigned *at, unsigned by) { return (*at += by) - by; }

namespace host {
constexpr int threads = 256;
constexpr int stack = 1 << 16;
enum class State { resting, running, waiting };
struct Fibre {
    State state = State::resting;
    jmp_buf at;
    bool begun = false;
};
static Fibre fibres[threads];
alignas(64) static char stacks[threads][stack];
static jmp_buf scheduler;
static int current;
static void (*body)(void *);
static void *argument;

[[noreturn]] static void back() { _longjmp(scheduler, 1); }

// A fibre's whole life: a block's work, again and again.
static void live() {
    for (;;) {
        body(argument);
        fibres[current].state = State::resting;
        if (!_setjmp(fibres[current].at)) back();
    }
}

static void resume(int i) {
    Fibre &f = fibres[i];
    f.state = State::running;
    threadIdx.x = current = i;
    if (_setjmp(scheduler)) return;
    if (f.begun) _longjmp(f.at, 1);
    f.begun = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = stacks[i];
    context.uc_stack.ss_size = stack;
    context.uc_link = nullptr;
    makecontext(&context, live, 0);
    setcontext(&context);
    std::abort();
}

// The i-th of n in an order: as they are, the last first, or stirred.
static unsigned nth(unsigned i, unsigned n, int order) {
    if (order == 0) return i;
    if (order == 1) return n - 1 - i;
    unsigned step = (2654435761u * (unsigned)order) % n | 1;
    while (std::__gcd(step, n) != 1) step += 2;
    return (unsigned)(((unsigned long long)i * step + (unsigned)order) % n);
}

static void block(int order) {
    for (;;) {
        int waiting = 0;
        for (int i = 0; i < threads; i++) {
            resume((int)nth(i, threads, order));
            waiting += fibres[current].state == State::waiting;
        }
        if (!waiting) return;
        if (waiting != threads) {
            std::fprintf(stderr, "only %d of %d threads reach a barrier\n", waiting, threads);
            std::abort();
        }
    }
}

template <typename F> static void grid(unsigned blocks, int order, bool barriers, F f) {
    gridDim.x = blocks;
    blockDim.x = threads;
    argument = &f;
    body = [](void *f) { (*(F *)f)(); };
    for (unsigned b = 0; b < blocks; b++) {
        blockIdx.x = nth(b, blocks, order);
        if (barriers) {
            block(order);
            continue;
        }
        for (int i = 0; i < threads; i++) {
            threadIdx.x = nth(i, threads, order);
            f();
        }
    }
    argument = nullptr;
}
}  // namespace host

static inline void __syncthreads() {
    host::Fibre &f = host::fibres[host::current];
    f.state = host::State::waiting;
    if (!_setjmp(f.at)) host::back();
}
