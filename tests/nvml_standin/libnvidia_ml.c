/* A libnvidia-ml.so.1 for the tests: what nvidia-ml-py looks up, steered by a file while it runs.
 *
 * The file `control` beside the library holds lines `key=value`; `gpu1.key` goes before `key`, and
 * what the file does not say comes from DEFAULTS below.
 *
 *   gpus=2                                    how many there are
 *   power_mw=70000, gpu1.gpm.10=nan           values, in NVML's own units
 *   nvmlInit.return=9                         a call answers this code
 *   gpu0.nvmlDeviceGetPowerUsage.return=15    … on one GPU
 *   gpu1.return=15, return=18                 every call, on one GPU or at all
 *   gpu0.nvmlDeviceGetPowerUsage.delay_ms=1e6 a call hangs until the line is gone again
 *   gpu0.gpm.10.return=3                      the code of one GPM metric
 *   now_ms=1000                               the time at which GPM samples are taken, else the clock's
 *
 * As in the real library, handles and samples do not survive a shutdown, sizes and struct versions
 * are checked, and GPM answers nonsense without an error for samples less than 100 ms apart.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum {
    SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7,
    VERSION_MISMATCH = 25, NO_GPU = -1, TEXT = 128, SAMPLES = 256, CALLS = 1024,
};

static const char DEFAULTS[] =
    "gpus=1\n"
    "driver_version=570.86.15\n"
    "name=NVIDIA H100 80GB HBM3\n"
    "compute_capability=9.0\n"
    "bus_bits=5120\n"
    "memory_total_bytes=85520809984\n"
    "memory_reserved_bytes=654311424\n"
    "memory_used_bytes=64424509440\n"
    "power_mw=412345\n"
    "power_limit_mw=700000\n"
    "energy_mj=123456789\n"
    "temperature_c=54\n"
    "sm_clock_mhz=1755\n"
    "sm_clock_max_mhz=1980\n"
    "memory_clock_mhz=2619\n"
    "memory_clock_max_mhz=2619\n"
    "utilization_gpu_percent=94\n"
    "utilization_memory_percent=61\n"
    "clock_event_reasons=4\n"
    "gpm_supported=1\n"
    "gpm.1=98.5\n"
    "gpm.2=71.25\n"
    "gpm.5=1.5\n"
    "gpm.10=87.5\n";

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* guards the next three */
static char control[1 << 16];
static struct timespec control_written;
static struct { const char *name; int gpu; long count; } calls[CALLS];

static unsigned session, users; /* sessions begun; nvmlInit without its nvmlShutdown */
static struct sample { unsigned session; int gpu; double at_ms; } samples[SAMPLES]; /* session 0: free */

/* --- the control file ------------------------------------------------------------------------- */

static void refresh(void) {
    Dl_info self;
    char path[4096];
    struct stat status;
    dladdr(DEFAULTS, &self);
    snprintf(path, sizeof path, "%s", self.dli_fname);
    char *slash = strrchr(path, '/');
    strcpy(slash ? slash + 1 : path, "control");
    if (stat(path, &status) != 0 || memcmp(&status.st_mtim, &control_written, sizeof control_written) == 0)
        return;
    FILE *file = fopen(path, "r");
    if (!file)
        return;
    control[fread(control, 1, sizeof control - 1, file)] = 0;
    fclose(file);
    control_written = status.st_mtim;
}

static int find(const char *lines, const char *key, char *value) {
    size_t length = strlen(key);
    for (const char *line = lines; *line; line = strchrnul(line, '\n'), line += *line == '\n')
        if (strncmp(line, key, length) == 0 && line[length] == '=') {
            line += length + 1;
            size_t size = strcspn(line, "\n");
            snprintf(value, TEXT, "%.*s", (int)size, line);
            return 1;
        }
    return 0;
}

