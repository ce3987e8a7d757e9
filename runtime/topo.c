/* topo.c: the machine as this process may use it (iv_topo_open in invar.h), from hwloc.
 *
 * hwloc's header is needed to build this, its library is opened at run time.  Without either there
 * is one node with the CPUs that the scheduler allows.  CPUs that a launcher or a container took
 * away are left out, and nodes that have none left.  A topology given by HWLOC_SYNTHETIC or
 * HWLOC_XMLFILE is described like the machine, but nobody is bound by it. */
#include "base.h"

#include <sched.h>
#include <unistd.h>

#ifdef INVAR_HWLOC
#include <dlfcn.h>
#include <hwloc.h>
#endif

void iv_topo_close(iv_topo *t)
{
    if (!t) return;
    free(t->nodes);
    free(t->cpus);
    free(t->devices);
    free(t);
}

enum { MOST_CPUS = 8192 };
typedef struct affinity {
    unsigned long bits[MOST_CPUS / (8 * sizeof(unsigned long))];
    bool known;
} affinity;

static void read_affinity(affinity *a)
{
    memset(a, 0, sizeof(*a));
    a->known = sched_getaffinity(0, sizeof(a->bits), (cpu_set_t *)(void *)a->bits) == 0;
}

static bool is_allowed(const affinity *a, int32_t cpu)
{
    const int32_t word = (int32_t)(8 * sizeof(unsigned long));
    return !a->known ||
           (cpu >= 0 && cpu < MOST_CPUS && (a->bits[cpu / word] >> (cpu % word) & 1) != 0);
}

/* One node with what the scheduler allows. */
static iv_status without_hwloc(iv_topo *t, const char *why)
{
    affinity a;
    read_affinity(&a);
    const int32_t online = (int32_t)sysconf(_SC_NPROCESSORS_CONF);
    IV_TRY(iv__calloc(1, sizeof(*t->nodes), "a topology", &t->nodes));
    IV_TRY(iv__calloc(IV_MAX2(online, 1), sizeof(*t->cpus), "a topology", &t->cpus));
    for (int32_t i = 0; i < online; ++i)
        if (is_allowed(&a, i)) t->cpus[t->n_cpus++] = (iv_topo_cpu){i, i, 0};
    if (t->n_cpus == 0) t->cpus[t->n_cpus++] = (iv_topo_cpu){0, 0, 0};
    t->nodes[0] = (iv_topo_node){.n_cpus = t->n_cpus};
    t->n_packages = t->n_nodes = 1;
    t->machine_cpus = online;
    t->here = true;
    t->bound = t->n_cpus < online;
    snprintf(t->source, sizeof(t->source), "the scheduler's CPUs; %s", why);
    return IV_OK;
}

#ifdef INVAR_HWLOC

#define FUNCTIONS(X)                                                                               \
    X(hwloc_get_api_version)                                                                       \
    X(hwloc_topology_init)                                                                         \
    X(hwloc_topology_destroy)                                                                      \
    X(hwloc_topology_load)                                                                         \
    X(hwloc_topology_set_io_types_filter)                                                          \
    X(hwloc_topology_is_thissystem)                                                                \
    X(hwloc_topology_get_allowed_cpuset)                                                           \
    X(hwloc_get_type_depth)                                                                        \
    X(hwloc_get_nbobjs_by_depth)                                                                   \
    X(hwloc_get_obj_by_depth)                                                                      \
    X(hwloc_bitmap_isset)                                                                          \
    X(hwloc_bitmap_intersects)                                                                     \
    X(hwloc_bitmap_weight)

static struct {
#define X(name) __typeof__(&name) name;
    FUNCTIONS(X)
#undef X
} hw;

