/* single.c: `32-true`: everything in f32.  The base that the other policies change. */
#include "policy.h"

static const char single_name[] = "32-true";
static const iv_precision_option single_options[] = {{0}};
static const iv__policy_spec single_spec = {
    .name = single_name, .policy = IV_TYPES(F32, F32, F32, F32, F32), .list = IV_LIST_DEFAULT};
IV_POLICY_VTABLE(single)
const iv_plugin iv__plugin_single = IV_POLICY_PLUGIN(single, "everything in f32");
