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
#define __launch_bounds__(...)

using std::min;

struct Index {
    unsigned x = 0, y = 0, z = 0;
};
static Index threadIdx, blockIdx, blockDim, gridDim;

static inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
static inline float __int_as_float(int x) { return std::bit_cast<float>(x); }

// Conversions are calls on most machines.
static const struct Halves {
    float number[1 << 16];
    Halves() {
        for (int i = 0; i < 1 << 16; i++) number[i] = (float)std::bit_cast<_Float16>((unsigned short)i);
    }
} halves;
static inline float from_half(unsigned short bits) { return halves.number[bits]; }
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
// A fibre waits for its block, or votes: waits for its warp.
enum class State : char { resting, running, waiting, voting };
struct Fibre {
    jmp_buf at;
    bool begun = false;
};
static Fibre fibres[threads];
static State states[threads];
alignas(64) static char stacks[threads][stack];
static jmp_buf scheduler;
static int current;
static void (*body)(void *);
static void *argument;

[[noreturn, gnu::noinline]] static void back() { _longjmp(scheduler, 1); }

// A fibre's whole life: a block's work, again and again.
[[gnu::noinline]] static void live() {
    for (;;) {
        body(argument);
        states[current] = State::resting;
        if (!_setjmp(fibres[current].at)) back();
    }
}

[[gnu::noinline]] static void resume(int i) {
    Fibre &f = fibres[i];
    states[i] = State::running;
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

static int in(State state, int first, int n) {
    int found = 0;
    for (int i = first; i < first + n; i++) found += states[i] == state;
    return found;
}

static void block(int order) {
    // First all begin; then those go on that voted, or, if none did, those that wait.
    for (State next = State::resting;;) {
        for (int i = 0; i < threads; i++) {
            const int fibre = (int)nth(i, threads, order);
            if (states[fibre] == next) resume(fibre);
        }
        const int voting = in(State::voting, 0, threads), waiting = in(State::waiting, 0, threads);
        if (!voting && !waiting) return;
        for (int warp = 0; warp < threads; warp += 32) {
            const int own = in(State::voting, warp, 32);
            if (own % 32) {
                std::fprintf(stderr, "only %d of a warp's threads vote\n", own);
                std::abort();
            }
        }
        if (!voting && waiting != threads) {
            std::fprintf(stderr, "only %d of %d threads reach a barrier\n", waiting, threads);
            std::abort();
        }
        next = voting ? State::voting : State::waiting;
    }
}

[[gnu::noinline]] static void wait(State state) {
    states[current] = state;
    if (!_setjmp(fibres[current].at)) back();
}

// What the threads of a warp give, once all of them have. There are two places, as one thread may come again before another has read.
template <typename T> struct Given {
    const T *all;
    // Which of those that there are at once.
    int slot;
};
template <typename T> static Given<T> exchange(const T &own) {
    static T all[2][threads];
    static unsigned char turn[threads];
    const int place = turn[current] ^= 1, warp = current / 32;
    all[place][current] = own;
    wait(State::voting);
    return {all[place] + warp * 32, place * (threads / 32) + warp};
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

static inline void __syncthreads() { host::wait(host::State::waiting); }

static inline unsigned __ballot_sync(unsigned, bool own) {
    const bool *all = host::exchange(own).all;
    unsigned word = 0;
    for (int i = 0; i < 32; i++) word |= (unsigned)all[i] << i;
    return word;
}

// What a warp's tensor cores do: the layouts are those of PTX's ldmatrix and mma.m16n8k16.
template <bool turned, int times, typename Row> static inline void load_tiles(unsigned (&r)[times][4], const Row *const (&rows)[times]) {
    struct Rows {
        const Row *at[times];
    } own;
    std::copy(rows, rows + times, own.at);
    const Rows *all = host::exchange(own).all;
    const int lane = host::current % 32;
    for (int i = 0; i < times; i++) {
        for (int tile = 0; tile < 4; tile++) {
            unsigned short pair[2];
            for (int e = 0; e < 2; e++) {
                const int across = lane % 4 * 2 + e, down = lane / 4;
                pair[e] = ((const unsigned short *)all[tile * 8 + (turned ? across : down)].at[i])[turned ? down : across];
            }
            r[i][tile] = pair[0] | (unsigned)pair[1] << 16;
        }
    }
}
template <bool brain, int tiles_m, int pairs_n>
static inline void multiply_tiles(float (&c)[tiles_m][2 * pairs_n][4], const unsigned (&a)[tiles_m][4], const unsigned (&b)[pairs_n][4]) {
    struct Fragments {
        float a[tiles_m][8], b[2 * pairs_n][4];
    } own;
    const auto number = [](unsigned pair, int e) {
        const unsigned short bits = (unsigned short)(pair >> (16 * e));
        return brain ? __int_as_float((int)((unsigned)bits << 16)) : from_half(bits);
    };
    for (int i = 0; i < 8 * tiles_m; i++) own.a[i / 8][i % 8] = number(a[i / 8][i % 8 / 2], i % 2);
    for (int i = 0; i < 8 * pairs_n; i++) own.b[i / 4][i % 4] = number(b[i / 8][i % 8 / 2], i % 2);
    const auto [all, slot] = host::exchange(own);
    // The first thread to go on multiplies for all.
    typedef float Row __attribute__((vector_size(32)));
    static Row products[2 * host::threads / 32][tiles_m][2 * pairs_n][16];
    static unsigned long long times[host::threads], made[2 * host::threads / 32];
    if (++times[host::current] != made[slot]) {
        made[slot] = times[host::current];
        for (int j = 0; j < 2 * pairs_n; j++) {
            Row rows[16];
            for (int k = 0; k < 16; k++) {
                for (int n = 0; n < 8; n++) rows[k][n] = all[n * 4 + k % 8 / 2].b[j][k / 8 * 2 + k % 2];
            }
            for (int i = 0; i < tiles_m; i++) {
                for (int m = 0; m < 16; m++) {
                    Row sum = {};
                    for (int k = 0; k < 16; k++) sum += all[m % 8 * 4 + k % 8 / 2].a[i][m / 8 * 2 + k / 8 * 4 + k % 2] * rows[k];
                    products[slot][i][j][m] = sum;
                }
            }
        }
    }
    const int lane = host::current % 32;
    for (int i = 0; i < tiles_m; i++) {
        for (int j = 0; j < 2 * pairs_n; j++) {
            for (int e = 0; e < 4; e++) c[i][j][e] += products[slot][i][j][lane / 4 + e / 2 * 8][lane % 4 * 2 + e % 2];
        }
    }
}