static const char *open_hwloc(void)
{
    static const char *const names[] = {
#define X(name) #name,
        FUNCTIONS(X)
#undef X
    };
    void *lib = dlopen("libhwloc.so.15", RTLD_NOW | RTLD_LOCAL);
    if (!lib) return "libhwloc.so.15 is not there";
    void **slots = (void **)(void *)&hw;
    for (int64_t i = 0; i < IV_COUNT(names); ++i)
        if (!(slots[i] = dlsym(lib, names[i]))) return "libhwloc.so.15 lacks a function";
    if (hw.hwloc_get_api_version() >> 16 != HWLOC_API_VERSION >> 16)
        return "libhwloc.so.15 is of another major version";
    return NULL;
}

static int32_t count(hwloc_topology_t h, hwloc_obj_type_t type)
{
    const int depth = hw.hwloc_get_type_depth(h, type);
    return depth == HWLOC_TYPE_DEPTH_UNKNOWN ? 0 : (int32_t)hw.hwloc_get_nbobjs_by_depth(h, depth);
}

static hwloc_obj_t object(hwloc_topology_t h, hwloc_obj_type_t type, int32_t i)
{
    return hw.hwloc_get_obj_by_depth(h, hw.hwloc_get_type_depth(h, type), (unsigned)i);
}

/* The number of the ancestor of a type, or `none`. */
static int32_t ancestor(hwloc_obj_t o, hwloc_obj_type_t type, int32_t none)
{
    while (o && o->type != type) o = o->parent;
    return o ? (int32_t)o->logical_index : none;
}

/* The CPUs of one NUMA node that may be used; false: none. */
static bool add_node(iv_topo *t, hwloc_topology_t h, hwloc_obj_t node, const affinity *a)
{
    hwloc_const_cpuset_t allowed = hw.hwloc_topology_get_allowed_cpuset(h);
    iv_topo_node *n = &t->nodes[t->n_nodes];
    *n = (iv_topo_node){.os_index = (int32_t)node->os_index,
                        .package = ancestor(node, HWLOC_OBJ_PACKAGE, 0),
                        .first_cpu = t->n_cpus,
                        .mem_bytes = (int64_t)node->attr->numanode.local_memory};
    const int32_t n_pus = count(h, HWLOC_OBJ_PU);
    for (int32_t i = 0; i < n_pus; ++i) {
        const hwloc_obj_t pu = object(h, HWLOC_OBJ_PU, i);
        const int32_t cpu = (int32_t)pu->os_index;
        if (!hw.hwloc_bitmap_isset(node->cpuset, (unsigned)cpu) ||
            !hw.hwloc_bitmap_isset(allowed, (unsigned)cpu))
            continue;
        if (t->here && !is_allowed(a, cpu)) {
            t->bound = true;
            continue;
        }
        t->cpus[t->n_cpus++] = (iv_topo_cpu){cpu, ancestor(pu, HWLOC_OBJ_CORE, i), t->n_nodes};
    }
    n->n_cpus = t->n_cpus - n->first_cpu;
    return n->n_cpus > 0;
}

static iv_status read_nodes(iv_topo *t, hwloc_topology_t h)
{
    const int32_t n = count(h, HWLOC_OBJ_NUMANODE), pus = count(h, HWLOC_OBJ_PU);
    affinity a;
    read_affinity(&a);
    IV_TRY(iv__calloc(n, sizeof(*t->nodes), "a topology", &t->nodes));
    /* A PU may belong to several nodes (memory of other kinds beside it). */
    IV_TRY(iv__calloc((int64_t)n * pus, sizeof(*t->cpus), "a topology", &t->cpus));
    t->machine_cpus = pus;
    t->n_packages = IV_MAX2(count(h, HWLOC_OBJ_PACKAGE), 1);
    for (int32_t i = 0; i < n; ++i) {
        const hwloc_obj_t node = object(h, HWLOC_OBJ_NUMANODE, i);
        bool again = false; /* CPUs that a node before has: that one's memory is taken */
        for (int32_t k = 0; k < i; ++k) {
            const hwloc_obj_t before = object(h, HWLOC_OBJ_NUMANODE, k);
            again |= hw.hwloc_bitmap_intersects(before->cpuset, node->cpuset) != 0;
        }
        if (!again && add_node(t, h, node, &a)) ++t->n_nodes;
    }
    return IV_OK;
}

