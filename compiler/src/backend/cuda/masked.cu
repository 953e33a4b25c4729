// Numbers summed where there is a spike: d[m, n] = sum of b[k, n] over all k with a spike at [m, k]. A block computes a tile of d for a
// part of the terms. Some matrices of spikes side by side.
struct Masked {
    const unsigned char *a;
    const unsigned short *b;
    float *d;
    // The first bit; rows, columns, terms of the innermost loop, and the other loops over terms.
    long long bit, m, n, k, outer[4];
    // Distances: in a of rows, terms and outer loops; in b of columns, terms and outer loops; in d of rows, columns and parts.
    long long a_m, a_k, a_outer[4], b_n, b_k, b_outer[4], d_m, d_n, d_next;
    long long parts;
    // So many numbers of b lie side by side at a multiple of as many.
    long long run;
    long long first;
};

// Eight numbers of 16 bits.
struct alignas(16) Eight {
    unsigned pairs[4];
};

#ifdef __CUDACC__
// Four tiles of 8 x 8 numbers of 16 bits, some times: each thread says where a row lies, and gets two numbers of each tile.
template <bool turned, int times> __device__ inline void load_tiles(unsigned (&r)[times][4], const Eight *const (&rows)[times]) {
    #pragma unroll
    for (int i = 0; i < times; i++) {
        const unsigned at = (unsigned)__cvta_generic_to_shared(rows[i]);
        if (turned)
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                         : "=r"(r[i][0]), "=r"(r[i][1]), "=r"(r[i][2]), "=r"(r[i][3]) : "r"(at) : "memory");
        else
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                         : "=r"(r[i][0]), "=r"(r[i][1]), "=r"(r[i][2]), "=r"(r[i][3]) : "r"(at) : "memory");
    }
}
// c += a b, tiles of 16 x 8 from 16 x 16 and 16 x 8, two of the last side by side.
template <bool brain, int tiles_m, int pairs_n>
__device__ inline void multiply_tiles(float (&c)[tiles_m][2 * pairs_n][4], const unsigned (&a)[tiles_m][4], const unsigned (&b)[pairs_n][4]) {
    #pragma unroll
    for (int i = 0; i < tiles_m; i++)
        #pragma unroll
        for (int j = 0; j < 2 * pairs_n; j++) {
            float (&d)[4] = c[i][j];
            const unsigned (&x)[4] = a[i], *y = &b[j / 2][j % 2 * 2];
            if (brain)
                asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                             : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
            else
                asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                             : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
        }
}
#endif

// As many bits as are valid, of up to eight, from a bit on.
__device__ inline unsigned eight_bits(const unsigned char *a, long long bit, int valid) {
    if (valid <= 0) return 0;
    const unsigned char *at = a + (bit >> 3);
    const int shift = (int)(bit & 7);
    unsigned x = at[0];
    if (shift + valid > 8) x |= (unsigned)at[1] << 8;
    return x >> shift & ((1u << valid) - 1);
}
// The numbers of eight bits.
template <bool brain> __device__ inline Eight spread(unsigned bits) {
    const unsigned one = brain ? 0x3f80 : 0x3c00;
    Eight out;
    #pragma unroll
    for (int i = 0; i < 4; i++) out.pairs[i] = (bits >> (2 * i) & 1) * one | (bits >> (2 * i + 1) & 1) * (one << 16);
    return out;
}
// As many numbers as are valid, of up to eight, from here on.
__device__ inline Eight eight_numbers(const unsigned short *b, int valid, int run) {
    Eight out = {{0, 0, 0, 0}};
    if (valid >= 8 && run == 8) return *(const Eight *)b;
    if (valid >= 8 && run >= 2) {
        #pragma unroll
        for (int i = 0; i < 4; i++) out.pairs[i] = ((const unsigned *)b)[i];
        return out;
    }
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        if (i < valid) out.pairs[i / 2] |= (unsigned)b[i] << (i % 2 * 16);
    }
    return out;
}
__device__ inline int at_most_eight(long long n) { return n < 0 ? 0 : n > 8 ? 8 : (int)n; }

