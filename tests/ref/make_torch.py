"""Makes tests/ref/torch/: small files of torch.save, of a Lightning checkpoint's layout, and their contents
as safetensors, for tests/plugins/test_torch.c.   python tests/ref/make_torch.py   (torch, safetensors, numpy)"""
import os
from collections import OrderedDict

import torch
from safetensors.torch import save_file

here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "torch")
os.makedirs(here, exist_ok=True)
torch.manual_seed(3)

plain = OrderedDict()
plain["weight"] = torch.randn(5, 7)
plain["half"] = torch.randn(9).half()
plain["bf16"] = torch.randn(2, 3).bfloat16()
plain["double"] = torch.randn(4, dtype=torch.float64)
plain["long"] = torch.arange(6)
plain["scalar"] = torch.tensor(2.5)
plain["empty"] = torch.zeros(0, 3)
plain["transposed"] = torch.randn(4, 6).t()                  # strided
plain["view"] = plain["weight"][1:3, 2:5]                    # a part of another's storage
plain["parameter"] = torch.nn.Parameter(torch.randn(3))
nested = {"model": plain, "epoch": 3, "name": "a run", "rate": 0.125, "list": [torch.ones(2), {"x": torch.zeros(1)}]}
torch.save(plain, os.path.join(here, "plain.pt"))
torch.save(nested, os.path.join(here, "nested.pt"))
flat = {k: v.detach().contiguous().clone() for k, v in plain.items()}
save_file(flat, os.path.join(here, "plain.safetensors"))
all_of = {"model." + k: v for k, v in flat.items()}
all_of.update({"list.0": torch.ones(2), "list.1.x": torch.zeros(1)})
save_file(all_of, os.path.join(here, "nested.safetensors"))

model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 4))
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.8, 0.95))
for _ in range(3):
    optimizer.zero_grad()
    model(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()
progress = {"total": {"ready": 3, "completed": 3}, "current": {"ready": 3, "completed": 3}}
lightning = {"epoch": 1, "global_step": 3, "pytorch-lightning_version": "2.6.6", "state_dict": model.state_dict(),
             "loops": {"fit_loop": {"epoch_progress": progress}}, "callbacks": {},
             "optimizer_states": [optimizer.state_dict()], "lr_schedulers": []}
torch.save(lightning, os.path.join(here, "lightning.ckpt"))
out = {k: v.contiguous().clone() for k, v in model.state_dict().items()}
for i, (name, _) in enumerate(model.named_parameters()):
    state = optimizer.state_dict()["state"][i]
    out["optim.m." + name] = state["exp_avg"].clone()
    out["optim.v." + name] = state["exp_avg_sq"].clone()
save_file(out, os.path.join(here, "lightning.safetensors"))


class Evil:
    def __reduce__(self):
        return (os.system, ("touch executed",))


torch.save({"weight": torch.ones(2), "evil": Evil()}, os.path.join(here, "evil.pt"))
