/* A libnvidia-ml.so.1 for the tests: what nvidia-ml-py looks up, steered by a file while it runs.
 *
 * The file `control` beside the library holds lines `key=value`. Of a MIG instance `gpu1.mig2.key`
 * goes before `gpu1.key` before `key`, and what the file does not say comes from DEFAULTS below.
 *
 *   gpus=2                                    how many there are
 *   power_mw=70000, gpu1.gpm.10=nan           values, in NVML's own units
 *   virtualization=1, processes=7:1024,8      … pid:bytes; without bytes they are unknown
 *   fan_percent=40                            a GPU without it has no fan, as on a board of servers
 *   pcie_wait_ms=20                           how long the PCIe counters are watched, while the caller waits
 *   now_ms=1000                               the time of GPM samples and field values, else the clock's
 *
 * What a call answers:
 *   nvmlInit.return=9                         this code
 *   gpu0.nvmlDeviceGetPowerUsage.return=15    … on one GPU and its instances
 *   gpu1.return=15, return=18                 every call, on one GPU or at all
 *   gpu0.nvmlDeviceGetPowerUsage.delay_ms=1e6 hangs until the line is gone again
 *   gpu0.gpm.10.return=3                      the code of one GPM metric
 *
 * Field values; the scope that means all links is written `all`:
 *   field.83=12, field.138.all=34             the value, of every scope or of one
 *   field.83.return=4, field.138.0.type=1     its code; its nvmlValueType_t, else as in SMALL below
 *   field.newest=196                          a younger field is an invalid argument, as to an old driver
 *   field.strict=1                            … and one of them spoils the whole call
 * Without a value a field is not supported; 83 and 191 follow energy_mj, 185 and 186 power_mw.
 *
 * MIG, which a GPU without mig_mode does not have:
 *   mig_mode=1, mig_max=7                     is it on, how many instances there may be
 *   gpu1.migs=2, gpu0.mig0.empty=1            how many slots are in use; a hole among them
 *   gpu0.mig2.gi=9, gpu0.mig2.ci=0            the GPU instance (else the index + 7) and compute instance
 *   sm_count, gi_slices, ci_slices            the attributes; memory_mib follows memory_total_bytes
 *   gpu0.mig2.uuid, .name, .memory_used_bytes the instance's own, else made from its GPU's
 *   gpu0.mig2.processes=7:1024                never its GPU's
 *   gpu0.mig2.return=15                       every call about this instance, its handle's included
 *   gpu0.gi7.gpm.10=50, gpu0.gi7.return=15    the metrics and calls of nvmlGpmMigSampleGet
 *
 * The fabric, which a GPU without fabric_state does not have:
 *   fabric_state=3, fabric_status=0, fabric_health=1, fabric_clique=0
 *   fabric_newest=2                           a younger struct version is a mismatch
 *
 * Events:
 *   event_types=27                            what nvmlDeviceRegisterEvents takes
 *   xids=1:gpu0:79,2:gpu1:48                  number:gpu:XID, in rising order; each is delivered once to
 *                                             every set whose registration of that GPU is older
 *
 * What was called, for the tests of another process:
 *   record=1                                  a line `nvmlInit` or `nvmlShutdown` in the file `sessions`
 *                                             beside the library, when the call has succeeded
 *
 * As in the real library, handles, samples and event sets do not survive a shutdown, sizes and struct
 * versions are checked, and GPM answers nonsense without an error for samples less than 100 ms apart.
 */
#define _GNU_SOURCE
#include <assert.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum {
    SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7, TIMEOUT = 10, VERSION_MISMATCH = 25,
    KEY = 128, TEXT = 4096, LINES = 1 << 14, GPUS = 64, SAMPLES = 1024, SETS = 64, CALLS = 8192,
};

static const char DEFAULTS[] =
    "gpus=1\n"
    "driver_version=570.86.15\n"
    "cuda_driver_version=12080\n"
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
    "video_clock_mhz=1485\n"
    "video_clock_max_mhz=1485\n"
    "utilization_gpu_percent=94\n"
    "utilization_memory_percent=61\n"
    "utilization_encoder_percent=0\n"
    "utilization_decoder_percent=0\n"
    "utilization_period_us=167000\n"
    "pcie_sent_kib_per_second=51200\n"
    "pcie_received_kib_per_second=92160\n"
    "pcie_wait_ms=20\n"
    "clock_event_reasons=4\n"
    "gpm_supported=1\n"
    "gpm.1=98.5\n"
    "gpm.2=71.25\n"
    "gpm.5=1.5\n"
    "gpm.10=87.5\n"
    "field.3=2\n"              /* ECC errors: corrected, uncorrected */
    "field.4=0\n"
    "field.142=1\n"            /* remapped rows: corrected, uncorrected, pending, failure */
    "field.143=0\n"
    "field.144=0\n"
    "field.145=0\n"
    "field.74=41000000000\n"   /* ns of lowered clocks: power cap, sync boost, heat (SW, HW), brake */
    "field.76=0\n"
    "field.269=3000000000\n"
    "field.270=0\n"
    "field.271=0\n"
    "field.82=61\n"
    "field.138.all=734003200\n" /* NVLink, KiB sent and received */
    "field.139.all=629145600\n"
    "field.197=52428800000\n"  /* PCIe, bytes sent and received */
    "field.198=94371840000\n"
    "field.230=0\n"
    "mig_max=7\n"
    "sm_count=16\n"
    "gi_slices=1\n"
    "ci_slices=1\n"
    "virtualization=0\n"
    "fabric_newest=3\n"
    "event_types=27\n";

