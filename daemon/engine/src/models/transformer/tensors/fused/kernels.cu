// The kernels of a step in which every sequence goes on by one token: mod.rs says in which order.
//
// Enters: addresses on the card, sizes. Leaves: numbers at addresses. Never here: memory that is asked for, or a launch that waits
// for another but in the order of its stream. The same lines run on a processor, thread by thread, in tests/fused.rs.
//
// The stream of residuals is f32 throughout; weights are f32, brain floats or blocks; keys and values are halves, in the pages of pages.rs.

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define DYNAMIC extern __shared__ __align__(16) float dynamic[]
#else
#include "emulate.h"
#endif

typedef unsigned int u32;
typedef __nv_bfloat16 bf16;

// Positions of a page.
constexpr u32 PAGE = 32;
// What a row that is only there to fill its bucket has as its past.
constexpr u32 NOBODY = 0xffffffffu;
// Lanes of a warp.
constexpr u32 WARP = 32;
constexpr u32 ALL = 0xffffffffu;
// The largest half.
constexpr float MOST = 65504.0f;

__device__ __forceinline__ float warp_sum(float x) {
    for (u32 offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL, x, offset);
    return x;
}

__device__ __forceinline__ float warp_most(float x) {
    for (u32 offset = WARP / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(ALL, x, offset));
    return x;
}

// Blocks of a few bits, as ggml lays them out; all of its numbers are little-endian.
struct q8_0 {
    static constexpr u32 NUMBERS = 32;
    __half scale;
    signed char values[32];
};
struct q4_k {
    static constexpr u32 NUMBERS = 256;
    __half scale, least;
    // Six bits of a scale and six of a least for each 32.
    unsigned char scales[12];
    unsigned char values[128];
};
struct q6_k {
    static constexpr u32 NUMBERS = 256;
    // Four bits of each number, two more, and a scale for each 16.
    unsigned char low[128], high[64];
    signed char scales[16];
    __half scale;
};
static_assert(sizeof(q8_0) == 34 && sizeof(q4_k) == 144 && sizeof(q6_k) == 210, "ggml's sizes");

// Eight bytes that lie at an even address.
__device__ __forceinline__ void bytes(const void *from, u32 to[8]) {
    const unsigned short *at = static_cast<const unsigned short *>(from);
    for (u32 i = 0; i < 4; i++) {
        to[2 * i] = at[i] & 0xffu;
        to[2 * i + 1] = at[i] >> 8;
    }
}

// Eight numbers of a line, of which the first is a multiple of eight.
__device__ __forceinline__ void eight(const float *line, u32 first, float to[8]) {
    const float4 *at = reinterpret_cast<const float4 *>(line + first);
    const float4 a = at[0], b = at[1];
    to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w, to[4] = b.x, to[5] = b.y, to[6] = b.z, to[7] = b.w;
}