static int text(int gpu, const char *key, char *value) {
    char scoped[TEXT];
    snprintf(scoped, sizeof scoped, "gpu%d.%s", gpu, key);
    pthread_mutex_lock(&mutex);
    int found = (gpu != NO_GPU && find(control, scoped, value)) || find(control, key, value)
                || find(DEFAULTS, key, value);
    pthread_mutex_unlock(&mutex);
    return found;
}

static double number(int gpu, const char *key, double otherwise) {
    char value[TEXT];
    return text(gpu, key, value) ? strtod(value, NULL) : otherwise;
}

static double of_call(const char *call, int gpu, const char *what, double otherwise) {
    char key[TEXT];
    snprintf(key, sizeof key, "%s.%s", call, what);
    return number(gpu, key, number(gpu, what, otherwise));
}

/* --- every call begins here ------------------------------------------------------------------- */

static double clock_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

static void count_and_refresh(const char *call, int gpu, int first) {
    pthread_mutex_lock(&mutex);
    refresh();
    for (int i = 0; first && i < CALLS; i++)
        if (!calls[i].name || (calls[i].gpu == gpu && strcmp(calls[i].name, call) == 0)) {
            calls[i].name = call;
            calls[i].gpu = gpu;
            calls[i].count++;
            break;
        }
    pthread_mutex_unlock(&mutex);
}

static int enter(const char *call, int gpu) {
    double since = clock_ms();
    count_and_refresh(call, gpu, 1);
    while (clock_ms() - since < of_call(call, gpu, "delay_ms", 0)) {
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        count_and_refresh(call, gpu, 0);
    }
    return (int)of_call(call, gpu, "return", SUCCESS);
}

/* How often a call was made, on one GPU or (-1) at all. For the tests. */
long standin_calls(const char *call, int gpu) {
    long count = 0;
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < CALLS && calls[i].name; i++)
        if (strcmp(calls[i].name, call) == 0 && (gpu == NO_GPU || calls[i].gpu == gpu))
            count += calls[i].count;
    pthread_mutex_unlock(&mutex);
    return count;
}

/* How many GPM samples of this session are allocated. For the tests. */
int standin_samples(void) {
    int count = 0;
    for (int i = 0; i < SAMPLES; i++)
        count += session && samples[i].session == session;
    return count;
}

/* --- the session ------------------------------------------------------------------------------ */

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    int code = enter("nvmlInit", NO_GPU);
    if (code == SUCCESS && users++ == 0)
        session++;
    return code;
}

int nvmlShutdown(void) {
    int code = enter(__func__, NO_GPU);
    if (users == 0)
        return UNINITIALIZED;
    users--;
    return code;
}

/* Begin a call about the node. */
#define BEGIN() \
    do { \
        int code_ = enter(__func__, NO_GPU); \
        if (code_ || !users) \
            return code_ ? code_ : UNINITIALIZED; \
    } while (0)

/* Begin a call about a GPU: a handle is its session and its index. */
#define BEGIN_GPU(handle) \
    int gpu = (int)((size_t)(handle) & 0xff) - 1; \
    do { \
        int code_ = enter(__func__, gpu); \
        if (code_ || !users) \
            return code_ ? code_ : UNINITIALIZED; \
        if ((size_t)(handle) >> 8 != session) \
            return INVALID_ARGUMENT; \
    } while (0)

static int copy(int gpu, const char *key, char *to, unsigned size) {
    char value[TEXT] = "";
    if (!text(gpu, key, value))
        return NOT_SUPPORTED;
    if (strlen(value) >= size)
        return INSUFFICIENT_SIZE;
    strcpy(to, value);
    return SUCCESS;
}

int nvmlSystemGetDriverVersion(char *version, unsigned size) {
    BEGIN();
    return copy(NO_GPU, "driver_version", version, size);
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    BEGIN();
    *count = (unsigned)number(NO_GPU, "gpus", 0);
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    int code = enter(__func__, (int)index);
    if (code || !users)
        return code ? code : UNINITIALIZED;
    if (index >= number(NO_GPU, "gpus", 0))
        return INVALID_ARGUMENT;
    *handle = (void *)((size_t)session << 8 | (index + 1));
    return SUCCESS;
}

