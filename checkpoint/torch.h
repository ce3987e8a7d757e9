/* torch.h: what the files of the checkpoint plugin `torch` share. */
#ifndef IV_CHECKPOINT_TORCH_H
#define IV_CHECKPOINT_TORCH_H

#include "pickle.h"
#include "zip.h"

enum { IV__TORCH_NAME = 512 };
extern const iv_plugin iv__plugin_torch;

/* A tensor, or a number or text as text, under a name. */
typedef struct iv__torch_item {
    char *name;               /* owned */
    const iv__pickle *tensor; /* NULL: a value */
    char value[256];
} iv__torch_item;
typedef struct iv__torch_list {
    iv__torch_item *items;
    int64_t n, cap, visited;
} iv__torch_list;
iv_status iv__torch_add(iv__torch_list *l, const iv__io_job *j, const char *name,
                        const iv__pickle *p);
/* All that is in nested dictionaries and lists, under keys joined by dots. */
iv_status iv__torch_flatten(iv__torch_list *l, const iv__io_job *j, const char *name,
                            const iv__pickle *p, int depth);
void iv__torch_list_free(iv__torch_list *l);

/* lightning.c: a checkpoint of Lightning, and what of it has a counterpart here:
 *   state_dict.NAME                            NAME
 *   optimizer_states[0].state[i].exp_avg       optim.m.NAME of the i-th parameter
 *                               .exp_avg_sq    optim.v.NAME
 *   global_step                                invar.step
 *   everything else that is number or text     lightning.KEY, kept as metadata */
bool iv__lightning_is(const iv__pickle *root);
iv_status iv__lightning_map(iv__torch_list *l, const iv__io_job *j, const iv__pickle *root);

/* torch_write.c: j->path as a file of torch.save, atomically: a dictionary of tensors, or
 * Lightning's layout, whose optimizer state is that of AdamW. */
iv_status iv__torch_write(const iv__io_job *j, const iv_ckpt *c, bool lightning);

#endif