__device__ __forceinline__ void eight(const bf16 *line, u32 first, float to[8]) {
    const uint4 at = *reinterpret_cast<const uint4 *>(line + first);
    const u32 words[4] = {at.x, at.y, at.z, at.w};
    // A brain float is the upper half of a float.
    for (u32 i = 0; i < 4; i++) {
        to[2 * i] = __uint_as_float(words[i] << 16);
        to[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
}

__device__ __forceinline__ void eight(const q8_0 *line, u32 first, float to[8]) {
    const q8_0 &block = line[first / q8_0::NUMBERS];
    const float scale = __half2float(block.scale);
    u32 values[8];
    bytes(block.values + first % q8_0::NUMBERS, values);
    for (u32 i = 0; i < 8; i++) to[i] = scale * static_cast<float>(static_cast<signed char>(values[i]));
}

__device__ __forceinline__ void eight(const q4_k *line, u32 first, float to[8]) {
    const q4_k &block = line[first / q4_k::NUMBERS];
    const u32 at = first % q4_k::NUMBERS, group = at / 32;
    const unsigned char *packed = block.scales;
    u32 scale, least;
    if (group < 4) {
        scale = packed[group] & 63u;
        least = packed[group + 4] & 63u;
    } else {
        scale = (packed[group + 4] & 15u) | (packed[group - 4] >> 6 << 4);
        least = (packed[group + 4] >> 4) | (packed[group] >> 6 << 4);
    }
    const float times = __half2float(block.scale) * static_cast<float>(scale);
    const float less = __half2float(block.least) * static_cast<float>(least);
    u32 values[8];
    bytes(block.values + at / 64 * 32 + at % 32, values);
    for (u32 i = 0; i < 8; i++) to[i] = times * static_cast<float>(values[i] >> (group % 2 * 4) & 15u) - less;
}

__device__ __forceinline__ void eight(const q6_k *line, u32 first, float to[8]) {
    const q6_k &block = line[first / q6_k::NUMBERS];
    const u32 at = first % q6_k::NUMBERS, half = at / 128, quarter = at % 128 / 32, in = at % 32;
    const float scale = __half2float(block.scale) * static_cast<float>(block.scales[at / 16]);
    u32 low[8], high[8];
    bytes(block.low + 64 * half + 32 * (quarter % 2) + in, low);
    bytes(block.high + 32 * half + in, high);
    for (u32 i = 0; i < 8; i++) {
        const u32 value = (low[i] >> (quarter / 2 * 4) & 15u) | (high[i] >> (2 * quarter) & 3u) << 4;
        to[i] = scale * (static_cast<float>(value) - 32.0f);
    }
}

// Where a line of a matrix begins.
__device__ __forceinline__ const float *line_of(const float *weight, u32 line, u32 inputs) {
    return weight + static_cast<size_t>(line) * inputs;
}
__device__ __forceinline__ const bf16 *line_of(const bf16 *weight, u32 line, u32 inputs) {
    return weight + static_cast<size_t>(line) * inputs;
}
template <typename Q>
__device__ __forceinline__ const Q *line_of(const Q *weight, u32 line, u32 inputs) {
    return weight + static_cast<size_t>(line) * (inputs / Q::NUMBERS);
}

__device__ __forceinline__ float as_float(float x) { return x; }
__device__ __forceinline__ float as_float(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void store(float *to, float x) { *to = x; }
__device__ __forceinline__ void store(bf16 *to, float x) { *to = __float2bfloat16(x); }

__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }

// So many halves that lie beside each other, at once.
template <u32 V>
__device__ __forceinline__ void halves(const __half *from, __half *to) {
    if constexpr (V == 8) *reinterpret_cast<uint4 *>(to) = *reinterpret_cast<const uint4 *>(from);
    if constexpr (V == 4) *reinterpret_cast<uint2 *>(to) = *reinterpret_cast<const uint2 *>(from);
    if constexpr (V == 2) *reinterpret_cast<u32 *>(to) = *reinterpret_cast<const u32 *>(from);
}

// The sum over a block of up to 32 warps, known to all of its threads.
__device__ __forceinline__ float block_sum(float x) {
    __shared__ float sums[WARP];
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    x = warp_sum(x);
    // Whoever asked before may still be reading.
    __syncthreads();
    if (lane == 0) sums[warp] = x;
    __syncthreads();
    return warp_sum(lane < blockDim.x / WARP ? sums[lane] : 0.0f);
}

// The largest of a block of up to 32 warps, likewise.
__device__ __forceinline__ float block_most(float x) {
    __shared__ float most[WARP];
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    x = warp_most(x);
    if (lane == 0) most[warp] = x;
    __syncthreads();
    return warp_most(lane < blockDim.x / WARP ? most[lane] : -INFINITY);
}

// What a row is multiplied with so that its mean square is one (RMSNorm, Zhang & Sennrich 2019).
__device__ __forceinline__ float root_scale(const float *row, u32 width, float epsilon) {
    float squares = 0.0f;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) squares += row[i] * row[i];
    return rsqrtf(block_sum(squares) / width + epsilon);
}

// [rows] tokens to [rows][width].
template <typename W>
__device__ __forceinline__ void embed(const W *table, const u32 *tokens, float *stream, u32 width) {
    const W *from = table + static_cast<size_t>(tokens[blockIdx.x]) * width;
    float *to = stream + static_cast<size_t>(blockIdx.x) * width;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) to[i] = as_float(from[i]);
}

// [rows][width], each row normalised.
template <typename X>
__device__ __forceinline__ void norm(const float *stream, const float *gain, X *out, u32 width, float epsilon) {
    const size_t row = static_cast<size_t>(blockIdx.x) * width;
    const float scale = root_scale(stream + row, width, epsilon);
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) store(out + row + i, stream[row + i] * scale * gain[i]);
}

