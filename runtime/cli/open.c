/* open.c: from a configuration to a trainer: data, model specification, trainer. */
#include "cli.h"

#include <string.h>

static iv_status open_run(bool with_data, iv__cli_run *r)
{
    const iv_config *config = r->config;
    const char *source = iv_config_str(config, "data.train");
    iv_status s = iv_plugins_load(iv_config_str(config, "plugins"));
    if (s != IV_OK) return s;
    if (with_data && *source) {
        s = iv_dataset_open(source, iv_config_int(config, "model.context"),
                            iv_config_float(config, "data.val_fraction"), &r->data);
        if (s != IV_OK) return s;
        iv_dataset_info_get(r->data, &r->info);
    }
    s = iv_model_spec_from(config, r->data ? &r->info : NULL, &r->spec);
    if (s != IV_OK) return s;
    return iv_trainer_open(config, r->data, iv_model_build, &r->spec, &r->trainer);
}

int iv__cli_open(const iv__cli *c, iv_config *config, bool with_data, iv__cli_run *r)
{
    *r = (iv__cli_run){.config = config};
    const iv_status s = open_run(with_data, r);
    if (s == IV_OK) return 0;
    const int status = iv__cli_status(c, s);
    iv__cli_close(r);
    return status;
}

int iv__cli_neutral(const iv__cli *c, iv_config *config)
{
    iv_status s = iv_config_set(config, "out.dir", "");
    if (s == IV_OK) s = iv_config_set(config, "out.resume", "");
    if (s == IV_OK && !*iv_config_str(config, "data.train") &&
        iv_config_int(config, "model.vocab") == 0)
        s = iv_config_set(config, "model.vocab", "256"); /* bytes */
    if (s == IV_OK) return 0;
    iv_config_free(config);
    return iv__cli_status(c, s);
}

iv_status iv__cli_alone(iv_config *config)
{
    /* DeepSpeed's file counts ranks; of a list of devices each is this process's. */
    const bool counts = strcmp(iv_config_str(config, "cluster.strategy"), "deepspeed") == 0;
    const char *devices = iv_config_str(config, "device.devices");
    const bool number = devices[strspn(devices, "0123456789")] == 0;
    iv_status s = iv_config_set(config, "cluster.name", "none");
    if (s == IV_OK) s = iv_config_set(config, "cluster.nodes", "0");
    if (s == IV_OK && counts) s = iv_config_set(config, "cluster.strategy", "ddp");
    if (s == IV_OK && number) s = iv_config_set(config, "device.devices", "auto");
    return s;
}

void iv__cli_close(iv__cli_run *r)
{
    iv_trainer_close(r->trainer);
    iv_dataset_close(r->data);
    iv_config_free(r->config);
    *r = (iv__cli_run){0};
}
