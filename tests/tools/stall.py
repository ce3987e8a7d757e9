"""What checkpoints cost a training with PyTorch: GPT-2 124M with AdamW, torch.distributed.checkpoint.async_save and
torch.save, measured as `invar bench ckpt` measures Invar, with rows of the same names as JSON lines.
    python stall.py FOLDER ROUNDS CONTEXT      (torch, transformers)"""
import json
import os
import statistics
import sys
import time

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from transformers import GPT2Config, GPT2LMHeadModel

folder, rounds, context = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
EVERY = 10
os.makedirs(folder, exist_ok=True)
store = os.path.join(folder, "rendezvous")
if os.path.exists(store):
    os.remove(store)
dist.init_process_group("gloo", init_method="file://" + store, rank=0, world_size=1)
torch.manual_seed(1)
model = GPT2LMHeadModel(GPT2Config(n_positions=context, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0))
optimizer = torch.optim.AdamW(model.parameters())
ids = torch.randint(0, 50257, (1, context))


def steps():
    for _ in range(EVERY):
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()


def state():
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def seconds(f):
    start = time.perf_counter()
    out = f()
    return time.perf_counter() - start, out


rows = {}


def row(name, value):
    rows.setdefault(name, []).append(value)


steps()
for r in range(rounds):
    row("10 steps", seconds(steps)[0])
    start = time.perf_counter()
    stall, future = seconds(lambda: dcp.async_save(state(), checkpoint_id=os.path.join(folder, "dcp")))
    steps()
    stall += seconds(future.result)[0]
    row("10 steps and a save", time.perf_counter() - start)
    row("training waits for a save", stall)
    path = os.path.join(folder, "plain.pt")

    def save():
        torch.save(state(), path)
        with open(path, "rb") as f:
            os.fsync(f.fileno())

    def load():
        loaded = torch.load(path)
        model.load_state_dict(loaded["model"])
        optimizer.load_state_dict(loaded["optimizer"])

    row("a save alone", seconds(save)[0])
    with open(path, "rb") as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    row("a load from the disk", seconds(load)[0])
    row("a load from the page cache", seconds(load)[0])
    os.remove(path)
rows["training waits for a save, the longest"] = [max(rows["training waits for a save"])]
rows["training waits for a save, the longest but the first"] = [max(rows["training waits for a save"][1:] or [0])]
for name, values in rows.items():
    print(json.dumps({"group": "ckpt", "name": name, "impl": "torch", "seconds": statistics.median(values), "runs": rounds}))