// What becomes of a product.
enum Becomes : u32 { SET, ADD, GATE };

// A matrix [outputs][inputs] times ROWS rows, for so few rows that reading it is all there is to do: each warp reads two of its
// lines. Those are neighbours; with GATE a line of the gate and its own of the other half: silu of the one times the other.
// With a gain, the rows are normalised first. What comes out lies from `column` on in rows of `stride`.
template <typename W, u32 ROWS>
__device__ __forceinline__ void lines(const W *weight, const float *rows, const float *gain, float epsilon, float *out, u32 inputs,
                                      u32 outputs, u32 stride, u32 column, u32 mode) {
    DYNAMIC;
    if (gain != nullptr) {
        for (u32 row = 0; row < ROWS; row++) {
            const float *from = rows + static_cast<size_t>(row) * inputs;
            const float scale = root_scale(from, inputs, epsilon);
            for (u32 i = threadIdx.x; i < inputs; i += blockDim.x) dynamic[row * inputs + i] = from[i] * scale * gain[i];
        }
        __syncthreads();
        rows = dynamic;
    }
    const u32 lane = threadIdx.x % WARP;
    const u32 index = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    const u32 half = outputs / 2;
    const u32 first = mode == GATE ? index : 2 * index;
    const u32 second = mode == GATE ? index + half : min(2 * index + 1, outputs - 1);
    if (first >= (mode == GATE ? half : outputs)) return;
    const W *a = line_of(weight, first, inputs), *b = line_of(weight, second, inputs);
    float sums[2][ROWS] = {};
#pragma unroll 2
    for (u32 at = 8 * lane; at < inputs; at += 8 * WARP) {
        float left[8], right[8];
        eight(a, at, left);
        eight(b, at, right);
#pragma unroll
        for (u32 row = 0; row < ROWS; row++) {
            float x[8];
            eight(rows + static_cast<size_t>(row) * inputs, at, x);
#pragma unroll
            for (u32 i = 0; i < 8; i++) {
                sums[0][row] += left[i] * x[i];
                sums[1][row] += right[i] * x[i];
            }
        }
    }
#pragma unroll
    for (u32 row = 0; row < ROWS; row++) {
        const float one = warp_sum(sums[0][row]), two = warp_sum(sums[1][row]);
        if (lane != 0) continue;
        float *to = out + static_cast<size_t>(row) * stride + column;
        if (mode == GATE) {
            to[first] = silu(one) * two;
            continue;
        }
        to[first] = mode == ADD ? to[first] + one : one;
        if (second != first) to[second] = mode == ADD ? to[second] + two : two;
    }
}

// One number of a head of `qkv`, with its bias, turned by its row's position (RoFormer, Su et al. 2021).
__device__ __forceinline__ float turned(const float *head, const float *bias, const float *cos, const float *sin, u32 i, u32 dim,
                                        bool adjacent) {
    const u32 half = dim / 2;
    const bool second = adjacent ? i % 2 == 1 : i >= half;
    const u32 pair = adjacent ? i / 2 : i % half;
    const u32 other = adjacent ? i ^ 1u : (second ? i - half : i + half);
    const float x = head[i] + (bias != nullptr ? bias[i] : 0.0f);
    const float y = head[other] + (bias != nullptr ? bias[other] : 0.0f);
    return second ? y * sin[pair] + x * cos[pair] : x * cos[pair] - y * sin[pair];
}

__device__ __forceinline__ __half kept(float x) { return __float2half(fminf(fmaxf(x, -MOST), MOST)); }

// Queries that one block looks at: those that share keys and values, eight at a time.
constexpr u32 QUERIES = 8;
// Positions between two looks at the largest score.
constexpr u32 TILE = 64;
// Threads, of which so many look at one position together.
constexpr u32 THREADS = 128;
constexpr u32 TOGETHER = 8;
// Pairs of numbers of a value that a thread may have to add up: heads of up to 512.
constexpr u32 PAIRS = 2;