/* A device is the index of its GPU, and above it what is inside: the slot of an instance, or the id of
 * a GPU instance. */
enum { NODE = -1 };
#define GPU(device) ((device) & 0xff)
#define INSTANCE(gpu, slot) ((gpu) | ((int)(slot) + 1) << 8)
#define SLOT(device) (((device) >> 8 & 0xff) - 1)
#define GPU_INSTANCE(gpu, id) ((gpu) | ((int)(id) + 1) << 16)

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* guards what follows, down to `sets` */
static struct table {
    char text[1 << 18];
    struct line { const char *key, *value; } lines[LINES]; /* at the hash of the key, or soon after */
} control, defaults;
static struct timespec control_written;
static struct { const char *name; int device; long count; } calls[CALLS];
static struct event_set {
    unsigned session; /* 0: free */
    unsigned long long types[GPUS];
    long seen[GPUS]; /* the number of the last XID that was delivered, or that came too early */
} sets[SETS];

static unsigned session, users; /* sessions begun; nvmlInit without its nvmlShutdown */
static struct sample { unsigned session; int device; double at_ms; } samples[SAMPLES]; /* session 0: free */

/* --- the control file ------------------------------------------------------------------------- */

static struct line *line_of(struct table *table, const char *key) {
    unsigned hash = 2166136261u;
    for (const char *byte = key; *byte; byte++)
        hash = (hash ^ (unsigned char)*byte) * 16777619u;
    unsigned at = hash % LINES;
    while (table->lines[at].key && strcmp(table->lines[at].key, key) != 0)
        at = (at + 1) % LINES;
    return &table->lines[at];
}

static void index_lines(struct table *table) {
    int count = 0;
    memset(table->lines, 0, sizeof table->lines);
    for (char *line = table->text, *next; *line; line = next) {
        next = strchrnul(line, '\n');
        if (*next)
            *next++ = 0;
        char *value = strchr(line, '=');
        if (!value)
            continue;
        *value++ = 0;
        *line_of(table, line) = (struct line){line, value};
        assert(++count < LINES / 2);
    }
}

static void beside_the_library(const char *name, char *path, size_t size) {
    Dl_info self;
    dladdr(DEFAULTS, &self);
    const char *slash = strrchr(self.dli_fname, '/');
    int directory = slash ? (int)(slash + 1 - self.dli_fname) : 0;
    snprintf(path, size, "%.*s%s", directory, self.dli_fname, name);
}

static void refresh(void) {
    static char path[4096];
    struct stat status;
    if (!*path) {
        beside_the_library("control", path, sizeof path);
        strcpy(defaults.text, DEFAULTS);
        index_lines(&defaults);
    }
    if (stat(path, &status) != 0 || memcmp(&status.st_mtim, &control_written, sizeof control_written) == 0)
        return;
    FILE *file = fopen(path, "r");
    if (!file)
        return;
    size_t size = fread(control.text, 1, sizeof control.text, file);
    fclose(file);
    assert(size < sizeof control.text);
    control.text[size] = 0;
    index_lines(&control);
    control_written = status.st_mtim;
}

static int find(struct table *table, const char *key, char *value) {
    const char *found = line_of(table, key)->value;
    if (found)
        snprintf(value, TEXT, "%s", found);
    return found != NULL;
}

/* What the file says of this very device. */
static int own(int device, const char *key, char *value) {
    char scoped[KEY];
    if (device == NODE)
        snprintf(scoped, sizeof scoped, "%s", key);
    else if (device >> 16)
        snprintf(scoped, sizeof scoped, "gpu%d.gi%d.%s", GPU(device), (device >> 16) - 1, key);
    else if (device >> 8)
        snprintf(scoped, sizeof scoped, "gpu%d.mig%d.%s", GPU(device), SLOT(device), key);
    else
        snprintf(scoped, sizeof scoped, "gpu%d.%s", device, key);
    pthread_mutex_lock(&mutex);
    int found = find(&control, scoped, value);
    pthread_mutex_unlock(&mutex);
    return found;
}

