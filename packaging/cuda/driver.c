/* Stands for NVIDIA's driver when the engine is linked, and hands its calls on when it runs. Enters: the names of the calls in
 * calls.h, `CALL(cuInit)` and so on; leaves: functions of these names. An executable that is linked with the driver itself ends
 * before its first line where that is missing, or lacks one call of hundreds; this one starts, and can say what is missing.
 * A call without a driver returns CUDA_ERROR_STUB_LIBRARY, one that the driver does not have CUDA_ERROR_NOT_SUPPORTED. */
#include <dlfcn.h>
#include <stddef.h>

static int no_driver(void) { return 34; }
static int no_such_call(void) { return 801; }

/* A jump, because it leaves every argument where it is. */
#define CALL(name)                                                                    \
    __attribute__((visibility("hidden"))) void *to_##name = (void *)no_driver;        \
    __asm__(".text\n.globl " #name "\n.hidden " #name "\n.type " #name ", @function\n" \
            #name ":\n\tjmp *to_" #name "(%rip)\n.size " #name ", .-" #name "\n");
#include "calls.h"
#undef CALL

#define CALL(name) {#name, &to_##name},
static const struct { const char *name; void **to; } calls[] = {
#include "calls.h"
};

__attribute__((constructor)) static void open_driver(void) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!driver) return;
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        void *call = dlsym(driver, calls[i].name);
        *calls[i].to = call ? call : (void *)no_such_call;
    }
}