/* The node whose CPUs are near a device; -1 if those of several are. */
static int32_t nearest_node(const iv_topo *t, hwloc_obj_t o)
{
    while (o && !o->cpuset) o = o->parent;
    int32_t node = -1;
    for (int32_t i = 0; o && i < t->n_cpus; ++i) {
        if (!hw.hwloc_bitmap_isset(o->cpuset, (unsigned)t->cpus[i].os_index)) continue;
        if (node >= 0 && node != t->cpus[i].node) return -1;
        node = t->cpus[i].node;
    }
    return node;
}

static const char *device_kind(hwloc_obj_t o)
{
    const unsigned base = o->attr->pcidev.class_id >> 8;
    /* Display controllers without a connector are what computes; so are processing accelerators. */
    if (base == 0x03 || base == 0x12) return "gpu";
    return base == 0x02 ? "nic" : NULL;
}

static iv_status read_devices(iv_topo *t, hwloc_topology_t h)
{
    const int32_t n = count(h, HWLOC_OBJ_PCI_DEVICE);
    IV_TRY(iv__calloc(n, sizeof(*t->devices), "a topology", &t->devices));
    for (int32_t i = 0; i < n; ++i) {
        const hwloc_obj_t o = object(h, HWLOC_OBJ_PCI_DEVICE, i);
        const char *kind = device_kind(o);
        if (!kind) continue;
        iv_topo_device *d = &t->devices[t->n_devices++];
        snprintf(d->kind, sizeof(d->kind), "%s", kind);
        snprintf(d->bus, sizeof(d->bus), "%04x:%02x:%02x.%x", o->attr->pcidev.domain,
                 o->attr->pcidev.bus, o->attr->pcidev.dev, o->attr->pcidev.func & 0xfu);
        const hwloc_obj_t os = o->io_first_child;
        snprintf(d->name, sizeof(d->name), "%s",
                 os && os->name ? os->name
                 : o->name      ? o->name
                                : kind);
        d->node = nearest_node(t, o);
    }
    return IV_OK;
}

static iv_status with_hwloc(iv_topo *t, hwloc_topology_t h)
{
    const unsigned v = hw.hwloc_get_api_version();
    t->here = hw.hwloc_topology_is_thissystem(h) != 0;
    snprintf(t->source, sizeof(t->source), "hwloc %u.%u.%u%s", v >> 16, v >> 8 & 0xff, v & 0xff,
             t->here ? "" : ", a recorded or synthetic machine");
    IV_TRY(read_nodes(t, h));
    if (t->n_nodes == 0)
        IV_FAIL(IV_UNAVAILABLE, "reading the topology: no CPU of any NUMA node may be used");
    return read_devices(t, h);
}

static iv_status read_machine(iv_topo *t)
{
    static const char *why;
    static bool opened;
    hwloc_topology_t h;
    if (!opened) why = open_hwloc();
    opened = true;
    if (why) return without_hwloc(t, why);
    if (hw.hwloc_topology_init(&h) != 0) return without_hwloc(t, "hwloc could not begin");
    (void)hw.hwloc_topology_set_io_types_filter(h, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
    iv_status s = hw.hwloc_topology_load(h) == 0 ? with_hwloc(t, h)
                                                 : without_hwloc(t, "hwloc could not read it");
    hw.hwloc_topology_destroy(h);
    return s;
}

#else

static iv_status read_machine(iv_topo *t)
{
    return without_hwloc(t, "built without hwloc");
}

#endif

iv_status iv_topo_open(iv_topo **out)
{
    iv_topo *t;
    IV_TRY(iv__calloc(1, sizeof(*t), "a topology", &t));
    iv_status s = read_machine(t);
    if (s != IV_OK) {
        iv_topo_close(t);
        return s;
    }
    *out = t;
    return IV_OK;
}
