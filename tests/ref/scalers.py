"""Makes scalers.txt: what loss scalers do over random patterns of overflows.

    pip install torch; python scalers.py > scalers.txt
    python scalers.py DEEPSPEED APEX > again.txt; cmp scalers.txt again.txt

grad is PyTorch's own torch.amp.GradScaler, run on the CPU with a parameter whose gradient is made
infinite; its scale is compared after each update.  The others are written here a second time, in
Python floats, from the published descriptions of Apex, DeepSpeed and Megatron.  With the folders of
sources of DeepSpeed (0.16.4 was used) and Apex, their own update functions run instead: zero, fused
and apex have the same lines.

A line: algorithm, and for each 100 patterns a hash (FNV-1a, 64 bits) of the bits of the f32 scale
after every step.  Pattern k of an algorithm comes from the generator below, seeded with k; the test
(tests/plugins/test_scaler.c) has the same generator.
"""
import ast, struct, sys
from types import SimpleNamespace

PATTERNS, STEPS, BLOCK = 10000, 48, 100
M64 = (1 << 64) - 1


class Numbers:
    """splitmix64"""
    def __init__(self, seed): self.s = seed
    def next(self):
        self.s = (self.s + 0x9E3779B97F4A7C15) & M64
        z = self.s
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M64
        return z ^ (z >> 31)
    def below(self, n): return self.next() % n


INITS = [65536.0, 1.0, 4.0, 8.0, 1024.0, 2.0**24, 2.0**100, 2.0**126]
FACTORS = [(2.0, 0.5), (2.0, 0.25), (4.0, 0.5), (1.5, 0.7), (1.1, 0.3), (3.0, 1 / 3)]
RATES = [0, 1, 5, 20, 50, 90, 100]


class Pattern:
    def __init__(self, k):
        r = Numbers(k)
        self.init = INITS[r.below(len(INITS))]
        self.growth, self.backoff = FACTORS[r.below(len(FACTORS))]
        self.window = 1 + r.below(6)
        self.hysteresis = 1 + r.below(4)
        self.refill = r.below(2) == 1
        self.least = [0.0, 1.0, 0.25, 256.0][r.below(4)]
        rate = RATES[r.below(len(RATES))]
        self.overflow = [r.below(100) < rate for _ in range(STEPS)]


def grad(p):
    import torch
    w = torch.nn.Parameter(torch.zeros(1))
    opt = torch.optim.SGD([w], lr=0.0)
    s = torch.amp.GradScaler("cpu", init_scale=p.init, growth_factor=p.growth,
                             backoff_factor=p.backoff, growth_interval=p.window)
    s.scale(torch.zeros(1))
    for bad in p.overflow:
        w.grad = torch.full((1,), float("inf") if bad else 0.0)
        s.unscale_(opt)
        s.step(opt)
        s.update()
        yield s.get_scale()


def apex(p):
    scale, good, most = p.init, 0, 2.0**24
    for bad in p.overflow:
        if bad:
            scale = max(p.least, scale / 2.0) if p.least else scale / 2.0
            good = 0
        else:
            good += 1
        if good == p.window:
            scale, good = min(most, scale * 2.0), 0
        yield scale


def zero(p):
    scale, last, left = p.init, -1, p.hysteresis
    least = p.least or 1.0
    for i, bad in enumerate(p.overflow):
        if bad:
            if p.hysteresis == 1 or left == 1: scale = max(scale / 2.0, least)
            else: left -= 1
            last = i
        else:
            if p.refill: left = p.hysteresis
            if (i - last) % p.window == 0:
                if not p.refill: left = p.hysteresis
                scale *= 2.0
        yield scale


def fused(p):
    scale, last = p.init, -1
    least = p.least or 1.0
    for i, bad in enumerate(p.overflow):
        if bad: scale, last = max(scale / 2.0, least), i
        else:
            stable = i - last - 1
            if stable > 0 and stable % p.window == 0: scale *= 2.0
        yield scale


def hysteresis(p):
    f32 = lambda x: struct.unpack("f", struct.pack("f", x))[0]
    scale, good, left = p.init, 0, p.hysteresis
    for bad in p.overflow:
        if bad:
            left -= 1
            if left > 0: good = 0
            else: scale, good = f32(scale * p.backoff), 0
        else:
            good += 1
            if good == p.window:
                if scale * p.growth < 3.4028235677973366e38: scale = f32(scale * p.growth)
                good = 0
            left = p.hysteresis
        yield scale


class Quiet:
    """Stands for loggers and ranks."""
    def __getattr__(self, name): return Quiet()
    def __call__(self, *a, **k): return Quiet()


def method(path, cls, name):
    """A method of a class in a source file, without importing the file."""
    found = [f for c in ast.parse(open(path).read()).body if isinstance(c, ast.ClassDef) and c.name == cls
             for f in c.body if isinstance(f, ast.FunctionDef) and f.name == name]
    scope = dict(dist=Quiet(), torch=Quiet(), logger=Quiet(), LossScaler=SimpleNamespace(has_fused_kernel=False))
    exec(compile(ast.Module(found, []), path, "exec"), scope)
    return scope[name]


def originals(deepspeed, apex_):
    zero_update = method(deepspeed + "/deepspeed/runtime/fp16/loss_scaler.py", "DynamicLossScaler", "update_scale")
    fused_update = method(deepspeed + "/deepspeed/runtime/fp16/fused_optimizer.py", "FP16_Optimizer", "_update_scale")
    apex_update = method(apex_ + "/apex/amp/scaler.py", "LossScaler", "update_scale")

    def zero(p):
        s = SimpleNamespace(cur_scale=p.init, cur_iter=0, last_overflow_iter=-1, scale_factor=2.0, scale_window=p.window,
                            min_scale=p.least or 1.0, delayed_shift=p.hysteresis, cur_hysteresis=p.hysteresis,
                            consecutive_hysteresis=p.refill, raise_error_at_min_scale=False, dtype=None)
        for bad in p.overflow:
            zero_update(s, bad)
            yield s.cur_scale

    def fused(p):
        s = SimpleNamespace(cur_scale=p.init, cur_iter=0, last_overflow_iter=-1, scale_factor=2.0, scale_window=p.window,
                            min_loss_scale=p.least or 1.0, dynamic_loss_scale=True, verbose=False)
        for bad in p.overflow:
            fused_update(s, bad)
            yield s.cur_scale

    def apex(p):
        s = SimpleNamespace(dynamic=True, _loss_scale=p.init, _unskipped=0, _has_overflow=False, _scale_seq_len=p.window,
                            _min_loss_scale=p.least or None, _max_loss_scale=2.0**24)
        for s._has_overflow in p.overflow:
            apex_update(s)
            yield s._loss_scale

    return grad, apex, zero, fused, hysteresis


def bits(x):
    """f32 bits; DeepSpeed's and Apex's floats may leave f32 upwards: our scale stays where it was."""
    return struct.unpack("I", struct.pack("f", x))[0]


for f in originals(*sys.argv[1:]) if len(sys.argv) > 1 else (grad, apex, zero, fused, hysteresis):
    for block in range(PATTERNS // BLOCK):
        h = 0xCBF29CE484222325
        for k in range(block * BLOCK, (block + 1) * BLOCK):
            p = Pattern(k)
            if f.__name__ in ("zero", "fused") and p.init > 2.0**24: p.init = 2.0**24  # no upper bound there
            for x in f(p):
                for byte in struct.pack("I", bits(x)): h = ((h ^ byte) * 0x100000001B3) & M64
        print(f.__name__, block, "%016x" % h)
    print(f.__name__, "done", file=sys.stderr)