/* … of it or of what it is a part of. */
static int said(int device, const char *key, char *value) {
    while (!own(device, key, value)) {
        if (device == NODE)
            return 0;
        device = device >> 8 ? GPU(device) : NODE;
    }
    return 1;
}

static int by_default(const char *key, char *value) {
    pthread_mutex_lock(&mutex);
    int found = find(&defaults, key, value);
    pthread_mutex_unlock(&mutex);
    return found;
}

static int text(int device, const char *key, char *value) {
    return said(device, key, value) || by_default(key, value);
}

static double number(int device, const char *key, double otherwise) {
    char value[TEXT];
    return text(device, key, value) ? strtod(value, NULL) : otherwise;
}

/* A double would round what is above 2^53. */
static unsigned long long integer_in(const char *value) {
    char *end;
    unsigned long long integer = strtoull(value, &end, 10);
    return *end ? (unsigned long long)strtod(value, NULL) : integer;
}

static unsigned long long integer(int device, const char *key, unsigned long long otherwise) {
    char value[TEXT];
    return text(device, key, value) ? integer_in(value) : otherwise;
}

static double of_call(const char *call, int device, const char *what, double otherwise) {
    char key[KEY];
    snprintf(key, sizeof key, "%s.%s", call, what);
    return number(device, key, number(device, what, otherwise));
}

/* --- every call begins here ------------------------------------------------------------------- */

static double clock_ms(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

static void count_and_refresh(const char *call, int device, int count) {
    pthread_mutex_lock(&mutex);
    refresh();
    for (int i = 0; count && i < CALLS; i++)
        if (!calls[i].name || (calls[i].device == device && calls[i].name == call)) {
            calls[i].name = call;
            calls[i].device = device;
            calls[i].count++;
            break;
        }
    pthread_mutex_unlock(&mutex);
}

static void wait_and_refresh(int ms) {
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
    count_and_refresh(NULL, NODE, 0);
}

static int enter(const char *call, int device) {
    double since = clock_ms(CLOCK_MONOTONIC);
    count_and_refresh(call, device, 1);
    while (clock_ms(CLOCK_MONOTONIC) - since < of_call(call, device, "delay_ms", 0))
        wait_and_refresh(2);
    return (int)of_call(call, device, "return", SUCCESS);
}

/* How often a call was made at all (-1), about one GPU with its instances, or about one of these. For
 * the tests, like the next two. */
long standin_calls(const char *call, int device) {
    long count = 0;
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < CALLS && calls[i].name; i++)
        if (strcmp(calls[i].name, call) == 0
            && (device == NODE || calls[i].device == device || GPU(calls[i].device) == device))
            count += calls[i].count;
    pthread_mutex_unlock(&mutex);
    return count;
}

/* How many GPM samples of this session are allocated. */
int standin_samples(void) {
    int count = 0;
    for (int i = 0; i < SAMPLES; i++)
        count += session && samples[i].session == session;
    return count;
}

/* How many event sets of this session there are. */
int standin_event_sets(void) {
    int count = 0;
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < SETS; i++)
        count += session && sets[i].session == session;
    pthread_mutex_unlock(&mutex);
    return count;
}

/* --- the session ------------------------------------------------------------------------------ */

static void record(const char *call) {
    char path[4096];
    if (!number(NODE, "record", 0))
        return;
    beside_the_library("sessions", path, sizeof path);
    FILE *file = fopen(path, "a");
    if (!file)
        return;
    fprintf(file, "%s\n", call);
    fclose(file);
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    int code = enter("nvmlInit", NODE);
    if (code == SUCCESS && users++ == 0)
        session++;
    if (code == SUCCESS)
        record("nvmlInit");
    return code;
}

int nvmlShutdown(void) {
    int code = enter(__func__, NODE);
    if (users == 0)
        return UNINITIALIZED;
    users--;
    if (code == SUCCESS)
        record(__func__);
    return code;
}

static int begin(const char *call, int device) {
    int code = enter(call, device);
    return code ? code : users ? SUCCESS : UNINITIALIZED;
}

/* A handle is its session and its device. */
static void *handle_of(int device) {
    return (void *)((size_t)session << 16 | (unsigned)(device + 1));
}

static int device_of(void *handle) {
    return (int)((size_t)handle & 0xffff) - 1;
}

static int in_use(int instance) {
    char value[TEXT];
    int gpu = GPU(instance), slot = SLOT(instance);
    return number(gpu, "mig_mode", 0) == 1 && slot < number(gpu, "mig_max", 0)
           && slot < number(gpu, "migs", 0) && !(own(instance, "empty", value) && strtod(value, NULL));
}

