"""The crash lab of tests/crash on what Python's torch.save and safetensors.torch.save_file do: a save over a file that
is there is traced (strace), and the states that a crash may leave are loaded.  Rules as in tests/crash/memfs.h: what no
fsync has made certain may have happened, not have happened, or in part, by sectors of 512 bytes.
    python crash_python.py [STATES=20000]      (torch, safetensors; strace)"""
import os
import random
import re
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file

SECTOR = 512


def content(version):
    return {"weights": (torch.arange(700) * (version + 1) % 251).to(torch.uint8),
            "b": torch.full((90,), version, dtype=torch.uint8),
            "moments": (torch.arange(600) * (version + 3) % 241).to(torch.uint8)}


subjects = {"torch.save": (torch.save, torch.load), "safetensors.save_file": (save_file, load_file)}
if len(sys.argv) > 3 and sys.argv[1] == "save":
    subjects[sys.argv[2]][0](content(2), sys.argv[3])
    sys.exit()
wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 20000


def unhex(text):
    return bytes.fromhex(text.replace("\\x", ""))


def trace(name, path):
    """What is done to files in the folder: (kind, file, offset, bytes, name); files are numbers, 0 is that at `path`."""
    log = path + ".strace"
    subprocess.run(["strace", "-f", "-y", "-xx", "-s", "1000000", "-o", log, "-e", "trace=openat,write,pwrite64,writev,"
                    "lseek,ftruncate,fsync,fdatasync,rename,renameat,renameat2", sys.executable,
                    os.path.abspath(__file__), "save", name, path], check=True)
    ops, at, names, of, folder = [], {}, {path: 0}, {}, os.path.dirname(path)
    for line in open(log):
        m = re.match(r"\d+\s+(\w+)\((.*)\)\s+= (-?\d+)", line)
        if not m or int(m[3]) < 0:
            continue
        call, args, result = m[1], m[2], int(m[3])
        texts = [unhex(t) for t in re.findall(r'"((?:\\x[0-9a-f]{2})*)"', args)]
        fd = re.match(r"(\d+)<", args)
        fd = int(fd[1]) if fd else -1
        if call == "openat":
            opened = texts[0].decode()
            of.pop(result, None)
            if opened == folder:
                of[result] = "folder"
            if os.path.dirname(opened) != folder or "O_CREAT" not in args:
                continue
            if opened not in names:
                names[opened] = len(names) + len(ops)
                ops.append(("name", names[opened], 0, b"", opened))
            of[result] = names[opened]
            at[result] = 0
            if "O_TRUNC" in args:
                ops.append(("size", of[result], 0, b"", ""))
        elif call.startswith("rename"):
            if texts[0].decode() in names:
                names[texts[1].decode()] = names.pop(texts[0].decode())
                ops.append(("name", names[texts[1].decode()], 0, b"", texts[1].decode()))
        elif fd not in of:
            continue
        elif call in ("write", "writev"):
            ops.append(("write", of[fd], at[fd], b"".join(texts)[:result], ""))
            at[fd] += result
        elif call == "pwrite64":
            ops.append(("write", of[fd], int(args.rsplit(",", 1)[1]), texts[0][:result], ""))
        elif call == "lseek":
            at[fd] = result
        elif call == "ftruncate":
            ops.append(("size", of[fd], int(args.rsplit(",", 1)[1]), b"", ""))
        elif call in ("fsync", "fdatasync"):
            ops.append(("flush", of[fd], 0, b"", ""))
    os.remove(log)
    return ops


def apply(data, op, rng):
    """One operation on a file's bytes; rng: only in part."""
    kind, _, offset, new, _ = op
    if kind == "size":
        return data[:offset] + bytearray(max(0, offset - len(data)))
    if kind == "write":
        data = data + bytearray(max(0, offset + len(new) - len(data)))
        for begin in range(0, len(new), SECTOR):
            if rng is None or rng.random() < 0.5:
                data[offset + begin:offset + min(begin + SECTOR, len(new))] = new[begin:begin + SECTOR]
    return data


def crash(old, path, ops, n, rng):
    """What `path` holds after a crash when n operations had been issued; rng None: all of them took effect."""
    files, file = {0: bytearray(old)}, 0
    for i, op in enumerate(ops[:n]):
        flushed = "folder" if op[0] == "name" else op[1]
        certain = rng is None or any(o[0] == "flush" and o[1] == flushed for o in ops[i:n])
        fate = 0 if certain else rng.randrange(3)
        if op[0] == "name" and op[4] == path and fate < 2:
            file = op[1]
        elif op[0] != "name" and fate != 1:
            files[op[1]] = apply(files.get(op[1], bytearray()), op, rng if fate == 2 else None)
    return bytes(files.get(file, b""))


def judge(load, folder, data):
    path = os.path.join(folder, "state")
    with open(path, "wb") as f:
        f.write(data)
    try:
        got = load(path)
    except Exception:
        return "does not load"
    for version in (1, 2):
        want = content(version)
        if set(got) == set(want) and all(torch.equal(got[k], want[k]) for k in want):
            return "previous" if version == 1 else "new"
    return "loads wrong data"


for name, (save, load) in subjects.items():
    with tempfile.TemporaryDirectory() as folder:
        folder = os.path.realpath(folder)
        path = os.path.join(folder, "file")
        save(content(1), path)
        old = open(path, "rb").read()
        ops = trace(name, path)
        if crash(old, path, ops, len(ops), None) != open(path, "rb").read():
            sys.exit("%s: the trace does not give the file that was written" % name)
        rng, counts, known = random.Random(1), {}, {}
        after = dict.fromkeys(("previous", "new", "does not load", "loads wrong data"), 0)
        for k in range(wanted):
            n = k % (len(ops) + 1)
            data = crash(old, path, ops, n, rng)
            if data not in known:
                known[data] = judge(load, folder, data)
            counts[known[data]] = counts.get(known[data], 0) + 1
            if n == len(ops):
                after[known[data]] += 1
    kinds = [op[0] for op in ops]
    print("%-22s %d operations, %d flushes, %d names made; %d states, %d different" %
          (name, len(ops), kinds.count("flush"), kinds.count("name"), wanted, len(known)))
    for what in ("previous", "new", "does not load", "loads wrong data"):
        print("    %-18s %6.2f %%   of those after the save had returned %6.2f %%" %
              (what, 100 * counts.get(what, 0) / wanted, 100 * after[what] / max(1, sum(after.values()))))