/* --- what a GPU is ---------------------------------------------------------------------------- */

int nvmlDeviceGetName(void *handle, char *name, unsigned size) {
    BEGIN_GPU(handle);
    return copy(gpu, "name", name, size);
}

int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned size) {
    BEGIN_GPU(handle);
    if (copy(gpu, "uuid", uuid, size) == SUCCESS)
        return SUCCESS;
    snprintf(uuid, size, "GPU-00000000-0000-0000-0000-%012d", gpu);
    return SUCCESS;
}

struct pci {
    char legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char bus_id[32];
};

int nvmlDeviceGetPciInfo_v3(void *handle, struct pci *pci) {
    BEGIN_GPU(handle);
    memset(pci, 0, sizeof *pci);
    pci->bus = 0x10 + gpu;
    snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", pci->bus);
    return SUCCESS;
}

int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    BEGIN_GPU(handle);
    char value[TEXT] = "";
    text(gpu, "compute_capability", value);
    return sscanf(value, "%d.%d", major, minor) == 2 ? SUCCESS : NOT_SUPPORTED;
}

/* --- what it does ----------------------------------------------------------------------------- */

#define ONE_NUMBER(call, type, key) \
    int call(void *handle, type *value) { \
        BEGIN_GPU(handle); \
        *value = (type)number(gpu, key, 0); \
        return SUCCESS; \
    }

ONE_NUMBER(nvmlDeviceGetMemoryBusWidth, unsigned, "bus_bits")
ONE_NUMBER(nvmlDeviceGetPowerUsage, unsigned, "power_mw")
ONE_NUMBER(nvmlDeviceGetEnforcedPowerLimit, unsigned, "power_limit_mw")
ONE_NUMBER(nvmlDeviceGetTotalEnergyConsumption, unsigned long long, "energy_mj")
ONE_NUMBER(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, "clock_event_reasons")
ONE_NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, "clock_event_reasons")

int nvmlDeviceGetTemperature(void *handle, unsigned sensor, unsigned *celsius) {
    BEGIN_GPU(handle);
    (void)sensor;
    *celsius = (unsigned)number(gpu, "temperature_c", 0);
    return SUCCESS;
}

struct temperature {
    unsigned version, sensor;
    int celsius;
};

int nvmlDeviceGetTemperatureV(void *handle, struct temperature *temperature) {
    BEGIN_GPU(handle);
    if (temperature->version != 0x0100000C)
        return VERSION_MISMATCH;
    temperature->celsius = (int)number(gpu, "temperature_c", 0);
    return SUCCESS;
}

static int mhz(int gpu, unsigned type, unsigned *value, const char *sm, const char *memory) {
    if (type != 1 && type != 2)
        return INVALID_ARGUMENT;
    *value = (unsigned)number(gpu, type == 1 ? sm : memory, 0);
    return SUCCESS;
}

int nvmlDeviceGetClockInfo(void *handle, unsigned type, unsigned *value) {
    BEGIN_GPU(handle);
    return mhz(gpu, type, value, "sm_clock_mhz", "memory_clock_mhz");
}

int nvmlDeviceGetMaxClockInfo(void *handle, unsigned type, unsigned *value) {
    BEGIN_GPU(handle);
    return mhz(gpu, type, value, "sm_clock_max_mhz", "memory_clock_max_mhz");
}

struct utilization {
    unsigned gpu, memory;
};

int nvmlDeviceGetUtilizationRates(void *handle, struct utilization *utilization) {
    BEGIN_GPU(handle);
    utilization->gpu = (unsigned)number(gpu, "utilization_gpu_percent", 0);
    utilization->memory = (unsigned)number(gpu, "utilization_memory_percent", 0);
    return SUCCESS;
}

