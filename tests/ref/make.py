"""Makes the reference curves in this folder: a GPT and a CNN, forward, backward, clipping and AdamW
written out in numpy, in f64, with nothing of Invar in them.  Before it writes anything it checks its
own gradients by finite differences.

    python3 -m venv /tmp/v && /tmp/v/bin/pip install numpy && /tmp/v/bin/python tests/ref/make.py

Written for each model: NAME.init.safetensors (f32 parameters), NAME.batches.safetensors (inputs and
targets of every step), NAME.grads-step0-f64.safetensors, NAME.json (loss and gradient norm of every
step).  The batches are made up: token chains with a habit, and images with a bright bar whose place is
the label.  Names and layouts of parameters: the GPT's are Hugging Face's, the CNN's torch.nn's.
"""
import json, os, struct
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
ADAMW = dict(lr=3e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
CLIP, STEPS = 0.75, 20


def save(path, tensors):
    """The safetensors format: length of the header, header in JSON, data."""
    names = {np.dtype("f8"): "F64", np.dtype("f4"): "F32", np.dtype("i4"): "I32"}
    head, data = {}, b""
    for k, v in tensors.items():
        raw = np.ascontiguousarray(v).tobytes()
        head[k] = {"dtype": names[v.dtype], "shape": list(v.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


# ---- layers: each returns its value and a function from the value's gradient to the inputs' ----

def layernorm(x, w, b, eps=1e-5):
    mean = x.mean(-1, keepdims=True)
    r = 1 / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + eps)
    h = (x - mean) * r

    def back(dy):
        dh = dy * w
        dx = r * (dh - dh.mean(-1, keepdims=True) - h * (dh * h).mean(-1, keepdims=True))
        return dx, (dy * h).reshape(-1, x.shape[-1]).sum(0), dy.reshape(-1, x.shape[-1]).sum(0)

    return h * w + b, back


def linear(x, w, b):  # w [in, out]
    def back(dy):
        flat = dy.reshape(-1, dy.shape[-1])
        return dy @ w.T, x.reshape(-1, x.shape[-1]).T @ flat, flat.sum(0)

    return x @ w + b, back


def gelu(x):  # the tanh approximation
    c = np.sqrt(2 / np.pi)
    t = np.tanh(c * (x + 0.044715 * x ** 3))
    return 0.5 * x * (1 + t), lambda dy: dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x))