enum { WHOLE = 1, PART = 2 }; /* GPUs; instances of MIG */

static int begin_about(const char *call, void *handle, int kinds) {
    int device = device_of(handle), code = begin(call, device), part = SLOT(device) >= 0;
    if (code)
        return code;
    if (handle != handle_of(device) || (part && !in_use(device)))
        return INVALID_ARGUMENT;
    return kinds & (part ? PART : WHOLE) ? SUCCESS : NOT_SUPPORTED;
}

#define TRY(call) \
    do { \
        int code_ = call; \
        if (code_) \
            return code_; \
    } while (0)

/* Begin a call about the node, or about a device of the kinds that it is meant for. */
#define BEGIN() TRY(begin(__func__, NODE))
#define BEGIN_ABOUT(kinds, handle) \
    int device = device_of(handle); \
    TRY(begin_about(__func__, handle, kinds))
#define BEGIN_GPU(handle) BEGIN_ABOUT(WHOLE, handle)
#define BEGIN_INSTANCE(handle) BEGIN_ABOUT(PART, handle)
#define BEGIN_DEVICE(handle) BEGIN_ABOUT(WHOLE | PART, handle)

static int give(const char *value, char *to, unsigned size) {
    if (strlen(value) >= size)
        return INSUFFICIENT_SIZE;
    strcpy(to, value);
    return SUCCESS;
}

int nvmlSystemGetDriverVersion(char *version, unsigned size) {
    BEGIN();
    char value[TEXT];
    return text(NODE, "driver_version", value) ? give(value, version, size) : NOT_SUPPORTED;
}

int nvmlSystemGetCudaDriverVersion(int *version) {
    BEGIN();
    *version = (int)number(NODE, "cuda_driver_version", 0);
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    BEGIN();
    *count = (unsigned)number(NODE, "gpus", 0);
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    TRY(begin(__func__, (int)index));
    if (index >= number(NODE, "gpus", 0) || index >= GPUS)
        return INVALID_ARGUMENT;
    *handle = handle_of((int)index);
    return SUCCESS;
}

/* --- what a GPU is ---------------------------------------------------------------------------- */

int nvmlDeviceGetName(void *handle, char *name, unsigned size) {
    BEGIN_DEVICE(handle);
    char value[TEXT] = "";
    if (!own(device, "name", value)) {
        text(device, "name", value);
        if (SLOT(device) >= 0)
            strcat(value, " MIG 1g.10gb");
    }
    return give(value, name, size);
}

int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned size) {
    BEGIN_DEVICE(handle);
    char value[TEXT];
    if (SLOT(device) < 0 && !text(device, "uuid", value))
        snprintf(value, sizeof value, "GPU-00000000-0000-0000-0000-%012d", device);
    if (SLOT(device) >= 0 && !own(device, "uuid", value))
        snprintf(value, sizeof value, "MIG-00000000-0000-0000-%04d-%012d", GPU(device), SLOT(device));
    return give(value, uuid, size);
}

struct pci {
    char legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char bus_id[32];
};

int nvmlDeviceGetPciInfo_v3(void *handle, struct pci *pci) {
    BEGIN_DEVICE(handle);
    memset(pci, 0, sizeof *pci);
    pci->bus = 0x10 + GPU(device);
    snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", pci->bus);
    return SUCCESS;
}

int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    BEGIN_DEVICE(handle);
    char value[TEXT] = "";
    text(device, "compute_capability", value);
    return sscanf(value, "%d.%d", major, minor) == 2 ? SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetVirtualizationMode(void *handle, unsigned *mode) {
    BEGIN_GPU(handle);
    *mode = (unsigned)number(device, "virtualization", 0);
    return SUCCESS;
}

struct fabric {
    unsigned version;
    unsigned char cluster[16];
    unsigned status, clique;
    unsigned char state;
    unsigned health_mask;
    unsigned char health; /* from version 3 on */
};

int nvmlDeviceGetGpuFabricInfoV(void *handle, struct fabric *fabric) {
    BEGIN_GPU(handle);
    unsigned version = fabric->version >> 24;
    if ((fabric->version != 0x02000024 && fabric->version != 0x03000028)
        || version > number(device, "fabric_newest", 0))
        return VERSION_MISMATCH;
    char value[TEXT];
    if (!text(device, "fabric_state", value))
        return NOT_SUPPORTED;
    fabric->state = (unsigned char)strtod(value, NULL);
    fabric->status = (unsigned)number(device, "fabric_status", SUCCESS);
    fabric->clique = (unsigned)number(device, "fabric_clique", 0);
    fabric->health_mask = 0;
    memset(fabric->cluster, 0, sizeof fabric->cluster);
    if (version >= 3)
        fabric->health = (unsigned char)number(device, "fabric_health", 0);
    return SUCCESS;
}