// Attention of [rows][heads + 2 kv_heads][dim] to what is in the pages, and to the row itself, which is written there. Each block
// takes one row, up to QUERIES heads that share keys and values, and one of `gridDim.z` parts of the past (FlashDecoding, Dao et
// al. 2023). Leaves sums that are not yet divided, and of each the largest score and the sum of weights. `steps` says of each row how
// many positions it has behind it, which ranks are its adapter's, and in which pages the positions are.
template <u32 V>
__device__ __forceinline__ void attend(const float *qkv, const float *bias, const float *cosines, const float *sines, __half *keys,
                                       __half *values, const u32 *steps, u32 stride, float *partial, float *extremes, u32 heads,
                                       u32 kv_heads, u32 dim, u32 adjacent) {
    DYNAMIC;
    __shared__ float scores[QUERIES][TILE];
    __shared__ float most[QUERIES], total[QUERIES], rescale[QUERIES];
    __shared__ float parts[QUERIES * 2 * THREADS];
    float *queries = dynamic;
    float *own_key = queries + QUERIES * dim, *own_value = own_key + dim;

    const u32 shared = heads / kv_heads, chunks = (shared + QUERIES - 1) / QUERIES;
    const u32 kv = blockIdx.x / chunks, chunk = blockIdx.x % chunks;
    const u32 first = kv * shared + chunk * QUERIES, count = min(QUERIES, shared - chunk * QUERIES);
    const u32 row = blockIdx.y, split = blockIdx.z, thread = threadIdx.x;
    const u32 *step = steps + row * stride;
    const u32 past = step[0];
    const u32 *pages = step + 3;
    const size_t out = (static_cast<size_t>(row) * gridDim.z + split) * heads + first;

    const u32 length = past == NOBODY ? 0 : past + 1;
    const u32 share = (length + gridDim.z - 1) / gridDim.z;
    const u32 from = min(split * share, length), to = min(from + share, length);
    if (from == to) {
        if (thread < count) {
            extremes[2 * (out + thread)] = -INFINITY;
            extremes[2 * (out + thread) + 1] = 0.0f;
        }
        for (u32 i = thread; i < count * dim; i += THREADS) partial[out * dim + i] = 0.0f;
        return;
    }

    const float *cos = cosines + static_cast<size_t>(past) * (dim / 2), *sin = sines + static_cast<size_t>(past) * (dim / 2);
    const float *mine = qkv + static_cast<size_t>(row) * (heads + 2 * kv_heads) * dim;
    const float scale = rsqrtf(static_cast<float>(dim));
    for (u32 i = thread; i < count * dim; i += THREADS) {
        const u32 head = first + i / dim;
        const float *own = bias != nullptr ? bias + head * dim : nullptr;
        queries[i] = turned(mine + head * dim, own, cos, sin, i % dim, dim, adjacent != 0) * scale;
    }
    if (to == length) {
        const u32 key = (heads + kv) * dim, value = (heads + kv_heads + kv) * dim;
        const size_t slot = static_cast<size_t>(pages[past / PAGE]) * PAGE + past % PAGE;
        const size_t at = (slot * kv_heads + kv) * dim;
        for (u32 i = thread; i < dim; i += THREADS) {
            const float *own = bias != nullptr ? bias + key : nullptr;
            const __half k = kept(turned(mine + key, own, cos, sin, i, dim, adjacent != 0));
            const __half v = kept(mine[value + i] + (bias != nullptr ? bias[value + i] : 0.0f));
            own_key[i] = __half2float(k);
            own_value[i] = __half2float(v);
            // Of the blocks that know it, one writes it.
            if (chunk == 0) {
                keys[at + i] = k;
                values[at + i] = v;
            }
        }
    }
    if (thread < QUERIES) {
        most[thread] = -INFINITY;
        total[thread] = 0.0f;
    }
    __syncthreads();

    const u32 lane = thread % WARP, warp = thread / WARP;
    const u32 part = thread % TOGETHER;
    const u32 pairs = dim / 2, wide = min(pairs, THREADS), groups = THREADS / wide;
    const u32 group = thread / wide, pair = thread % wide;
    float sums[PAIRS][QUERIES][2] = {};
    for (u32 base = from; base < to; base += TILE) {
        const u32 here = min(TILE, to - base);
        // Eight threads multiply one key with all queries.
        for (u32 i = thread / TOGETHER; i < TILE; i += THREADS / TOGETHER) {
            const u32 position = base + i;
            float dots[QUERIES] = {};
            if (i < here) {
                const bool own = position == past;
                const size_t slot = static_cast<size_t>(pages[position / PAGE]) * PAGE + position % PAGE;
                const __half *key = keys + (slot * kv_heads + kv) * dim;
                for (u32 d = part * V; d < dim; d += TOGETHER * V) {
                    float k[V];
                    if (own) {
                        for (u32 j = 0; j < V; j++) k[j] = own_key[d + j];
                    } else {
                        __align__(2 * V) __half raw[V];
                        halves<V>(key + d, raw);
                        for (u32 j = 0; j < V; j++) k[j] = __half2float(raw[j]);
                    }
#pragma unroll
                    for (u32 q = 0; q < QUERIES; q++) {
                        if (q >= count) continue;
                        for (u32 j = 0; j < V; j++) dots[q] += queries[q * dim + d + j] * k[j];
                    }
                }
            }
#pragma unroll
            for (u32 q = 0; q < QUERIES; q++) {
                for (u32 offset = TOGETHER / 2; offset > 0; offset /= 2) dots[q] += __shfl_xor_sync(ALL, dots[q], offset);
                if (part == 0) scores[q][i] = i < here ? dots[q] : -INFINITY;
            }
        }
        __syncthreads();
        // Weights against the largest score so far (online softmax, Milakov & Gimelshein 2018).
        for (u32 q = warp; q < count; q += THREADS / WARP) {
            const float a = scores[q][lane], b = scores[q][lane + WARP];
            const float before = most[q], now = fmaxf(before, warp_most(fmaxf(a, b)));
            const float x = expf(a - now), y = expf(b - now), sum = warp_sum(x + y);
            scores[q][lane] = x;
            scores[q][lane + WARP] = y;
            __syncwarp();
            if (lane == 0) {
                rescale[q] = expf(before - now);
                total[q] = total[q] * rescale[q] + sum;
                most[q] = now;
            }
        }
        __syncthreads();
        // Each thread adds up two numbers of the values, of every so many positions.
        if (group < groups) {
#pragma unroll
            for (u32 turn = 0; turn < PAIRS; turn++) {
                const u32 at = pair + turn * wide;
                if (at >= pairs) continue;
#pragma unroll
                for (u32 q = 0; q < QUERIES; q++) {
                    if (q >= count) continue;
                    sums[turn][q][0] *= rescale[q];
                    sums[turn][q][1] *= rescale[q];
                }
                for (u32 i = group; i < here; i += groups) {
                    const u32 position = base + i;
                    float x = own_value[2 * at], y = own_value[2 * at + 1];
                    if (position != past) {
                        const size_t slot = static_cast<size_t>(pages[position / PAGE]) * PAGE + position % PAGE;
                        const __half2 raw = *reinterpret_cast<const __half2 *>(values + (slot * kv_heads + kv) * dim + 2 * at);
                        x = __low2float(raw);
                        y = __high2float(raw);
                    }
#pragma unroll
                    for (u32 q = 0; q < QUERIES; q++) {
                        if (q >= count) continue;
                        sums[turn][q][0] += scores[q][i] * x;
                        sums[turn][q][1] += scores[q][i] * y;
                    }
                }
            }
        }
        __syncthreads();
    }

    if (groups > 1) {
        // There is but one turn, and the groups hold parts of the same sums.
        for (u32 q = 0; q < QUERIES; q++) {
            parts[q * 2 * THREADS + 2 * thread] = sums[0][q][0];
            parts[q * 2 * THREADS + 2 * thread + 1] = sums[0][q][1];
        }
        __syncthreads();
        if (group == 0) {
            for (u32 q = 0; q < QUERIES; q++) {
                for (u32 other = 1; other < groups; other++) {
                    sums[0][q][0] += parts[q * 2 * THREADS + 2 * (other * wide + pair)];
                    sums[0][q][1] += parts[q * 2 * THREADS + 2 * (other * wide + pair) + 1];
                }
            }
        }
    }
    if (group == 0) {
#pragma unroll
        for (u32 turn = 0; turn < PAIRS; turn++) {
            const u32 at = pair + turn * wide;
            if (at >= pairs) continue;
#pragma unroll
            for (u32 q = 0; q < QUERIES; q++) {
                if (q >= count) continue;
                partial[(out + q) * dim + 2 * at] = sums[turn][q][0];
                partial[(out + q) * dim + 2 * at + 1] = sums[turn][q][1];
            }
        }
    }
    if (thread < count) {
        extremes[2 * (out + thread)] = most[thread];
        extremes[2 * (out + thread) + 1] = total[thread];
    }
}