def attention(qkv, heads):  # [B, T, 3C], causal
    B, T, C3 = qkv.shape
    D = C3 // 3 // heads
    q, k, v = (a.reshape(B, T, heads, D).transpose(0, 2, 1, 3) for a in np.split(qkv, 3, -1))
    s = q @ k.transpose(0, 1, 3, 2) / np.sqrt(D)
    s = np.where(np.tril(np.ones((T, T), bool)), s, -np.inf)
    p = np.exp(s - s.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    merge = lambda a: a.transpose(0, 2, 1, 3).reshape(B, T, heads * D)

    def back(dy):
        d = dy.reshape(B, T, heads, D).transpose(0, 2, 1, 3)
        dp = d @ v.transpose(0, 1, 3, 2)
        ds = p * (dp - (dp * p).sum(-1, keepdims=True)) / np.sqrt(D)
        return np.concatenate([merge(ds @ k), merge(ds.transpose(0, 1, 3, 2) @ q), merge(p.transpose(0, 1, 3, 2) @ d)], -1)

    return merge(p @ v), back


def cross_entropy(logits, y):  # [N, V], [N]: the mean
    z = logits - logits.max(-1, keepdims=True)
    log_sum = np.log(np.exp(z).sum(-1))
    n = np.arange(len(y))
    d = np.exp(z - log_sum[:, None])
    d[n, y] -= 1
    return (log_sum - z[n, y]).mean(), d / len(y)


def conv(x, w, b):  # [N, C, H, W], [O, C, 3, 3], padding 1
    N, C, H, W = x.shape
    pad = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    cols = np.stack([pad[:, :, i:i + H, j:j + W] for i in range(3) for j in range(3)], 2).reshape(N, C * 9, H * W)
    flat = w.reshape(len(w), -1)

    def back(dy):
        d = dy.reshape(N, len(w), H * W)
        dc = np.einsum("ok,noh->nkh", flat, d).reshape(N, C, 9, H, W)
        dx = np.zeros_like(pad)
        for i in range(3):
            for j in range(3):
                dx[:, :, i:i + H, j:j + W] += dc[:, :, 3 * i + j]
        return dx[:, :, 1:-1, 1:-1], np.einsum("noh,nkh->ok", d, cols).reshape(w.shape), dy.sum((0, 2, 3))

    return (np.einsum("ok,nkh->noh", flat, cols) + b[:, None]).reshape(N, len(w), H, W), back


def relu_pool(x):  # ReLU, then the maximum of 2 x 2
    N, C, H, W = x.shape
    r = np.maximum(x, 0).reshape(N, C, H // 2, 2, W // 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(N, C, H // 2, W // 2, 4)
    best = r.argmax(-1)

    def back(dy):
        d = np.zeros_like(r)
        np.put_along_axis(d, best[..., None], dy[..., None], -1)
        d = d.reshape(N, C, H // 2, W // 2, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(x.shape)
        return d * (x > 0)

    return r.max(-1), back


# ---- models: parameters, ids or images, targets -> loss and gradients ----

GPT = dict(vocab=64, context=16, layers=2, heads=2, width=16, batch=4)


def gpt_init(r):
    C, L = GPT["width"], GPT["layers"]
    p = {"wte.weight": r.normal(0, 0.08, (GPT["vocab"], C)), "wpe.weight": r.normal(0, 0.08, (GPT["context"], C))}
    for i in range(L):
        for name, shape in (("attn.c_attn", (C, 3 * C)), ("attn.c_proj", (C, C)), ("mlp.c_fc", (C, 4 * C)), ("mlp.c_proj", (4 * C, C))):
            p[f"h.{i}.{name}.weight"] = r.normal(0, 0.08, shape)
            p[f"h.{i}.{name}.bias"] = r.normal(0, 0.02, shape[1])
    for name in [f"h.{i}.ln_{k}" for i in range(L) for k in (1, 2)] + ["ln_f"]:
        p[name + ".weight"] = 1 + r.normal(0, 0.05, C)
        p[name + ".bias"] = r.normal(0, 0.02, C)
    return p


def gpt(p, ids, y):
    g = {}

    def use(layer, x, name):
        return layer(x, p[name + ".weight"], p[name + ".bias"])

    def keep(name, back, dy):
        dx, g[name + ".weight"], g[name + ".bias"] = back(dy)
        return dx

    x = p["wte.weight"][ids] + p["wpe.weight"]
    tape = []
    for i in range(GPT["layers"]):
        n = f"h.{i}."
        h, b1 = use(layernorm, x, n + "ln_1")
        h, b2 = use(linear, h, n + "attn.c_attn")
        h, b3 = attention(h, GPT["heads"])
        h, b4 = use(linear, h, n + "attn.c_proj")
        x = x + h
        h, b5 = use(layernorm, x, n + "ln_2")
        h, b6 = use(linear, h, n + "mlp.c_fc")
        h, b7 = gelu(h)
        h, b8 = use(linear, h, n + "mlp.c_proj")
        x = x + h
        tape.append((n, b1, b2, b3, b4, b5, b6, b7, b8))
    h, bf = use(layernorm, x, "ln_f")
    logits = h @ p["wte.weight"].T
    loss, d = cross_entropy(logits.reshape(-1, GPT["vocab"]), y.reshape(-1))
    wte = d.T @ h.reshape(-1, GPT["width"])
    dx = keep("ln_f", bf, (d @ p["wte.weight"]).reshape(h.shape))
    for n, b1, b2, b3, b4, b5, b6, b7, b8 in reversed(tape):
        dx = dx + keep(n + "ln_2", b5, keep(n + "mlp.c_fc", b6, b7(keep(n + "mlp.c_proj", b8, dx))))
        dx = dx + keep(n + "ln_1", b1, keep(n + "attn.c_attn", b2, b3(keep(n + "attn.c_proj", b4, dx))))
    np.add.at(wte, ids, dx)
    g["wte.weight"], g["wpe.weight"] = wte, dx.sum(0)
    return loss, g


CNN = dict(batch=4, channels=4, height=12, width=12)


def cnn_init(r):
    c, f = CNN["channels"], 2 * CNN["channels"] * CNN["height"] * CNN["width"] // 16
    u = lambda n, *s: r.uniform(-1, 1, s) / np.sqrt(n)
    return {"0.weight": u(9, c, 1, 3, 3), "0.bias": u(9, c), "3.weight": u(9 * c, 2 * c, c, 3, 3), "3.bias": u(9 * c, 2 * c),
            "7.weight": u(f, 10, f), "7.bias": u(f, 10)}


def cnn(p, x, y):
    a, b1 = conv(x, p["0.weight"], p["0.bias"])
    a, b2 = relu_pool(a)
    a, b3 = conv(a, p["3.weight"], p["3.bias"])
    a, b4 = relu_pool(a)
    logits, b5 = linear(a.reshape(len(a), -1), p["7.weight"].T, p["7.bias"])
    loss, d = cross_entropy(logits, y)
    g = {}
    dx, w, g["7.bias"] = b5(d)
    g["7.weight"] = w.T
    dx, g["3.weight"], g["3.bias"] = b3(b4(dx.reshape(a.shape)))
    _, g["0.weight"], g["0.bias"] = b1(b2(dx))
    return loss, g


def gpt_batches(r):
    V, shape = GPT["vocab"], (STEPS, GPT["batch"], GPT["context"] + 1)
    t = r.integers(0, V, shape)
    for k in range(1, shape[2]):  # two of three tokens follow from the one before
        t[:, :, k] = np.where(r.integers(0, 3, shape[:2]) > 0, (5 * t[:, :, k - 1] + 3) % V, t[:, :, k])
    return {"input": t[:, :, :-1].astype("i4"), "target": t[:, :, 1:].astype("i4")}


def cnn_batches(r):
    shape = (STEPS, CNN["batch"])
    y = r.integers(0, 10, shape)
    x = r.uniform(0, 0.3, shape + (1, CNN["height"], CNN["width"]))
    for s in np.ndindex(shape):
        x[s][0, 1 + y[s]] += 0.6
    return {"input": x.astype("f4"), "label": y.astype("i4")}


# ---- training ----

def check_gradients(model, p, x, y):
    """Central differences along a random direction in each tensor."""
    r = np.random.default_rng(9)
    g = model(p, x, y)[1]
    assert g.keys() == p.keys()
    for k in p:
        d, h = r.normal(size=p[k].shape), 1e-6
        lo, hi = ({**p, k: p[k] + s * h * d} for s in (-1, 1))
        numeric, exact = (model(hi, x, y)[0] - model(lo, x, y)[0]) / (2 * h), (g[k] * d).sum()
        assert abs(numeric - exact) < 1e-7 * max(1, np.abs(g[k]).sum()), (k, numeric, exact)


def train(model, p, batches, targets):
    m, v = ({k: np.zeros_like(a) for k, a in p.items()} for _ in range(2))
    lr, (b1, b2), eps, decay = ADAMW["lr"], ADAMW["betas"], ADAMW["eps"], ADAMW["weight_decay"]
    losses, norms = [], []
    for t, (x, y) in enumerate(zip(batches, targets), 1):
        loss, g = model(p, x, y)
        norm = np.sqrt(sum((a * a).sum() for a in g.values()))
        factor = min(1, CLIP / (norm + 1e-6))
        losses.append(float(loss))
        norms.append(float(norm))
        for k in p:
            q = g[k] * factor
            m[k] = b1 * m[k] + (1 - b1) * q
            v[k] = b2 * v[k] + (1 - b2) * q * q
            p[k] = p[k] * (1 - lr * decay) - lr / (1 - b1 ** t) * m[k] / (np.sqrt(v[k]) / np.sqrt(1 - b2 ** t) + eps)
    return {"loss": losses, "grad_norm": norms}


def suite(name, model, init, batches, config, seed):
    r = np.random.default_rng(seed)
    start = {k: a.astype("f4") for k, a in init(r).items()}
    data = batches(r)
    target = "target" if "target" in data else "label"
    x = data["input"] if target == "target" else data["input"].astype("f8")
    p = {k: a.astype("f8") for k, a in start.items()}
    check_gradients(model, p, x[0], data[target][0])
    grads = model(p, x[0], data[target][0])[1]
    path = os.path.join(HERE, name)
    save(path + ".init.safetensors", start)
    save(path + ".batches.safetensors", data)
    save(path + ".grads-step0-f64.safetensors", grads)
    result = {"config": config, "adamw": ADAMW, "clip_norm": CLIP, "numpy": np.__version__, "f64": train(model, p, x, data[target])}
    with open(path + ".json", "w") as f:
        json.dump(result, f, indent=1)
        f.write("\n")
    curve = result["f64"]
    print(name, "loss", curve["loss"][0], "to", curve["loss"][-1], "norms", min(curve["grad_norm"]), "to", max(curve["grad_norm"]))


if __name__ == "__main__":
    suite("gpt-small", gpt, gpt_init, gpt_batches, GPT, 1)
    suite("cnn-small", cnn, cnn_init, cnn_batches, {"batch": CNN["batch"], "channels": CNN["channels"]}, 2)