/* --- MIG -------------------------------------------------------------------------------------- */

int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    BEGIN_GPU(handle);
    char value[TEXT];
    if (!text(device, "mig_mode", value))
        return NOT_SUPPORTED;
    *current = *pending = (unsigned)integer_in(value);
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *count) {
    BEGIN_GPU(handle);
    *count = number(device, "mig_mode", 0) == 1 ? (unsigned)number(device, "mig_max", 0) : 0;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned index, void **instance) {
    int gpu = device_of(handle);
    TRY(begin(__func__, INSTANCE(gpu, index & 0x7f)));
    if (handle != handle_of(gpu) || SLOT(gpu) >= 0 || index >= number(gpu, "mig_max", 0))
        return INVALID_ARGUMENT;
    if (number(gpu, "mig_mode", 0) != 1)
        return NOT_SUPPORTED;
    if (!in_use(INSTANCE(gpu, index)))
        return NOT_FOUND;
    *instance = handle_of(INSTANCE(gpu, index));
    return SUCCESS;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *handle, void **gpu) {
    BEGIN_INSTANCE(handle);
    *gpu = handle_of(GPU(device));
    return SUCCESS;
}

static unsigned gi_of(int instance) {
    return (unsigned)number(instance, "gi", SLOT(instance) + 7);
}

static unsigned ci_of(int instance) {
    return (unsigned)number(instance, "ci", 0);
}

int nvmlDeviceGetGpuInstanceId(void *handle, unsigned *id) {
    BEGIN_INSTANCE(handle);
    *id = gi_of(device);
    return SUCCESS;
}

int nvmlDeviceGetComputeInstanceId(void *handle, unsigned *id) {
    BEGIN_INSTANCE(handle);
    *id = ci_of(device);
    return SUCCESS;
}

static unsigned long long bytes(int device, const char *key) {
    char value[TEXT];
    return own(device, key, value) ? integer_in(value) : integer(device, key, 0) / (SLOT(device) < 0 ? 1 : 8);
}

struct attributes {
    unsigned sms, copy_engines, decoders, encoders, jpegs, ofas, gi_slices, ci_slices;
    unsigned long long memory_mib;
};

int nvmlDeviceGetAttributes_v2(void *handle, struct attributes *attributes) {
    BEGIN_INSTANCE(handle);
    *attributes = (struct attributes){
        .sms = (unsigned)number(device, "sm_count", 0),
        .copy_engines = 1,
        .decoders = 1,
        .gi_slices = (unsigned)number(device, "gi_slices", 0),
        .ci_slices = (unsigned)number(device, "ci_slices", 0),
        .memory_mib = integer(device, "memory_mib", bytes(device, "memory_total_bytes") >> 20),
    };
    return SUCCESS;
}

/* --- what it does ----------------------------------------------------------------------------- */

#define ONE_NUMBER(call, begin, type, key) \
    int call(void *handle, type *value) { \
        begin(handle); \
        *value = (type)integer(device, key, 0); \
        return SUCCESS; \
    }

ONE_NUMBER(nvmlDeviceGetMemoryBusWidth, BEGIN_DEVICE, unsigned, "bus_bits")
ONE_NUMBER(nvmlDeviceGetPowerUsage, BEGIN_GPU, unsigned, "power_mw")
ONE_NUMBER(nvmlDeviceGetEnforcedPowerLimit, BEGIN_GPU, unsigned, "power_limit_mw")
ONE_NUMBER(nvmlDeviceGetPowerManagementLimit, BEGIN_GPU, unsigned, "power_limit_mw")
ONE_NUMBER(nvmlDeviceGetTotalEnergyConsumption, BEGIN_GPU, unsigned long long, "energy_mj")
ONE_NUMBER(nvmlDeviceGetCurrentClocksEventReasons, BEGIN_GPU, unsigned long long, "clock_event_reasons")
ONE_NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, BEGIN_GPU, unsigned long long, "clock_event_reasons")

int nvmlDeviceGetTemperature(void *handle, unsigned sensor, unsigned *celsius) {
    BEGIN_GPU(handle);
    (void)sensor;
    *celsius = (unsigned)number(device, "temperature_c", 0);
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
    temperature->celsius = (int)number(device, "temperature_c", 0);
    return SUCCESS;
}

int nvmlDeviceGetFanSpeed(void *handle, unsigned *percent) {
    BEGIN_GPU(handle);
    char value[TEXT];
    if (!text(device, "fan_percent", value))
        return NOT_SUPPORTED;
    *percent = (unsigned)integer_in(value);
    return SUCCESS;
}

