/* example.c: builds and differentiates a graph with the installed library. */
#include <invar.h>

#include <stdio.h>

int main(void)
{
    iv_graph *g = NULL;
    if (iv_graph_new(&g) != IV_OK) return 1;
    iv_value x = iv_input(g, "x", IV_F32, IV_SHAPE(4, 3));
    iv_value w = iv_param(g, "w", IV_SHAPE(3, 1), (iv_init){IV_INIT_ONES, 0});
    iv_graph_set_loss(g, iv_mean(g, iv_matmul(g, x, w, false, false), 0, false));
    const iv_status s = iv_graph_differentiate(g);
    printf("invar %s: %s\n", iv_version(), s == IV_OK ? "ok" : iv_error_message());
    iv_graph_free(g);
    return s == IV_OK ? 0 : 1;
}