// The parts of each head's past, put together: [rows][heads · dim].
template <typename X>
__device__ __forceinline__ void combine(const float *partial, const float *extremes, X *out, u32 splits, u32 dim) {
    const u32 head = blockIdx.x, heads = gridDim.x, row = blockIdx.y;
    const size_t first = static_cast<size_t>(row) * splits * heads + head;
    float most = -INFINITY, total = 0.0f;
    for (u32 split = 0; split < splits; split++) most = fmaxf(most, extremes[2 * (first + split * heads)]);
    for (u32 split = 0; split < splits; split++) {
        const float *own = extremes + 2 * (first + split * heads);
        if (own[1] > 0.0f) total += own[1] * expf(own[0] - most);
    }
    for (u32 i = threadIdx.x; i < dim; i += blockDim.x) {
        float sum = 0.0f;
        for (u32 split = 0; split < splits; split++) {
            const size_t at = first + split * heads;
            if (extremes[2 * at + 1] > 0.0f) sum += partial[at * dim + i] * expf(extremes[2 * at] - most);
        }
        store(out + (static_cast<size_t>(row) * heads + head) * dim + i, total > 0.0f ? sum / total : 0.0f);
    }
}

// [rows][2 · width] of gates and what they gate, to [rows][width].
template <typename X>
__device__ __forceinline__ void gate(const float *both, X *out, u32 width) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= width) return;
    const float *row = both + static_cast<size_t>(blockIdx.y) * 2 * width;
    store(out + static_cast<size_t>(blockIdx.y) * width + i, silu(row[i]) * row[width + i]);
}

