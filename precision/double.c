/* double.c: `64-true`: everything in f64, inputs widened.  Types belong to the run: nothing global
 * is set that could outlive it. */
#include "policy.h"

static const char double_name[] = "64-true";
static const iv_precision_option double_options[] = {{0}};
static const iv__policy_spec double_spec = {
    .name = double_name, .policy = IV_TYPES(F64, F64, F64, F64, F64), .list = IV_LIST_DEFAULT};
IV_POLICY_VTABLE(double)
const iv_plugin iv__plugin_double = IV_POLICY_PLUGIN(double, "everything in f64");
