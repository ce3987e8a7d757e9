"""A training step of PyTorch on the CPU, beside `invar bench step` (ci/bench): the same model, batch, optimizer
and clipping on random data.  Prints one JSON object: the median of a step in seconds.

    python3 bench_torch.py --model gpt --layers 6 --heads 6 --width 384 --context 256 --vocab 256 --batch 16
        --precision 32-true|bf16-mixed|64-true [--compile] [--seconds S] [--threads N]
"""
import argparse, json, resource, statistics, sys, time

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """GPT-2's: x += proj(attention(ln_1 x)); x += proj(gelu(fc(ln_2 x)))."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (part.view(b, t, self.heads, c // self.heads).transpose(1, 2)
                   for part in self.qkv(self.ln_1(x)).split(c, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, c))
        return x + self.down(F.gelu(self.up(self.ln_2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(a.vocab, a.width), nn.Embedding(a.context, a.width)
        self.blocks = nn.Sequential(*(Block(a.width, a.heads) for _ in range(a.layers)))
        self.ln_f = nn.LayerNorm(a.width)

    def forward(self, ids):
        x = self.wte(ids) + self.wpe.weight[: ids.shape[1]]
        return self.ln_f(self.blocks(x)) @ self.wte.weight.t()


def cnn(a):
    c = a.channels
    return nn.Sequential(nn.Conv2d(1, c, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Conv2d(c, 2 * c, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Flatten(), nn.Linear(2 * c * 7 * 7, 10))


def parameters(model):
    """AdamW decays matrices only."""
    return [{"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
            {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0}]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--model", choices=["gpt", "cnn"], required=True)
    for name, value in dict(layers=6, heads=6, width=384, context=256, vocab=256, channels=16, batch=16,
                            threads=2).items():
        p.add_argument("--" + name, type=int, default=value)
    p.add_argument("--precision", choices=["32-true", "bf16-mixed", "64-true"], default="32-true")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--seconds", type=float, default=5)
    a = p.parse_args()
    torch.manual_seed(1)
    torch.set_num_threads(a.threads)
    real = torch.float64 if a.precision == "64-true" else torch.float32
    model = (Gpt(a) if a.model == "gpt" else cnn(a)).to(real)
    optimizer = torch.optim.AdamW(parameters(model), lr=1e-3, betas=(0.9, 0.95), fused=True)
    if a.model == "gpt":
        x = torch.randint(a.vocab, (a.batch, a.context))
        y = torch.randint(a.vocab, (a.batch * a.context,))
    else:
        x, y = torch.rand(a.batch, 1, 28, 28, dtype=real), torch.randint(10, (a.batch,))
    run = torch.compile(model) if a.compile else model

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=a.precision == "bf16-mixed"):
            loss = F.cross_entropy(run(x).flatten(0, -2) if a.model == "gpt" else run(x), y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    for _ in range(2):
        step()
    times = []
    end = time.perf_counter() + a.seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 200):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    json.dump(dict(seconds=statistics.median(times), runs=len(times), torch=torch.__version__,
                   memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024), sys.stdout)
    print()


main()