/* Graphics and SMs have one clock. */
static int mhz(int device, unsigned type, unsigned *value, const char *sm, const char *memory, const char *video) {
    if (type > 3)
        return INVALID_ARGUMENT;
    *value = (unsigned)number(device, type == 2 ? memory : type == 3 ? video : sm, 0);
    return SUCCESS;
}

int nvmlDeviceGetClockInfo(void *handle, unsigned type, unsigned *value) {
    BEGIN_GPU(handle);
    return mhz(device, type, value, "sm_clock_mhz", "memory_clock_mhz", "video_clock_mhz");
}

int nvmlDeviceGetMaxClockInfo(void *handle, unsigned type, unsigned *value) {
    BEGIN_GPU(handle);
    return mhz(device, type, value, "sm_clock_max_mhz", "memory_clock_max_mhz", "video_clock_max_mhz");
}

struct utilization {
    unsigned gpu, memory;
};

int nvmlDeviceGetUtilizationRates(void *handle, struct utilization *utilization) {
    BEGIN_GPU(handle);
    if (number(device, "mig_mode", 0) == 1)
        return NOT_SUPPORTED;
    utilization->gpu = (unsigned)number(device, "utilization_gpu_percent", 0);
    utilization->memory = (unsigned)number(device, "utilization_memory_percent", 0);
    return SUCCESS;
}

#define CODEC(call, key) \
    int call(void *handle, unsigned *percent, unsigned *period_us) { \
        BEGIN_GPU(handle); \
        *percent = (unsigned)number(device, key, 0); \
        *period_us = (unsigned)number(device, "utilization_period_us", 0); \
        return SUCCESS; \
    }

CODEC(nvmlDeviceGetEncoderUtilization, "utilization_encoder_percent")
CODEC(nvmlDeviceGetDecoderUtilization, "utilization_decoder_percent")

