/* A libnvidia-ml.so.1 and a libcuda.so.1 for tests of the binding: one GPU whose memory is what the files in the folder
   FAKE_GPU say, one file per process, named by its pid. It lacks functions on purpose, as the library of an old driver does.

   gcc -shared -fPIC -o libnvidia-ml.so.1 fakenvml.c */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OK 0
#define NOT_SUPPORTED 3
#define INSUFFICIENT_SIZE 7
#define LOST 15

typedef struct { uint32_t version; uint64_t total, reserved, free, used; } memory_v2;
typedef struct { uint32_t gpu, memory; } utilization;
typedef struct { uint32_t pid; uint64_t used; uint32_t gi, ci; } process;

static int each(process *out, uint32_t room, uint64_t *sum) {
	DIR *d = getenv("FAKE_GPU") ? opendir(getenv("FAKE_GPU")) : NULL;
	int n = 0;
	*sum = 0;
	if (!d) return 0;
	for (struct dirent *e; (e = readdir(d));) {
		char path[1024];
		long long bytes = 0;
		if (atoi(e->d_name) == 0) continue;
		snprintf(path, sizeof path, "%s/%s", getenv("FAKE_GPU"), e->d_name);
		FILE *f = fopen(path, "r");
		if (!f) continue;
		if (fscanf(f, "%lld", &bytes) != 1) bytes = 0;
		fclose(f);
		*sum += bytes;
		if ((uint32_t)n < room) out[n] = (process){atoi(e->d_name), bytes, 0xffffffff, 0xffffffff};
		n++;
	}
	closedir(d);
	return n;
}

static int lost(void) {
	char path[1024];
	if (!getenv("FAKE_GPU")) return 0;
	snprintf(path, sizeof path, "%s/lost", getenv("FAKE_GPU"));
	return access(path, F_OK) == 0;
}

int nvmlInit_v2(void) { return OK; }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int r) { return r == LOST ? "GPU is lost" : r == NOT_SUPPORTED ? "Not Supported" : "Unknown Error"; }
int nvmlSystemGetDriverVersion(char *v, unsigned n) { snprintf(v, n, "470.0.fake"); return OK; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 1; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d) { *d = (void *)(uintptr_t)(i + 1); return OK; }
int nvmlDeviceGetUUID(void *d, char *v, unsigned n) { snprintf(v, n, "GPU-fake"); return OK; }
int nvmlDeviceGetName(void *d, char *v, unsigned n) { snprintf(v, n, "Fake GPU"); return OK; }
int nvmlDeviceGetMemoryInfo_v2(void *d, memory_v2 *m) {
	process none;
	m->total = 80ull << 30, m->reserved = 1 << 20;
	each(&none, 0, &m->used);
	m->free = m->total - m->used;
	return lost() ? LOST : OK;
}
int nvmlDeviceGetUtilizationRates(void *d, utilization *u) { u->gpu = 40, u->memory = 20; return OK; }
int nvmlDeviceGetPowerUsage(void *d, unsigned *mw) { *mw = 70500; return OK; }
int nvmlDeviceGetClockInfo(void *d, int kind, unsigned *mhz) { *mhz = 1000 + kind; return OK; }
int nvmlDeviceGetTemperature(void *d, int kind, unsigned *c) { return NOT_SUPPORTED; }
int nvmlDeviceGetComputeRunningProcesses_v3(void *d, unsigned *n, process *out) {
	uint64_t sum;
	unsigned room = *n;
	*n = each(out, room, &sum);
	return *n > room ? INSUFFICIENT_SIZE : OK;
}
/* No nvmlDeviceGetTotalEnergyConsumption, no events, no field values, no use by process, no MIG. */

static void hold(long long bytes) {
	char path[1024];
	if (!getenv("FAKE_GPU")) return;
	snprintf(path, sizeof path, "%s/%d", getenv("FAKE_GPU"), getpid());
	FILE *f = fopen(path, "w");
	if (f) fprintf(f, "%lld\n", (500ll << 20) + bytes), fclose(f);
}
static void gone(void) {
	char path[1024];
	snprintf(path, sizeof path, "%s/%d", getenv("FAKE_GPU"), getpid());
	unlink(path);
}
int cuInit(unsigned flags) { return 0; }
int cuDeviceGet(int *d, int i) { *d = i; return 0; }
int cuDevicePrimaryCtxRetain(void **c, int d) { hold(0); atexit(gone); return 0; }
int cuCtxSetCurrent(void *c) { return 0; }
int cuMemAlloc_v2(uint64_t *p, size_t n) { *p = 1; hold(n); return 0; }
int cuMemsetD8_v2(uint64_t p, unsigned char v, size_t n) { usleep(1000); return 0; }
int cuCtxSynchronize(void) { return 0; }
int cuMemFree_v2(uint64_t p) { hold(0); return 0; }
