// A card on a processor: what kernels.cu needs of CUDA, one block after the other, the threads of a block in turns. A thread runs
// until it waits for others; so a kernel that forgets to wait, or that waits where not all come, gives wrong numbers or ends here.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <algorithm>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __align__(n) alignas(n)
#define __launch_bounds__(n)
#define DYNAMIC float *dynamic = static_cast<float *>(emulated::memory)

struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    uint32_t x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct Index {
    uint32_t x, y, z;
};

namespace emulated {
// Dynamic shared memory, of exactly the size that was asked for.
inline void *memory = nullptr;
// Where threads meet that must all be there.
enum Meeting : uint32_t { BLOCK, LANES };
void meet(Meeting meeting);
// A word that a lane shows to the others of its warp.
uint32_t &shown(uint32_t lane);
}  // namespace emulated

extern Index threadIdx, blockIdx, blockDim, gridDim;

using std::max;
using std::min;

inline void __syncthreads() { emulated::meet(emulated::BLOCK); }
inline void __syncwarp() { emulated::meet(emulated::LANES); }

inline float __shfl_xor_sync(uint32_t, float value, uint32_t offset) {
    const uint32_t lane = threadIdx.x % 32;
    std::memcpy(&emulated::shown(lane), &value, 4);
    __syncwarp();
    float seen;
    std::memcpy(&seen, &emulated::shown(lane ^ offset), 4);
    __syncwarp();
    return seen;
}

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __uint_as_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline uint32_t __float_as_uint(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}
inline uint32_t atomicAdd(uint32_t *at, uint32_t more) {
    const uint32_t before = *at;
    *at += more;
    return before;
}

struct __nv_bfloat16 {
    uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
inline __nv_bfloat16 __float2bfloat16(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    bits += 0x7fffu + (bits >> 16 & 1);
    return {static_cast<uint16_t>(bits >> 16)};
}

using __half = _Float16;
struct alignas(4) __half2 {
    __half x, y;
};
inline float __half2float(__half x) { return x; }
inline __half __float2half(float x) { return static_cast<__half>(x); }
inline float __low2float(__half2 x) { return x.x; }
inline float __high2float(__half2 x) { return x.y; }
