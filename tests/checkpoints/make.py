"""Writes the PyTorch files of this folder; needs PyTorch 2 and safetensors.

They hold one small Spikingformer for CIFAR (dim 8, depth 1) under its published names. All values are multiples of 1/8, so
that every type of float has them exactly.
"""

import argparse
import collections
import os
import pickle
import zipfile

import numpy as np
import torch
from safetensors.torch import save_file

torch.manual_seed(3)


def some(*shape):
    return torch.randint(-12, 13, shape).float() / 8


def norm(state, name, n):
    state[f"{name}.weight"] = some(n)
    state[f"{name}.bias"] = some(n)
    state[f"{name}.running_mean"] = some(n)
    state[f"{name}.running_var"] = some(n).abs() + 0.125
    state[f"{name}.num_batches_tracked"] = torch.tensor(7)


def network(d=8, classes=10):
    state = collections.OrderedDict()
    widths = [3, d // 8, d // 4, d // 2, d, d]
    for i in range(5):
        state[f"patch_embed.block{i}_conv.weight"] = some(widths[i + 1], widths[i], 3, 3)
        norm(state, f"patch_embed.block{i}_bn", widths[i + 1])
    for n in (1, 2):
        state[f"block.0.norm{n}.weight"] = torch.ones(d)
        state[f"block.0.norm{n}.bias"] = torch.zeros(d)
    for part in "qkv":
        state[f"block.0.attn.{part}_conv.weight"] = some(d, d, 1)
        norm(state, f"block.0.attn.{part}_bn", d)
    state["block.0.attn.proj_conv.weight"] = some(d, d, 1)
    state["block.0.attn.proj_conv.bias"] = some(d)
    norm(state, "block.0.attn.proj_bn", d)
    for n, (into, out) in ((1, (d, 4 * d)), (2, (4 * d, d))):
        state[f"block.0.mlp.mlp{n}_conv.weight"] = some(out, into, 1, 1)
        state[f"block.0.mlp.mlp{n}_conv.bias"] = some(out)
        norm(state, f"block.0.mlp.mlp{n}_bn", out)
    state["head.weight"] = some(classes, d)
    state["head.bias"] = some(classes)
    return state


def cast(state, kind):
    return collections.OrderedDict((n, t.to(kind) if t.is_floating_point() else t) for n, t in state.items())


class Call:
    """What runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch executed-by-a-pickle",)


def hidden(source, target, call):
    """The checkpoint, and before its content a call whose result is thrown away."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.endswith("data.pkl"):
                data = data[:2] + call + data[2:]
            new.writestr(entry, data)


state = network()
save_file(dict(state), "published.safetensors")
# As timm and torch.nn.DataParallel leave it.
module = {f"module.{n}": t for n, t in state.items()}
args = argparse.Namespace(model="Spikingformer", lr=5e-4, path=None)
optimizer = torch.optim.AdamW([torch.nn.Parameter(some(3))]).state_dict()
outer = {"epoch": 3, "arch": "Spikingformer", "state_dict": module, "optimizer": optimizer, "version": 2, "args": args, "metric": np.float64(74.5)}
torch.save(outer, "timm.pth.tar")
torch.save({"model": state, "args": args, "max_test_acc1": 80.1}, "legacy.pth", _use_new_zipfile_serialization=False)
# Weights that are views of others, and no dictionary around them.
views = collections.OrderedDict(state)
views["head.weight"] = state["head.weight"].t().contiguous().t()
both = torch.cat([state["head.bias"], state["block.0.attn.proj_conv.bias"]])
views["head.bias"], views["block.0.attn.proj_conv.bias"] = both[:10], both[10:]
torch.save(views, "views.pth")
for name, kind in (("f16", torch.float16), ("bf16", torch.bfloat16), ("f64", torch.float64)):
    torch.save(cast(state, kind), f"{name}.pth")
torch.save({**state, "head.bias": state["head.bias"].to(torch.complex64)}, "complex.pth")
torch.save({"state_dict": state, "hook": Call()}, "calls.pth")
text = b"X" + (7).to_bytes(4, "little") + b"touch x"
hidden("views.pth", "hidden_call.pth", b"cposix\nsystem\n" + text + b"\x85R0")
# By two strings, after harmless ones that are taken away again; as an attribute of a harmless module.
strings = [bytes([0x8C, len(s)]) + s for s in (b"posix", b"system", b"torch", b"Tensor")]
hidden("views.pth", "hidden_strings.pth", b"".join(strings) + b"00\x93" + text + b"\x85R0")
hidden("views.pth", "hidden_attribute.pth", b"ctorch.nn.modules.module\nos.system\n" + text + b"\x85R0")
# A few numbers repeated to 8 GiB.
torch.save({**state, "head.weight": torch.zeros(1).expand(8192, 262144)}, "repeated.pth")
with open("calls.pkl", "wb") as f:
    pickle.dump(Call(), f, protocol=4)
