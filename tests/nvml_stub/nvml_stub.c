/* Stands in for libnvidia-ml.so.1: answers as the file named in NVML_STUB_CONFIG says, so that the real nvidia-ml-py
 * runs on a machine without a GPU. One statement a line:
 *
 *   driver 580.65.06                          nvml 13.580.65.06          cuda 13000
 *   init 18                                   the code nvmlInit returns
 *   gpu uuid=GPU-1 cc=9.0 memory=150754820096 used=0 mig=1 name=NVIDIA H200     name comes last
 *   slice uuid=MIG-1 memory=18253611008 name=NVIDIA H200 MIG 1g.18gb     of the gpu before it
 *   process pid=4242 used=1073741824         on the gpu or slice before it; the file of pid=@path holds the number
 *   mps pid=4243 used=1073741824              a client of MPS there, which only that list of newer drivers tells
 *   fail nvmlDeviceGetMemoryInfo 999 0        call, code, GPU (or nothing: every GPU)
 *   hang nvmlDeviceGetCount                   never returns
 *   crash nvmlDeviceGetName                   ends the process with SIGSEGV
 *
 * The file is read again at each nvmlDeviceGetCount, so that memory can change under a running program.
 *
 * -DOLD_DRIVER leaves out the functions that drivers before R450 do not have.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };
enum { MAX_GPUS = 16, MAX_SLICES = 8, MAX_TRAPS = 16, MAX_PROCESSES = 8 };

typedef struct {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
} Process;

typedef struct Device {
    int index, cc_major, cc_minor, mig, slice_count;
    char uuid[96], name[96];
    unsigned long long memory, used;
    unsigned process_count, client_count;
    Process processes[MAX_PROCESSES], clients[MAX_PROCESSES];
    struct Device *slices;
} Device;

typedef struct {
    char kind, call[64];
    int code, gpu;
} Trap;

static Device gpus[MAX_GPUS];
static Trap traps[MAX_TRAPS];
static int gpu_count, trap_count, cuda = 13000, init_code, loaded;
static char driver[64] = "580.65.06", library[64] = "13.580.65.06";

static void read_device(Device *device, const char *line, int index)
{
    const char *at;
    device->index = index;
    if ((at = strstr(line, "uuid="))) sscanf(at, "uuid=%95s", device->uuid);
    if ((at = strstr(line, "cc="))) sscanf(at, "cc=%d.%d", &device->cc_major, &device->cc_minor);
    if ((at = strstr(line, "memory="))) sscanf(at, "memory=%llu", &device->memory);
    if ((at = strstr(line, "used="))) sscanf(at, "used=%llu", &device->used);
    if ((at = strstr(line, "mig="))) sscanf(at, "mig=%d", &device->mig);
    else device->mig = -1;
    if ((at = strstr(line, "name="))) sscanf(at, "name=%95[^\n]", device->name);
}

static void read_process(Process *processes, unsigned *count, const char *line)
{
    char path[256];
    const char *at = strstr(line, "pid=");
    Process *process = &processes[*count];
    FILE *file;
    *process = (Process){0};
    if (at && sscanf(at, "pid=@%255s", path) == 1) {
        file = fopen(path, "r");
        if (!file || fscanf(file, "%u", &process->pid) != 1) process->pid = 0;
        if (file) fclose(file);
    } else if (at) sscanf(at, "pid=%u", &process->pid);
    if ((at = strstr(line, "used="))) sscanf(at, "used=%llu", &process->used);
    if (process->pid && *count + 1 < MAX_PROCESSES) ++*count;
}

static void read_trap(char kind, const char *line)
{
    Trap *trap = &traps[trap_count];
    *trap = (Trap){.kind = kind, .gpu = -1};
    if (trap_count < MAX_TRAPS && sscanf(line, "%*s %63s %d %d", trap->call, &trap->code, &trap->gpu) >= 1) trap_count++;
}

static void load(void)
{
    const char *path = getenv("NVML_STUB_CONFIG");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[512];
    Device *last = NULL, *slices;
    loaded = 1;
    gpu_count = trap_count = 0;
    while (file && fgets(line, sizeof line, file)) {
        sscanf(line, "driver %63s", driver);
        sscanf(line, "nvml %63s", library);
        sscanf(line, "cuda %d", &cuda);
        sscanf(line, "init %d", &init_code);
        if (!strncmp(line, "gpu ", 4) && gpu_count < MAX_GPUS) {
            slices = gpus[gpu_count].slices ? gpus[gpu_count].slices : calloc(MAX_SLICES, sizeof(Device));
            memset(slices, 0, MAX_SLICES * sizeof(Device));
            gpus[gpu_count] = (Device){.slices = slices};
            read_device(last = &gpus[gpu_count], line, gpu_count);
            gpu_count++;
        }
        if (!strncmp(line, "slice ", 6) && gpu_count > 0 && gpus[gpu_count - 1].slice_count < MAX_SLICES) {
            Device *gpu = &gpus[gpu_count - 1];
            read_device(last = &gpu->slices[gpu->slice_count++], line, gpu->index);
        }
        if (!strncmp(line, "process ", 8) && last) read_process(last->processes, &last->process_count, line);
        if (!strncmp(line, "mps ", 4) && last) read_process(last->clients, &last->client_count, line);
        if (!strncmp(line, "fail ", 5)) read_trap('f', line);
        if (!strncmp(line, "hang ", 5)) read_trap('h', line);
        if (!strncmp(line, "crash ", 6)) read_trap('c', line);
    }
    if (file) fclose(file);
}

/* What the configuration wants of this call: 0 to go on, else the code to return. */
static int trapped(const char *call, int gpu)
{
    if (!loaded) load();
    for (int i = 0; i < trap_count; i++) {
        if (strcmp(traps[i].call, call) || (traps[i].gpu >= 0 && gpu >= 0 && traps[i].gpu != gpu)) continue;
        if (traps[i].kind == 'c') raise(SIGSEGV);
        while (traps[i].kind == 'h') pause();
        return traps[i].code;
    }
    return SUCCESS;
}