struct memory_v1 {
    unsigned long long total, free, used;
};

struct memory_v2 {
    unsigned version;
    unsigned long long total, reserved, free, used;
};

int nvmlDeviceGetMemoryInfo_v2(void *handle, struct memory_v2 *memory) {
    BEGIN_GPU(handle);
    if (memory->version != 0x02000028)
        return VERSION_MISMATCH;
    memory->total = (unsigned long long)number(gpu, "memory_total_bytes", 0);
    memory->reserved = (unsigned long long)number(gpu, "memory_reserved_bytes", 0);
    memory->used = (unsigned long long)number(gpu, "memory_used_bytes", 0);
    memory->free = memory->total - memory->reserved - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(void *handle, struct memory_v1 *memory) {
    BEGIN_GPU(handle);
    memory->total = (unsigned long long)number(gpu, "memory_total_bytes", 0);
    memory->used = (unsigned long long)(number(gpu, "memory_used_bytes", 0)
                                        + number(gpu, "memory_reserved_bytes", 0));
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

/* --- GPM -------------------------------------------------------------------------------------- */

struct support {
    unsigned version, supported;
};

struct metric {
    unsigned id;
    int code;
    double value;
    char *names[3];
};

struct metrics {
    unsigned version, count;
    struct sample *older, *newer;
    struct metric metric[]; /* as long as the header that the caller was built with says */
};

static int valid(const struct sample *sample) {
    return sample >= samples && sample < samples + SAMPLES && sample->session == session;
}

int nvmlGpmQueryDeviceSupport(void *handle, struct support *support) {
    BEGIN_GPU(handle);
    if (support->version != 1)
        return VERSION_MISMATCH;
    support->supported = (unsigned)number(gpu, "gpm_supported", 0);
    return SUCCESS;
}

int nvmlGpmSampleAlloc(struct sample **sample) {
    BEGIN();
    for (int i = 0; i < SAMPLES; i++)
        if (samples[i].session == 0) {
            samples[i] = (struct sample){.session = session, .gpu = NO_GPU};
            *sample = &samples[i];
            return SUCCESS;
        }
    return INSUFFICIENT_SIZE;
}

int nvmlGpmSampleFree(struct sample *sample) {
    BEGIN();
    if (!valid(sample))
        return INVALID_ARGUMENT;
    sample->session = 0;
    return SUCCESS;
}

int nvmlGpmSampleGet(void *handle, struct sample *sample) {
    BEGIN_GPU(handle);
    if (!valid(sample))
        return INVALID_ARGUMENT;
    sample->gpu = gpu;
    sample->at_ms = number(NO_GPU, "now_ms", clock_ms());
    return SUCCESS;
}

int nvmlGpmMetricsGet(struct metrics *metrics) {
    int gpu = valid(metrics->older) ? metrics->older->gpu : NO_GPU;
    int code = enter(__func__, gpu);
    if (code || !users)
        return code ? code : UNINITIALIZED;
    if (metrics->version != 1)
        return VERSION_MISMATCH;
    if (gpu == NO_GPU || !valid(metrics->newer) || metrics->newer->gpu != gpu || metrics->count > 98)
        return INVALID_ARGUMENT;
    double apart_ms = metrics->newer->at_ms - metrics->older->at_ms;
    if (apart_ms < 0)
        return INVALID_ARGUMENT;
    for (struct metric *metric = metrics->metric; metric < metrics->metric + metrics->count; metric++) {
        char key[TEXT], value[TEXT];
        snprintf(key, sizeof key, "gpm.%u", metric->id);
        metric->code = text(gpu, key, value) ? SUCCESS : NOT_SUPPORTED;
        metric->value = metric->code ? 0 : apart_ms > 100 ? strtod(value, NULL) : 4.2e9;
        strcat(key, ".return");
        metric->code = (int)number(gpu, key, metric->code);
    }
    return SUCCESS;
}