int nvmlDeviceGetPcieThroughput(void *handle, unsigned received, unsigned *kib_per_second) {
    BEGIN_GPU(handle);
    if (received > 1)
        return INVALID_ARGUMENT;
    nanosleep(&(struct timespec){.tv_nsec = (long)(number(device, "pcie_wait_ms", 0) * 1e6)}, NULL);
    *kib_per_second =
        (unsigned)number(device, received ? "pcie_received_kib_per_second" : "pcie_sent_kib_per_second", 0);
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
    BEGIN_DEVICE(handle);
    if (memory->version != 0x02000028)
        return VERSION_MISMATCH;
    memory->total = bytes(device, "memory_total_bytes");
    memory->reserved = bytes(device, "memory_reserved_bytes");
    memory->used = bytes(device, "memory_used_bytes");
    memory->free = memory->total - memory->reserved - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(void *handle, struct memory_v1 *memory) {
    BEGIN_DEVICE(handle);
    memory->total = bytes(device, "memory_total_bytes");
    memory->used = bytes(device, "memory_used_bytes") + bytes(device, "memory_reserved_bytes");
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

struct process {
    unsigned pid;
    unsigned long long bytes;
    unsigned gi, ci;
};

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, struct process *processes) {
    BEGIN_DEVICE(handle);
    int part = SLOT(device) >= 0;
    char list[TEXT] = "";
    if (part)
        own(device, "processes", list);
    else
        text(device, "processes", list);
    unsigned room = *count, found = 0;
    for (char *rest = list, *item; (item = strsep(&rest, ",")) && *item; found++) {
        char *size = strchr(item, ':');
        if (found < room)
            processes[found] = (struct process){
                .pid = (unsigned)integer_in(strsep(&item, ":")),
                .bytes = size ? integer_in(size + 1) : ~0ull,
                .gi = part ? gi_of(device) : ~0u,
                .ci = part ? ci_of(device) : ~0u,
            };
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}

/* None of those that the tests run draws anything. */
int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned *count, struct process *processes) {
    TRY(begin_about(__func__, handle, WHOLE | PART));
    (void)processes;
    *count = 0;
    return SUCCESS;
}

struct process_utilization {
    unsigned pid;
    unsigned long long at_us;
    unsigned sm, memory, encoder, decoder;
};

/* All that the GPU does is ascribed to each of them. */
int nvmlDeviceGetProcessUtilization(
    void *handle, struct process_utilization *samples, unsigned *count, unsigned long long since_us) {
    BEGIN_GPU(handle);
    char list[TEXT] = "";
    text(device, "processes", list);
    unsigned room = samples ? *count : 0, found = 0;
    unsigned long long now_us = (unsigned long long)(number(NODE, "now_ms", clock_ms(CLOCK_REALTIME)) * 1e3);
    for (char *rest = list, *item; (item = strsep(&rest, ",")) && *item && now_us > since_us; found++)
        if (found < room)
            samples[found] = (struct process_utilization){
                .pid = (unsigned)integer_in(strsep(&item, ":")),
                .at_us = now_us,
                .sm = (unsigned)number(device, "utilization_gpu_percent", 0),
                .memory = (unsigned)number(device, "utilization_memory_percent", 0),
            };
    *count = found;
    return !found ? NOT_FOUND : found > room ? INSUFFICIENT_SIZE : SUCCESS;
}

/* --- field values ----------------------------------------------------------------------------- */

static const unsigned SMALL[] = {82, 91, 142, 143, 144, 145, 164, 165, 185, 186, 230}; /* 32 bits; else 64 */

struct field {
    unsigned id, scope;
    long long at_us, latency_us;
    unsigned type, code;
    union {
        double d;
        unsigned ui;
        unsigned long ul;
        unsigned long long ull;
        long long sll;
        int si;
        unsigned short us;
    } value;
};

static int of_field(int device, const struct field *field, const char *what, char *value) {
    char of_one[KEY], of_all[KEY], scope[16] = "all";
    if (field->scope != ~0u)
        snprintf(scope, sizeof scope, "%u", field->scope);
    snprintf(of_one, sizeof of_one, "field.%u.%s%s", field->id, scope, what);
    snprintf(of_all, sizeof of_all, "field.%u%s", field->id, what);
    return said(device, of_one, value) || said(device, of_all, value)
           || (!*what && (by_default(of_one, value) || by_default(of_all, value)));
}

static unsigned type_of(unsigned id) {
    for (size_t i = 0; i < sizeof SMALL / sizeof *SMALL; i++)
        if (SMALL[i] == id)
            return 1;
    return 3;
}

static void read_field(int device, struct field *field, unsigned newest) {
    unsigned id = field->id;
    const char *otherwise = id == 83 || id == 191 ? "energy_mj" : id == 185 || id == 186 ? "power_mw" : "";
    char value[TEXT], other[TEXT];
    int found = of_field(device, field, "", value) || (*otherwise && text(device, otherwise, value));
    field->value.ull = 0;
    field->latency_us = 0;
    field->at_us = (long long)(number(NODE, "now_ms", clock_ms(CLOCK_REALTIME)) * 1e3);
    field->type = of_field(device, field, ".type", other) ? (unsigned)integer_in(other) : type_of(id);
    field->code = id > newest ? INVALID_ARGUMENT
                  : of_field(device, field, ".return", other) ? (unsigned)integer_in(other)
                  : found ? SUCCESS : NOT_SUPPORTED;
    if (field->code || !found)
        return;
    switch (field->type) {
    case 0: field->value.d = strtod(value, NULL); break;
    case 1: field->value.ui = (unsigned)integer_in(value); break;
    case 2: field->value.ul = integer_in(value); break;
    case 3: field->value.ull = integer_in(value); break;
    case 4: field->value.sll = strtoll(value, NULL, 10); break;
    case 5: field->value.si = (int)strtol(value, NULL, 10); break;
    case 6: field->value.us = (unsigned short)integer_in(value); break;
    }
}

int nvmlDeviceGetFieldValues(void *handle, int count, struct field *fields) {
    BEGIN_GPU(handle);
    unsigned newest = (unsigned)number(device, "field.newest", ~0u);
    for (int i = 0; i < count && number(device, "field.strict", 0); i++)
        if (fields[i].id > newest)
            return INVALID_ARGUMENT;
    for (int i = 0; i < count; i++)
        read_field(device, &fields[i], newest);
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
    BEGIN_DEVICE(handle);
    if (support->version != 1)
        return VERSION_MISMATCH;
    support->supported = (unsigned)number(device, "gpm_supported", 0);
    return SUCCESS;
}

int nvmlGpmSampleAlloc(struct sample **sample) {
    BEGIN();
    for (int i = 0; i < SAMPLES; i++)
        if (samples[i].session == 0) {
            samples[i] = (struct sample){.session = session, .device = NODE};
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

static int take(struct sample *sample, int device) {
    if (!valid(sample))
        return INVALID_ARGUMENT;
    sample->device = device;
    sample->at_ms = number(NODE, "now_ms", clock_ms(CLOCK_MONOTONIC));
    return SUCCESS;
}

int nvmlGpmSampleGet(void *handle, struct sample *sample) {
    BEGIN_GPU(handle);
    return take(sample, device);
}

int nvmlGpmMigSampleGet(void *handle, unsigned gi, struct sample *sample) {
    int gpu = device_of(handle);
    TRY(begin(__func__, GPU_INSTANCE(gpu, gi & 0x7f)));
    if (handle == handle_of(gpu) && SLOT(gpu) < 0)
        for (int slot = 0; slot < number(gpu, "mig_max", 0); slot++)
            if (in_use(INSTANCE(gpu, slot)) && gi_of(INSTANCE(gpu, slot)) == gi)
                return take(sample, GPU_INSTANCE(gpu, gi));
    return INVALID_ARGUMENT;
}

int nvmlGpmMetricsGet(struct metrics *metrics) {
    int device = valid(metrics->older) ? metrics->older->device : NODE;
    TRY(begin(__func__, device));
    if (metrics->version != 1)
        return VERSION_MISMATCH;
    if (device == NODE || !valid(metrics->newer) || metrics->newer->device != device || metrics->count > 98)
        return INVALID_ARGUMENT;
    double apart_ms = metrics->newer->at_ms - metrics->older->at_ms;
    if (apart_ms < 0)
        return INVALID_ARGUMENT;
    for (struct metric *metric = metrics->metric; metric < metrics->metric + metrics->count; metric++) {
        char key[KEY], value[TEXT];
        snprintf(key, sizeof key, "gpm.%u", metric->id);
        metric->code = text(device, key, value) ? SUCCESS : NOT_SUPPORTED;
        metric->value = metric->code ? 0 : apart_ms > 100 ? strtod(value, NULL) : 4.2e9;
        strcat(key, ".return");
        metric->code = (int)number(device, key, metric->code);
    }
    return SUCCESS;
}

/* --- events ----------------------------------------------------------------------------------- */

struct event {
    void *handle;
    unsigned long long type, data;
    unsigned gi, ci;
};

enum { XID = 8 };

struct xid {
    long number;
    int gpu;
    unsigned long long code;
};

static int next_xid(const char **list, struct xid *xid) {
    int length = 0;
    if (sscanf(*list, "%ld:gpu%d:%llu%n", &xid->number, &xid->gpu, &xid->code, &length) != 3)
        return 0;
    *list += length + ((*list)[length] == ',');
    return xid->gpu >= 0 && xid->gpu < GPUS;
}

/* The mutex is held. */
static int living(const struct event_set *set) {
    return set >= sets && set < sets + SETS && set->session == session;
}

int nvmlEventSetCreate(struct event_set **set) {
    BEGIN();
    int code = INSUFFICIENT_SIZE;
    pthread_mutex_lock(&mutex);
    for (int i = 0; code && i < SETS; i++)
        if (sets[i].session != session) {
            sets[i] = (struct event_set){.session = session};
            *set = &sets[i];
            code = SUCCESS;
        }
    pthread_mutex_unlock(&mutex);
    return code;
}

int nvmlEventSetFree(struct event_set *set) {
    BEGIN();
    pthread_mutex_lock(&mutex);
    int code = living(set) ? SUCCESS : INVALID_ARGUMENT;
    if (!code)
        set->session = 0;
    pthread_mutex_unlock(&mutex);
    return code;
}

ONE_NUMBER(nvmlDeviceGetSupportedEventTypes, BEGIN_GPU, unsigned long long, "event_types")

int nvmlDeviceRegisterEvents(void *handle, unsigned long long types, struct event_set *set) {
    BEGIN_GPU(handle);
    if (types & ~integer(device, "event_types", 0))
        return NOT_SUPPORTED;
    char list[TEXT] = "";
    const char *rest = list;
    struct xid xid = {0};
    text(NODE, "xids", list);
    while (next_xid(&rest, &xid))
        ;
    pthread_mutex_lock(&mutex);
    int code = living(set) ? SUCCESS : INVALID_ARGUMENT;
    if (!code) {
        set->types[device] |= types;
        set->seen[device] = xid.number;
    }
    pthread_mutex_unlock(&mutex);
    return code;
}

/* The first that is new to the set. The mutex is held. */
static int deliver(struct event_set *set, const char *list, struct event *event) {
    for (struct xid xid; next_xid(&list, &xid);)
        if (set->types[xid.gpu] & XID && xid.number > set->seen[xid.gpu]) {
            set->seen[xid.gpu] = xid.number;
            *event = (struct event){handle_of(xid.gpu), XID, xid.code, ~0u, ~0u};
            return 1;
        }
    return 0;
}

int nvmlEventSetWait_v2(struct event_set *set, struct event *event, unsigned ms) {
    BEGIN();
    for (double since = clock_ms(CLOCK_MONOTONIC);;) {
        char list[TEXT] = "";
        text(NODE, "xids", list);
        pthread_mutex_lock(&mutex);
        int code = !users ? UNINITIALIZED
                   : !living(set) ? INVALID_ARGUMENT
                   : deliver(set, list, event) ? SUCCESS : TIMEOUT;
        pthread_mutex_unlock(&mutex);
        if (code != TIMEOUT || clock_ms(CLOCK_MONOTONIC) - since >= ms)
            return code;
        wait_and_refresh((int)of_call(__func__, NODE, "poll_ms", 50));
        TRY((int)of_call(__func__, NODE, "return", SUCCESS));
    }
}
