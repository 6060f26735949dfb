/* A stand-in for libcuda.so.1: as much of NVIDIA's driver as an engine asks before it computes. Enters: VERSION, CARDS and
 * CAPABILITY when it is compiled; leaves: what a driver of that age with those cards would say. Never here: a card. */
#include <string.h>

enum { OK = 0, NO_DEVICE = 100, MAJOR = 75, MINOR = 76 };

int cuDriverGetVersion(int *version) { *version = VERSION; return OK; }
int cuInit(unsigned flags) { (void)flags; return CARDS ? OK : NO_DEVICE; }
int cuDeviceGetCount(int *count) { *count = CARDS; return OK; }
int cuDeviceGet(int *card, int ordinal) { *card = ordinal; return OK; }
int cuDeviceGetName(char *name, int size, int card) { (void)card; strncpy(name, "Stand-in", size); return OK; }
int cuDeviceGetAttribute(int *value, int attribute, int card) {
    (void)card;
    *value = attribute == MAJOR ? CAPABILITY / 10 : attribute == MINOR ? CAPABILITY % 10 : 0;
    return OK;
}