// `along`: terms lie side by side in a and b, otherwise rows of a and columns of b do. Tiles in shared memory lie as they do in memory, each row
// with eight numbers to spare, so that rows begin in different banks.
template <bool brain, bool along, int tile> __device__ inline void masked(const Masked *all, const int count) {
    constexpr int terms = 32, chunks = tile * terms / 8 / 256;
    constexpr int in_row = (along ? terms : tile) / 8, row_size = in_row + 1, rows = along ? tile : terms;
    // Eight warps: two by four, each with a part of the tile of its own.
    constexpr int warp_m = tile / 2, warp_n = tile / 4, tiles_m = warp_m / 16, tiles_n = warp_n / 8;
    __shared__ Eight a_tile[2][rows * row_size];
    __shared__ Eight b_tile[2][rows * row_size];
    const Masked &s = all[entry(all, count)];
    const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
    const long long block = blockIdx.x - s.first, across = (s.n + tile - 1) / tile, whole = (s.m + tile - 1) / tile * across;
    const long long part = block / whole, m0 = block % whole / across * tile, n0 = block % whole % across * tile;
    const long long inner = (s.k + terms - 1) / terms, steps = inner * s.outer[0] * s.outer[1] * s.outer[2] * s.outer[3];
    const long long from = part * steps / s.parts, to = (part + 1) * steps / s.parts;
    // Where the terms of the next tile are.
    long long k0 = from % inner * terms, rest = from / inner, a_at = s.bit, b_at = 0, loops[4];
    #pragma unroll
    for (int i = 3; i >= 0; i--) {
        loops[i] = rest % s.outer[i];
        rest /= s.outer[i];
        a_at += loops[i] * s.a_outer[i];
        b_at += loops[i] * s.b_outer[i];
    }
    unsigned a_next[chunks];
    Eight b_next[chunks];
    const auto load = [&] {
        #pragma unroll
        for (int c = 0; c < chunks; c++) {
            const int chunk = tid + c * 256, row = chunk / in_row, column = chunk % in_row * 8;
            if (along) {
                const int left = at_most_eight(s.k - k0 - column);
                a_next[c] = eight_bits(s.a, a_at + (m0 + row) * s.a_m + k0 + column, m0 + row < s.m ? left : 0);
                b_next[c] = eight_numbers(s.b + b_at + (n0 + row) * s.b_n + k0 + column, n0 + row < s.n ? left : 0, (int)s.run);
            } else {
                const bool there = k0 + row < s.k;
                a_next[c] = eight_bits(s.a, a_at + (k0 + row) * s.a_k + m0 + column, there ? at_most_eight(s.m - m0 - column) : 0);
                b_next[c] = eight_numbers(s.b + b_at + (k0 + row) * s.b_k + n0 + column, there ? at_most_eight(s.n - n0 - column) : 0, (int)s.run);
            }
        }
        k0 += terms;
        if (k0 < s.k) return;
        k0 = 0;
        #pragma unroll
        for (int i = 3; i >= 0; i--) {
            a_at += s.a_outer[i];
            b_at += s.b_outer[i];
            if (++loops[i] < s.outer[i]) return;
            a_at -= loops[i] * s.a_outer[i];
            b_at -= loops[i] * s.b_outer[i];
            loops[i] = 0;
        }
    };
    const auto keep = [&](int where) {
        #pragma unroll
        for (int c = 0; c < chunks; c++) {
            const int chunk = tid + c * 256, at = chunk / in_row * row_size + chunk % in_row;
            a_tile[where][at] = spread<brain>(a_next[c]);
            b_tile[where][at] = b_next[c];
        }
    };
    float sums[tiles_m][tiles_n][4];
    #pragma unroll
    for (int i = 0; i < tiles_m; i++)
        #pragma unroll
        for (int j = 0; j < tiles_n; j++)
            #pragma unroll
            for (int e = 0; e < 4; e++) sums[i][j][e] = 0.0f;
    const int m_own = warp / 4 * warp_m, n_own = warp % 4 * warp_n, which = lane >> 3, row = lane & 7;
    if (from < to) {
        load();
        keep(0);
    }
    __syncthreads();
    for (long long step = from; step < to; step++) {
        const int now = (int)((step - from) & 1);
        if (step + 1 < to) load();
        #pragma unroll
        for (int k = 0; k < terms; k += 16) {
            unsigned a[tiles_m][4], b[tiles_n / 2][4];
            const Eight *a_rows[tiles_m], *b_rows[tiles_n / 2];
            #pragma unroll
            for (int i = 0; i < tiles_m; i++) {
                const int m = m_own + i * 16 + which % 2 * 8, term = k + which / 2 * 8;
                a_rows[i] = &a_tile[now][along ? (m + row) * row_size + term / 8 : (term + row) * row_size + m / 8];
            }
            #pragma unroll
            for (int j = 0; j < tiles_n / 2; j++) {
                const int n = n_own + j * 16 + which / 2 * 8, term = k + which % 2 * 8;
                b_rows[j] = &b_tile[now][along ? (n + row) * row_size + term / 8 : (term + row) * row_size + n / 8];
            }
            load_tiles<!along>(a, a_rows);
            load_tiles<!along>(b, b_rows);
            multiply_tiles<brain>(sums, a, b);
        }
        if (step + 1 < to) keep(1 - now);
        __syncthreads();
    }
    float *const d = s.d + part * s.d_next;
    #pragma unroll
    for (int i = 0; i < tiles_m; i++)
        #pragma unroll
        for (int j = 0; j < tiles_n; j++)
            #pragma unroll
            for (int e = 0; e < 4; e++) {
                const long long m = m0 + m_own + i * 16 + lane / 4 + e / 2 * 8, n = n0 + n_own + j * 8 + lane % 4 * 2 + e % 2;
                if (m < s.m && n < s.n) d[m * s.d_m + n * s.d_n] = sums[i][j][e];
            }
}
