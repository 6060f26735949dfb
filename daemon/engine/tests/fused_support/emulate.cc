// Kernels by name: `launch` runs one as a card would, `multiply` is what cuBLAS is asked for.
#include "emulate.h"

#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include KERNELS

Index threadIdx, blockIdx, blockDim, gridDim;

// Goes on with another stack: what a call must leave as it was lies on the old one, whose end is kept at `from`. The C library's
// own way asks the kernel each time, of which there are millions.
#ifndef __x86_64__
#error "threads are switched in x86-64's own words"
#endif
extern "C" void go_on_with(void **from, void *to);
asm(R"(
.text
.globl go_on_with
.hidden go_on_with
.type go_on_with, @function
go_on_with:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
.size go_on_with, . - go_on_with
)");

namespace {

constexpr size_t STACK = 64 << 10;
// What `lines` has of its own; no other comes near the bound.
constexpr uint32_t STATIC_SHARED = 256;
constexpr uint32_t LANES_OF_A_WARP = 32;

struct Thread {
    void *end;
    // What it waits for: how many meetings of the kind it has come to.
    emulated::Meeting meeting;
    bool waits, ended;
    alignas(16) char stack[STACK];
};

std::vector<Thread> threads(1024);
uint32_t current, count;
void *scheduler;
uint32_t shown_words[1024];
void (*run)(void **);
void **run_with;

[[noreturn]] void fail(const char *why) {
    std::fprintf(stderr, "emulated: %s\n", why);
    std::abort();
}

void body() {
    run(run_with);
    threads[current].ended = true;
    go_on_with(&threads[current].end, scheduler);
}

// Whether all of a range wait for the same; those that have ended wait for nothing.
bool all_wait(uint32_t from, uint32_t to, emulated::Meeting meeting) {
    for (uint32_t i = from; i < to; i++) {
        if (threads[i].ended) {
            // A warp's lanes exchange words: nobody may be missing.
            if (meeting == emulated::LANES) fail("a lane of a warp has ended that others wait for");
            continue;
        }
        if (!threads[i].waits || threads[i].meeting != meeting) return false;
    }
    return true;
}

void prepare(Thread &thread) {
    // Six words that are taken back, where to begin, and one because a call leaves the stack off by a word.
    void **top = reinterpret_cast<void **>(thread.stack + STACK) - 8;
    std::fill_n(top, 8, nullptr);
    top[6] = reinterpret_cast<void *>(body);
    thread.end = top;
    thread.waits = thread.ended = false;
}

void block() {
    for (uint32_t i = 0; i < count; i++) prepare(threads[i]);
    for (;;) {
        bool moved = false, left = false;
        for (uint32_t i = 0; i < count; i++) {
            Thread &thread = threads[i];
            if (thread.ended) continue;
            left = true;
            if (thread.waits) continue;
            moved = true;
            current = i;
            threadIdx = {i, 0, 0};
            go_on_with(&scheduler, thread.end);
        }
        if (!left) return;
        auto let_go = [&](uint32_t from, uint32_t to) {
            for (uint32_t i = from; i < to; i++) threads[i].waits = false;
            moved = true;
        };
        for (uint32_t from = 0; from < count; from += LANES_OF_A_WARP) {
            const uint32_t to = std::min(from + LANES_OF_A_WARP, count);
            bool lanes = false;
            for (uint32_t i = from; i < to; i++) lanes |= threads[i].waits && threads[i].meeting == emulated::LANES;
            if (lanes && all_wait(from, to, emulated::LANES)) let_go(from, to);
        }
        if (all_wait(0, count, emulated::BLOCK)) let_go(0, count);
        if (!moved) fail("threads wait for others that never come");
    }
}

template <typename... P, size_t... I>
void call(void (*kernel)(P...), void **arguments, std::index_sequence<I...>) {
    kernel(*static_cast<P *>(arguments[I])...);
}

template <auto KERNEL>
struct Named;
template <typename... P, void (*KERNEL)(P...)>
struct Named<KERNEL> {
    static void with(void **arguments) { call(KERNEL, arguments, std::index_sequence_for<P...>()); }
    static constexpr size_t COUNT = sizeof...(P);
};

struct Known {
    void (*run)(void **);
    size_t arguments;
};
#define KNOWN(name) \
    { #name, { Named<name>::with, Named<name>::COUNT } }
#define LINES(kind) KNOWN(lines_##kind##_1), KNOWN(lines_##kind##_2), KNOWN(lines_##kind##_4)
#define WEIGHTS(kind) KNOWN(embed_##kind), KNOWN(norm_##kind), KNOWN(combine_##kind), KNOWN(gate_##kind), KNOWN(shrink_##kind), LINES(kind)
const std::unordered_map<std::string, Known> known = {
    WEIGHTS(float), WEIGHTS(bf16), LINES(q8_0),   LINES(q4_k),        LINES(q6_k), KNOWN(attend_2),
    KNOWN(attend_4), KNOWN(attend_8), KNOWN(expand), KNOWN(place_float), KNOWN(near),
};

float number(const void *from, size_t at, bool halved) {
    return halved ? __bfloat162float(static_cast<const __nv_bfloat16 *>(from)[at]) : static_cast<const float *>(from)[at];
}

}  // namespace

void emulated::meet(Meeting meeting) {
    Thread &thread = threads[current];
    thread.waits = true;
    thread.meeting = meeting;
    go_on_with(&thread.end, scheduler);
}

uint32_t &emulated::shown(uint32_t lane) { return shown_words[current / LANES_OF_A_WARP * LANES_OF_A_WARP + lane]; }

extern "C" bool launch(const char *name, const uint32_t *grid, uint32_t block_threads, uint32_t shared, void **arguments,
                       size_t argument_count) {
    const auto kernel = known.find(name);
    if (kernel == known.end() || kernel->second.arguments != argument_count) return false;
    if (block_threads == 0 || block_threads > 1024 || block_threads % LANES_OF_A_WARP != 0 || shared > (48 << 10) - STATIC_SHARED) return false;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block_threads, 1, 1};
    count = block_threads;
    run = kernel->second.run;
    run_with = arguments;
    for (uint32_t z = 0; z < grid[2]; z++) {
        for (uint32_t y = 0; y < grid[1]; y++) {
            for (uint32_t x = 0; x < grid[0]; x++) {
                blockIdx = {x, y, z};
                // What a block finds in its memory is nobody's.
                std::vector<float> memory(shared / sizeof(float) + 4, NAN);
                emulated::memory = memory.data();
                block();
            }
        }
    }
    return true;
}

// [rows][inputs] times [outputs][inputs], both of one kind, in place of what is at `out` or added to it.
extern "C" void multiply(const void *weight, const void *rows, float *out, uint32_t count, uint32_t inputs, uint32_t outputs,
                         bool halved, bool add) {
    for (size_t row = 0; row < count; row++) {
        for (size_t output = 0; output < outputs; output++) {
            float sum = 0.0f;
            for (size_t i = 0; i < inputs; i++) {
                sum += number(weight, output * inputs + i, halved) * number(rows, row * inputs + i, halved);
            }
            float &to = out[row * outputs + output];
            to = add ? to + sum : sum;
        }
    }
}