#define CHECK(gpu)                                         \
    do {                                                   \
        int code = trapped(__func__, gpu);                 \
        if (code) return code;                             \
    } while (0)

static int give(char *buffer, unsigned size, const char *text)
{
    if (strlen(text) + 1 > size) return INSUFFICIENT_SIZE;
    strcpy(buffer, text);
    return SUCCESS;
}

int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    CHECK(-1);
    return init_code;
}

int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int code)
{
    switch (code) {
    case 3: return "Not Supported";
    case 4: return "Insufficient Permissions";
    case 9: return "Driver Not Loaded";
    case 15: return "GPU is lost";
    case 18: return "Driver/library version mismatch";
    case 999: return "Unknown Error";
    default: return "Another Error";
    }
}

int nvmlSystemGetDriverVersion(char *buffer, unsigned size) { CHECK(-1); return give(buffer, size, driver); }

int nvmlSystemGetNVMLVersion(char *buffer, unsigned size) { CHECK(-1); return give(buffer, size, library); }

int nvmlSystemGetCudaDriverVersion_v2(int *version) { CHECK(-1); *version = cuda; return SUCCESS; }

int nvmlDeviceGetCount_v2(unsigned *count)
{
    load();
    CHECK(-1);
    *count = gpu_count;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **handle)
{
    CHECK((int)index);
    if ((int)index >= gpu_count) return INVALID_ARGUMENT;
    *handle = &gpus[index];
    return SUCCESS;
}

int nvmlDeviceGetUUID(Device *gpu, char *buffer, unsigned size) { CHECK(gpu->index); return give(buffer, size, gpu->uuid); }

int nvmlDeviceGetName(Device *gpu, char *buffer, unsigned size) { CHECK(gpu->index); return give(buffer, size, gpu->name); }

int nvmlDeviceGetMemoryInfo(Device *gpu, unsigned long long memory[3])
{
    CHECK(gpu->index);
    memory[0] = gpu->memory;
    memory[1] = gpu->memory - gpu->used;
    memory[2] = gpu->used;
    return SUCCESS;
}

static int give_processes(const Process *known, unsigned known_count, unsigned *count, Process *processes)
{
    unsigned room = *count;
    *count = known_count;
    if (room < known_count) return INSUFFICIENT_SIZE;
    if (processes) memcpy(processes, known, known_count * sizeof(Process));
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v2(Device *gpu, unsigned *count, Process *processes)
{
    CHECK(gpu->index);
    return give_processes(gpu->processes, gpu->process_count, count, processes);
}

#ifndef OLD_DRIVER
int nvmlDeviceGetComputeRunningProcesses_v3(Device *gpu, unsigned *count, Process *processes)
{
    CHECK(gpu->index);
    return give_processes(gpu->processes, gpu->process_count, count, processes);
}

int nvmlDeviceGetMPSComputeRunningProcesses_v3(Device *gpu, unsigned *count, Process *processes)
{
    CHECK(gpu->index);
    return give_processes(gpu->clients, gpu->client_count, count, processes);
}

int nvmlDeviceGetCudaComputeCapability(Device *gpu, int *major, int *minor)
{
    CHECK(gpu->index);
    *major = gpu->cc_major;
    *minor = gpu->cc_minor;
    return SUCCESS;
}

int nvmlDeviceGetMigMode(Device *gpu, unsigned *current, unsigned *pending)
{
    CHECK(gpu->index);
    if (gpu->mig < 0) return NOT_SUPPORTED;
    *current = *pending = gpu->mig;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(Device *gpu, unsigned *count) { CHECK(gpu->index); *count = MAX_SLICES; return SUCCESS; }

int nvmlDeviceGetMigDeviceHandleByIndex(Device *gpu, unsigned index, Device **handle)
{
    CHECK(gpu->index);
    if ((int)index >= gpu->slice_count) return NOT_FOUND;
    *handle = &gpu->slices[index];
    return SUCCESS;
}
#endif