// Ranks of an adapter at most, and matrices that take the same rows.
constexpr u32 RANKS = 64, MATRICES = 3;

// What each row's own adapter makes of it, a warp for each of its ranks. `pairs` says where both halves of all adapters of a matrix
// lie, [ranks][inputs] and [ranks][outputs]; 0: nobody adapts it (S-LoRA, Sheng et al. 2023).
template <typename X>
__device__ __forceinline__ void shrink(const X *rows, const unsigned long long *pairs, u32 matrix, const u32 *steps, u32 stride,
                                       float *low, u32 inputs) {
    const u32 *step = steps + blockIdx.y * stride;
    const u32 lane = threadIdx.x % WARP, rank = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    const __half *half = reinterpret_cast<const __half *>(pairs[2 * (matrix + blockIdx.z)]);
    if (half == nullptr || step[0] == NOBODY || rank >= step[2]) return;
    half += static_cast<size_t>(step[1] + rank) * inputs;
    const X *row = rows + static_cast<size_t>(blockIdx.y) * inputs;
    float sum = 0.0f;
    for (u32 at = 8 * lane; at < inputs; at += 8 * WARP) {
        __align__(16) __half a[8];
        float x[8];
        halves<8>(half + at, a);
        eight(row, at, x);
        for (u32 i = 0; i < 8; i++) sum += __half2float(a[i]) * x[i];
    }
    sum = warp_sum(sum);
    if (lane == 0) low[(blockIdx.y * MATRICES + blockIdx.z) * RANKS + rank] = sum;
}

// The same, brought to all columns of the matrices and added there; `first` and `second` say where the columns of those end.
extern "C" __global__ void expand(const float *low, const unsigned long long *pairs, u32 matrix, const u32 *steps, u32 stride,
                                  float *out, u32 outputs, u32 first, u32 second) {
    const u32 *step = steps + blockIdx.y * stride;
    const u32 column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= outputs || step[0] == NOBODY || step[2] == 0) return;
    const u32 own = column < first ? 0 : column < second ? 1 : 2;
    const u32 begin = own == 0 ? 0 : own == 1 ? first : second;
    const u32 end = own == 0 ? min(first, outputs) : own == 1 ? min(second, outputs) : outputs;
    const __half *half = reinterpret_cast<const __half *>(pairs[2 * (matrix + own) + 1]);
    if (half == nullptr) return;
    const size_t width = end - begin;
    half += step[1] * width + (column - begin);
    const float *ranks = low + (blockIdx.y * MATRICES + own) * RANKS;
    float sum = 0.0f;
    for (u32 rank = 0; rank < step[2]; rank++) sum += ranks[rank] * __half2float(half[rank * width]);
    out[static_cast<size_t>(blockIdx.y) * outputs + column] += sum;
}

