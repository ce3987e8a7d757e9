"""What PyTorch and Hugging Face make of a gpt that Invar saved (torch, safetensors, transformers, numpy).
    make_logits.py record CHECKPOINT HEADS OUT.txt             writes ids and the logits of GPT2LMHeadModel
    make_logits.py compare CHECKPOINT HEADS TOOL SETTINGS ...  against the tool's; the rest: other formats of it"""
import json
import os
import shutil
import subprocess
import sys
import tempfile

import numpy
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

logging.set_verbosity_error()
how, path, heads = sys.argv[1], sys.argv[2], int(sys.argv[3])


def config_of(tensors):
    vocab, width = tensors["wte.weight"].shape
    layers = len([n for n in tensors if n.endswith("ln_1.weight") and not n.startswith("optim.")])
    return GPT2Config(vocab_size=vocab, n_positions=tensors["wpe.weight"].shape[0], n_embd=width, n_layer=layers,
                      n_head=heads)


def by_transformers(path):
    """from_pretrained on a folder as users have it: config.json, and the file or the files with their index."""
    with tempfile.TemporaryDirectory() as folder:
        config_of(load_file(sys.argv[2])).save_pretrained(folder)
        if path.endswith(".index.json"):
            shutil.copy(path, os.path.join(folder, "model.safetensors.index.json"))
            for name in set(json.load(open(path))["weight_map"].values()):
                shutil.copy(os.path.join(os.path.dirname(path), name), folder)
        else:
            shutil.copy(path, os.path.join(folder, "model.safetensors"))
        model, info = GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
        if info["missing_keys"] or info["mismatched_keys"]:
            sys.exit("%s: missing %s, mismatched %s" % (path, info["missing_keys"], info["mismatched_keys"]))
    return model.eval()


def by_torch(path):
    """torch.load, data only, and load_state_dict."""
    state = torch.load(path, weights_only=True)
    state = state.get("state_dict", state)
    state = {"transformer." + n: t for n, t in state.items() if torch.is_tensor(t) and not n.startswith("optim.")}
    state["lm_head.weight"] = state["transformer.wte.weight"]
    model = GPT2LMHeadModel(config_of(load_file(sys.argv[2])))
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected or [n for n in missing if not n.endswith((".attn.bias", ".attn.masked_bias"))]:
        sys.exit("%s: missing %s, unexpected %s" % (path, missing, unexpected))
    return model.eval()


model = by_transformers(path)
context, vocab = model.config.n_positions, model.config.vocab_size
ids = torch.tensor(numpy.random.default_rng(7).integers(0, vocab, (2, context)))


def logits(model):
    with torch.no_grad():
        return model(ids).logits.numpy()


if how == "record":
    with open(sys.argv[4], "w") as f:
        for row, out in zip(ids.numpy(), logits(model)):
            f.write(" ".join(map(str, row)) + "\n")
            for values in out:
                f.write(" ".join("%.9g" % v for v in values) + "\n")
    sys.exit()
tool, settings, others = sys.argv[4], sys.argv[5], sys.argv[6:]
raw = subprocess.run([tool, path, settings], input=ids.numpy().astype("<i4").tobytes(), stdout=subprocess.PIPE, check=True)
ours = numpy.frombuffer(raw.stdout, "<f4").reshape(2, context, vocab)
bad = False
for p in [path] + others:
    theirs = logits(by_transformers(p) if "safetensors" in p else by_torch(p))
    most = float(abs(theirs - ours).max())
    print("%-50s logits up to %.3g differ by at most %.3g" % (os.path.basename(p), abs(theirs).max(), most))
    bad |= not most <= 1e-5
sys.exit(bad)
