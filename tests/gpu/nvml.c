/* A stand-in for libnvidia-ml.so.1: the calls that a look at cards makes, with nvml.h's names and shapes. Enters: the file
 * STATE, lines of KEY=VALUE, read at each call, so that a test changes a card while the daemon runs; leaves: what the driver
 * would say. Never here: a card. Keys: count, lost (that card cannot be reached), memory (GiB), slices (of the first card, at most 2), used, busy, temperature, power, slowed (bits of
 * the clocks' event reasons), ecc, rows_pending, rows_failed, xid (told once for each value of xid_number). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, SMALL = 7, TIMEOUT = 10, LOST = 15 };
typedef struct { int index; } *Card;
static int cards[8] = {0, 1, 2, 3, 4, 5, 6, 7};
/* Slices of the first card: no card has these numbers. */
static int slices[2] = {100, 101};

static long long key(const char *name, long long absent) {
    FILE *state = fopen(STATE, "r");
    char line[128];
    size_t length = strlen(name);
    while (state && fgets(line, sizeof line, state))
        if (!strncmp(line, name, length) && line[length] == '=') absent = atoll(line + length + 1);
    if (state) fclose(state);
    return absent;
}
static int lost(Card card) { return key("lost", -1) == card->index % 100; }
static int text(char *to, unsigned size, const char *what, int index) {
    return (unsigned)snprintf(to, size, what, index) < size ? OK : SMALL;
}
#define READ(card, statement) do { if (lost(card)) return LOST; statement; return OK; } while (0)

int nvmlInit_v2(void) { return OK; }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int error) { (void)error; return "an error"; }
int nvmlSystemGetDriverVersion(char *to, unsigned size) { return text(to, size, "580.95.05", 0); }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = key("count", 1); return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Card *card) {
    if (index >= 8) return INVALID;
    *card = (Card)&cards[index];
    return lost(*card) ? LOST : OK;
}
int nvmlDeviceGetName(Card card, char *to, unsigned size) { return text(to, size, "NVIDIA Stand-in %d", card->index); }
int nvmlDeviceGetUUID(Card card, char *to, unsigned size) { return text(to, size, card->index < 100 ? "GPU-00000000-0000-0000-0000-%012d" : "MIG-00000000-0000-0000-0000-%012d", card->index % 100); }
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } Pci;
int nvmlDeviceGetPciInfo_v3(Card card, Pci *pci) {
    memset(pci, 0, sizeof *pci);
    READ(card, text(pci->bus_id, 32, "00000000:%02X:00.0", card->index + 1));
}
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory;
int nvmlDeviceGetMemoryInfo_v2(Card card, Memory *memory) {
    READ(card, memory->total = key("memory", 80) << 30; memory->reserved = 0; memory->used = key("used", 1LL << 30);
         memory->free = memory->total - memory->used);
}
int nvmlDeviceGetMigMode(Card card, unsigned *current, unsigned *pending) {
    READ(card, *current = *pending = card->index == 0 && key("slices", 0));
}
int nvmlDeviceGetMaxMigDeviceCount(Card card, unsigned *count) { READ(card, *count = 7); }
int nvmlDeviceGetMigDeviceHandleByIndex(Card card, unsigned index, Card *slice) {
    if (index >= key("slices", 0) || index >= 2) return NOT_FOUND;
    READ(card, *slice = (Card)&slices[index]);
}
int nvmlDeviceGetUtilizationRates(Card card, unsigned rates[2]) { READ(card, rates[0] = rates[1] = key("busy", 0)); }
int nvmlDeviceGetTemperature(Card card, int sensor, unsigned *celsius) { (void)sensor; READ(card, *celsius = key("temperature", 40)); }
int nvmlDeviceGetPowerUsage(Card card, unsigned *milliwatts) { READ(card, *milliwatts = key("power", 90000)); }
int nvmlDeviceGetEnforcedPowerLimit(Card card, unsigned *milliwatts) { (void)card; (void)milliwatts; return NOT_SUPPORTED; }
int nvmlDeviceGetCurrentClocksThrottleReasons(Card card, unsigned long long *bits) { READ(card, *bits = key("slowed", 1)); }
int nvmlDeviceGetTotalEccErrors(Card card, int kind, int counter, unsigned long long *errors) {
    READ(card, *errors = kind == 1 && counter == 0 ? key("ecc", 0) : 0);
}
typedef struct { unsigned field, scope; long long at, took; int type, result; union { unsigned number; double real; } value; } Field;
int nvmlDeviceGetFieldValues(Card card, int count, Field *fields) {
    READ(card, for (int n = 0; n < count; n++) {
        fields[n].type = 1;
        fields[n].result = fields[n].field == 144 || fields[n].field == 145 ? OK : NOT_SUPPORTED;
        fields[n].value.number = key(fields[n].field == 144 ? "rows_pending" : "rows_failed", 0);
    });
}
int nvmlDeviceGetComputeRunningProcesses_v3(Card card, unsigned *count, void *to) { (void)to; READ(card, *count = 0); }

typedef struct { Card card; unsigned long long kind, number; unsigned instances[2]; } Happened;
int nvmlEventSetCreate(void **set) { *set = cards; return OK; }
int nvmlEventSetFree(void *set) { (void)set; return OK; }
int nvmlDeviceRegisterEvents(Card card, unsigned long long kinds, void *set) { (void)kinds; (void)set; return lost(card) ? LOST : OK; }
int nvmlEventSetWait_v2(void *set, Happened *happened, unsigned limit_ms) {
    static long long told = 0;
    (void)set;
    for (unsigned waited = 0; waited < limit_ms; waited += 20) {
        long long number = key("xid_number", 0);
        if (number && number != told) {
            told = number;
            *happened = (Happened){(Card)&cards[0], 8, key("xid", 0), {~0u, ~0u}};
            return OK;
        }
        usleep(20000);
    }
    return TIMEOUT;
}