// [rows][width] to columns from `column` on of [rows][stride]: in their place, or added to them.
__device__ __forceinline__ void place(const float *from, float *to, u32 width, u32 stride, u32 column, u32 mode) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= width) return;
    float *at = to + static_cast<size_t>(blockIdx.y) * stride + column + i;
    const float x = from[static_cast<size_t>(blockIdx.y) * width + i];
    *at = mode == ADD ? *at + x : x;
}

// Of each row of logits those that are near its best, in any order: how many, and then token and logit of each, as far as there is
// room. `reaches` says how near; below 0: nobody asks.
extern "C" __global__ void near(const float *logits, const float *reaches, u32 *found, u32 vocabulary, u32 room) {
    const float span = reaches[2 * blockIdx.x], share = reaches[2 * blockIdx.x + 1];
    const float *row = logits + static_cast<size_t>(blockIdx.x) * vocabulary;
    u32 *own = found + static_cast<size_t>(blockIdx.x) * (1 + 2 * room);
    if (threadIdx.x == 0) own[0] = 0;
    if (span < 0.0f) return;
    float most = -INFINITY;
    for (u32 i = threadIdx.x; i < vocabulary; i += blockDim.x) most = fmaxf(most, row[i]);
    most = block_most(most);
    const float least = most - span - share * fabsf(most);
    for (u32 i = threadIdx.x; i < vocabulary; i += blockDim.x) {
        if (!(row[i] >= least)) continue;
        const u32 at = atomicAdd(own, 1u);
        if (at >= room) continue;
        own[1 + 2 * at] = i;
        own[2 + 2 * at] = __float_as_uint(row[i]);
    }
}

#define FOR_WEIGHTS(W)                                                                                                            \
    extern "C" __global__ void embed_##W(const W *table, const u32 *tokens, float *stream, u32 width) {                           \
        embed(table, tokens, stream, width);                                                                                      \
    }                                                                                                                             \
    extern "C" __global__ void norm_##W(const float *stream, const float *gain, W *out, u32 width, float epsilon) {               \
        norm(stream, gain, out, width, epsilon);                                                                                  \
    }                                                                                                                             \
    extern "C" __global__ void combine_##W(const float *partial, const float *extremes, W *out, u32 splits, u32 dim) {            \
        combine(partial, extremes, out, splits, dim);                                                                             \
    }                                                                                                                             \
    extern "C" __global__ void gate_##W(const float *both, W *out, u32 width) { gate(both, out, width); }                         \
    extern "C" __global__ void shrink_##W(const W *rows, const unsigned long long *pairs, u32 matrix, const u32 *steps,           \
                                          u32 stride, float *low, u32 inputs) {                                                   \
        shrink(rows, pairs, matrix, steps, stride, low, inputs);                                                                  \
    }                                                                                                                             \
    FOR_LINES(W)

#define FOR_ROWS(W, N)                                                                                                            \
    extern "C" __global__ void lines_##W##_##N(const W *weight, const float *rows, const float *gain, float epsilon, float *out,  \
                                               u32 inputs, u32 outputs, u32 stride, u32 column, u32 mode) {                       \
        lines<W, N>(weight, rows, gain, epsilon, out, inputs, outputs, stride, column, mode);                                     \
    }
#define FOR_LINES(W)                                                                                                              \
    FOR_ROWS(W, 1)                                                                                                                \
    FOR_ROWS(W, 2)                                                                                                                \
    FOR_ROWS(W, 4)

#define FOR_WIDTH(V)                                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                                         \
        attend_##V(const float *qkv, const float *bias, const float *cosines, const float *sines, __half *keys, __half *values,   \
                   const u32 *steps, u32 stride, float *partial, float *extremes, u32 heads, u32 kv_heads, u32 dim,               \
                   u32 adjacent) {                                                                                                \
        attend<V>(qkv, bias, cosines, sines, keys, values, steps, stride, partial, extremes, heads, kv_heads, dim, adjacent);     \
    }

FOR_WEIGHTS(float)
FOR_WEIGHTS(bf16)
FOR_LINES(q8_0)
FOR_LINES(q4_k)
FOR_LINES(q6_k)
FOR_WIDTH(2)
FOR_WIDTH(4)
FOR_WIDTH(8)

extern "C" __global__ void place_float(const float *from, float *to, u32 width, u32 stride, u32 column, u32 mode) {
    place(from, to, width, stride, column, mode);
}
