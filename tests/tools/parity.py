"""Mutates the headers of safetensors files and compares who accepts them: Python's safetensors, and
st_accepts (Invar).   parity.py STATES PATH-OF-st_accepts      exit status 1 if they differ beyond what is listed."""
import json
import random
import struct
import subprocess
import sys

from safetensors import SafetensorError, deserialize

count, tool = int(sys.argv[1]), sys.argv[2]
random.seed(7)
BASES = [
    ({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
      "b": {"dtype": "U8", "shape": [5], "data_offsets": [24, 29]}}, 29),
    ({"__metadata__": {"format": "pt", "k": "v"}, "w": {"dtype": "BF16", "shape": [], "data_offsets": [0, 2]}}, 2),
    ({"e": {"dtype": "I64", "shape": [0, 4], "data_offsets": [0, 0]}}, 0),
]
PIECES = [b"{", b"}", b"[", b"]", b",", b":", b'"', b"0", b"1", b"9", b"-1", b"1.0", b"1e2", b"null", b"true", b" ", b"\n",
          b"\\u0041", b"\\", b"\xc3\xbc", b"\xff", b"F64", b"F16", b"I8", b"BOOL", b"F8_E4M3", b"dtype", b"shape",
          b"data_offsets", b"__metadata__", b'"x":1,', b"18446744073709551615", b"4611686018427387904"]


def mutant():
    header, data = random.choice(BASES)
    text = bytearray(json.dumps(header, separators=(",", ":")).encode())
    for _ in range(random.randint(0, 2)):
        at, way = random.randrange(len(text)), random.randrange(5)
        if way == 0: text[at] ^= 1 << random.randrange(8)
        elif way == 1: del text[at:at + random.randint(1, 3)]
        elif way == 2: text[at:at] = random.choice(PIECES)
        elif way == 3: text[at:at + random.randint(1, 4)] = random.choice(PIECES)
        else:
            digits = [i for i, c in enumerate(text) if 48 <= c <= 57]
            text[random.choice(digits)] = random.randrange(48, 58)
        if not text: text += b"{"
    pad = random.choice([0, 0, 1, 7])
    length = len(text) + pad + random.choice([0] * 20 + [-1, 1, 1 << 40])
    return struct.pack("<Q", length % (1 << 64)) + bytes(text) + b" " * pad + b"\x01" * (data + random.choice([0] * 20 + [1]))


def theirs(file):
    try:
        deserialize(file)
        return True
    except (SafetensorError, ValueError, OverflowError):
        return False


def known(file):
    """Why Invar refuses what Python's safetensors takes, or None."""
    text = file[8:8 + struct.unpack("<Q", file[:8])[0]]
    if text[:1] != b"{": return "the header begins with white space: the format asks for '{'"
    try: entries = json.loads(text)
    except ValueError: return None
    for name, entry in entries.items():
        if name != "__metadata__" and set(entry) - {"dtype", "shape", "data_offsets"}:
            return "an entry has a field that the format does not have"
    return None


files = [mutant() for _ in range(count)]
ours = subprocess.run([tool], input=b"".join(struct.pack("<I", len(f)) + f for f in files), stdout=subprocess.PIPE, check=True).stdout
accepted = 0
reasons, unknown = {}, []
for file, our in zip(files, ours):
    their = theirs(file)
    accepted += their
    if their == (our == 49): continue
    reason = known(file) if their else None
    if reason: reasons[reason] = reasons.get(reason, 0) + 1
    else: unknown.append((their, file))
print(f"{count} files, {accepted} accepted by Python's safetensors, {len(unknown)} differences that are not listed")
for reason, n in reasons.items(): print(f"{n} refused here only: {reason}")
for their, file in unknown[:20]: print("only", "theirs" if their else "ours", "accepts", file[:300])
sys.exit(len(unknown) > 0)
