"""A training step of MLP-SPE-T or Spikingformer-8-512 in PyTorch, beside `snnc bench step` on the same GPU in the same run.

    python tests/benches/peers/step.py [--model mlp_spe_t|spikingformer_8_512|digits] [--batch 64] [--precision f32|bf16|f16]
                                       [--neurons torch spikingjelly spikingjelly-cupy]
                                       [--snnc target/release/snnc] [--compile] [--repeats 20]

The networks are written anew from the papers' descriptions, with the parameters of the zoo's models; `torch` neurons are a loop over
time steps, `spikingjelly` are SpikingJelly's multi-step LIF nodes as version 2 runs them, and `spikingjelly-cupy` or `-triton` those of
versions that take a backend. Times are those of CUDA events, medians of the repetitions; peak
memory is what PyTorch's allocator held. Every row is also given as a ratio to snnc's. With `--device cpu` the networks
are small ones (`--batch 16 --precision f32`), and neither reports memory; `digits` is small as it is, and runs there.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch
from torch import nn

T = 4


class Fire(torch.autograd.Function):
    """Heaviside; its gradient is that of sigmoid(4 x)."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(4 * x)
        return grad * 4 * s * (1 - s)


class Lif(nn.Module):
    """LIF with tau = 2 and a hard reset to 0 that gradients do not pass; [T, B, ...]."""

    def __init__(self, threshold=1.0):
        super().__init__()
        self.threshold = threshold

    def forward(self, x):
        v, spikes = 0.0, []
        for t in range(x.shape[0]):
            h = (v + x[t]) * 0.5
            s = Fire.apply(h - self.threshold)
            v = h * (1 - s.detach())
            spikes.append(s)
        return torch.stack(spikes)


def neurons(kind):
    """A function that makes a LIF node of a threshold."""
    if kind == "torch":
        return Lif
    from spikingjelly.activation_based import neuron, surrogate

    backend = kind.removeprefix("spikingjelly").removeprefix("-")

    def make(threshold=1.0):
        return neuron.LIFNode(
            tau=2.0,
            v_threshold=threshold,
            v_reset=0.0,
            surrogate_function=surrogate.Sigmoid(4.0),
            detach_reset=True,
            step_mode="m",
            **({"backend": backend} if backend else {}),
        )

    return make


class Over(nn.Module):
    """A module of [N, ...] on [T, B, ...]."""

    def __init__(self, *modules):
        super().__init__()
        self.inner = nn.Sequential(*modules)

    def forward(self, x):
        y = self.inner(x.flatten(0, 1))
        return y.view(x.shape[0], x.shape[1], *y.shape[1:])


class Axial(nn.Module):
    """A linear map over one of the axes of [T, B, C, H, W], its norm and its neuron."""

    def __init__(self, axis, size, lif):
        super().__init__()
        self.axis, self.map, self.norm, self.lif = axis, nn.Linear(size, size), nn.BatchNorm1d(size), lif()

    def forward(self, x):
        y = self.map(x.transpose(self.axis, -1))
        y = self.norm(y.reshape(-1, y.shape[-1])).view_as(y)
        return self.lif(y.transpose(self.axis, -1))


def conv(inputs, outputs, kernel, stride=1, pad=0):
    return Over(nn.Conv2d(inputs, outputs, kernel, stride, pad, bias=False), nn.BatchNorm2d(outputs))


def channels(inputs, outputs, bias=True):
    return Over(nn.Conv2d(inputs, outputs, 1, bias=bias), nn.BatchNorm2d(outputs))


class Mixer(nn.Module):
    """A block of MLP-SPE: tokens, then channels; h is the stage's embedding."""

    def __init__(self, dim, size, expand, lif):
        super().__init__()
        self.along_h, self.along_w = Axial(-2, size, lif), Axial(-1, size, lif)
        self.joined, self.token_lif = conv(3 * dim, dim, 1), lif()
        self.hidden, self.hidden_lif = channels(dim, expand * dim), lif()
        self.out, self.lif = channels(expand * dim, dim), lif()

    def forward(self, h, s):
        token = self.joined(torch.cat([s, self.along_h(s), self.along_w(s)], 2))
        s = self.token_lif(h + token)
        return self.lif(h + token + self.out(self.hidden_lif(self.hidden(s))))


class PatchEncoding(nn.Module):
    """Spiking patch encoding: three nodes in a DAG."""

    def __init__(self, inputs, outputs, lif):
        super().__init__()
        third = outputs // 3
        self.s1, self.s2, self.s3 = (conv(inputs, third, 3, 2, 1) for _ in range(3))
        self.n12, self.n23 = conv(third, third, 3, 1, 1), conv(third, third, 3, 1, 1)
        self.lif1, self.lif2 = lif(), lif()

    def forward(self, s):
        n1 = self.s1(s)
        n2 = self.s2(s) + self.n12(self.lif1(n1))
        n3 = self.s3(s) + self.n23(self.lif2(n2)) + n1
        return torch.cat([n1, n2, n3], 2)


class MlpSpe(nn.Module):
    SETTINGS = ("dim", "depths", "classes", "image")
    INPUTS, PATCH = 3, 4

    def __init__(self, lif, dim=78, depths=(2, 8, 14, 2), expand=3, classes=1000, image=224):
        super().__init__()
        self.embed = nn.Sequential(nn.Conv2d(self.INPUTS, dim, self.PATCH, self.PATCH, bias=False), nn.BatchNorm2d(dim))
        self.encodings, self.first, self.blocks = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for i, depth in enumerate(depths):
            size = image // self.PATCH >> i
            self.encodings.append(PatchEncoding(dim << i - 1, dim << i, lif) if i else nn.Identity())
            self.first.append(lif())
            self.blocks.append(nn.ModuleList(Mixer(dim << i, size, expand, lif) for _ in range(depth)))
        last = dim << len(depths) - 1
        self.norm, self.head = nn.BatchNorm2d(last), nn.Linear(last, classes)

    def forward(self, x):
        h = self.embed(x).unsqueeze(0).expand(T, -1, -1, -1, -1)
        s = None
        for i, blocks in enumerate(self.blocks):
            if i:
                h = self.encodings[i](s)
            s = self.first[i](h)
            for block in blocks:
                s = block(h, s)
        y = self.norm(s.flatten(0, 1)).mean((-2, -1))
        return self.head(y).view(T, x.shape[0], -1).mean(0)


class Digits(MlpSpe):
    """The quick start on pictures of 8 x 8."""

    INPUTS, PATCH = 1, 1


class Attention(nn.Module):
    """Spiking self-attention: keys meet values first; the scale is 1/8."""

    def __init__(self, dim, heads, lif):
        super().__init__()
        self.heads, self.lif = heads, lif()
        self.q, self.k, self.v = (channels(dim, dim, False) for _ in range(3))
        self.fire = nn.ModuleList(lif() for _ in range(3))
        self.attend, self.out = lif(0.5), channels(dim, dim)

    def forward(self, m):
        s = self.lif(m)
        t, b, c, h, w = s.shape
        maps = [self.q, self.k, self.v]
        q, k, v = (f(p(s)).view(t, b, self.heads, c // self.heads, h * w) for f, p in zip(self.fire, maps))
        a = (v @ k.transpose(-1, -2)) @ q * 0.125
        return self.out(self.attend(a.reshape(t, b, c, h, w)))


class Mlp(nn.Module):
    def __init__(self, dim, ratio, lif):
        super().__init__()
        self.lif, self.hidden_lif = lif(), lif()
        self.hidden, self.out = channels(dim, ratio * dim), channels(ratio * dim, dim)

    def forward(self, m):
        return self.out(self.hidden_lif(self.hidden(self.lif(m))))


class Spikingformer(nn.Module):
    SETTINGS = ("dim", "heads", "depth", "classes")
    INPUTS = 3

    def __init__(self, lif, dim=512, heads=8, depth=8, ratio=4, classes=1000):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, dim // 8, 3, 1, 1, bias=False), nn.BatchNorm2d(dim // 8))
        widths = [dim // 8, dim // 4, dim // 2, dim, dim]
        self.fire = nn.ModuleList(lif() for _ in range(4))
        self.pool = Over(nn.MaxPool2d(3, 2, 1))
        self.steps = nn.ModuleList(conv(a, b, 3, 1, 1) for a, b in zip(widths, widths[1:]))
        self.attention = nn.ModuleList(Attention(dim, heads, lif) for _ in range(depth))
        self.mlps = nn.ModuleList(Mlp(dim, ratio, lif) for _ in range(depth))
        self.head = nn.Linear(dim, classes)

    def forward(self, x):
        m = self.stem(x).unsqueeze(0).expand(T, -1, -1, -1, -1)
        for fire, step in zip(self.fire, self.steps):
            m = step(self.pool(fire(m)))
        for attention, mlp in zip(self.attention, self.mlps):
            m = m + attention(m)
            m = m + mlp(m)
        return self.head(m.mean((-2, -1)).mean(0))


MODELS = {
    # The class, its parameters (systems.md and the zoo), small settings, and the zoo's name.
    "mlp_spe_t": (MlpSpe, 25_223_796, {"dim": 24, "depths": (1, 1, 1, 1), "classes": 1000, "image": 64}, "mixer/mlp_spe#MlpSpeT"),
    "spikingformer_8_512": (
        Spikingformer,
        29_689_384,
        {"dim": 32, "heads": 2, "depth": 1, "classes": 5, "image": 32},
        "spikingformer/imagenet_published#Spikingformer8x512Published",
    ),
    "digits": (Digits, None, {"dim": 48, "depths": (1, 1), "classes": 10, "image": 8}, "quickstart/digits"),
}
FORMATS = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def measured(args, kind):
    """Median seconds of a step, and bytes at most."""
    build, parameters, small, _ = MODELS[args.model]
    device, tiny = torch.device(args.device), args.device == "cpu"
    net = build(neurons(kind), **({k: v for k, v in small.items() if k in build.SETTINGS} if tiny else {})).to(device)
    count = sum(p.numel() for p in net.parameters())
    assert tiny or count == parameters, f"{count} parameters, not {parameters}"
    run = torch.compile(net) if args.compile else net
    image, classes = (small.get("image", 32), small["classes"]) if tiny else (224, 1000)
    x = torch.rand(args.batch, build.INPUTS, image, image, device=device)
    y = torch.randint(classes, (args.batch,), device=device)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6, momentum=0.9)
    scaler = torch.amp.GradScaler(enabled=args.precision == "f16" and not tiny)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, FORMATS[args.precision], enabled=args.precision != "f32"):
            loss = nn.functional.cross_entropy(run(x).float(), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if kind != "torch":
            from spikingjelly.activation_based import functional

            functional.reset_net(net)

    for _ in range(3):
        step()
    if tiny:
        seconds = []
        for _ in range(args.repeats):
            begun = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - begun)
        return statistics.median(seconds), 0
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(args.repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        step()
        end.record()
        torch.cuda.synchronize()
        seconds.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(seconds), torch.cuda.max_memory_allocated()


def ours(args):
    """What `snnc bench step` says, or nothing where it does not run."""
    options = ["--batch", str(args.batch), "--precision", args.precision, "--repeats", str(args.repeats)]
    if args.device == "cpu":
        small = MODELS[args.model][2].items()
        options += [word for k, v in small for word in ("--set", f"{k}={list(v) if isinstance(v, tuple) else v}")]
    command = [args.snnc, "bench", "step", MODELS[args.model][3], "--backend", args.device, "--format", "json", *options]
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    if out.returncode != 0:
        print(out.stderr.strip(), file=sys.stderr)
        return None
    report = json.loads(out.stdout)
    return report["median_s"], report["memory_bytes"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="mlp_spe_t")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", choices=FORMATS, default="f16")
    parser.add_argument("--neurons", nargs="+", default=["torch", "spikingjelly"])
    parser.add_argument("--snnc", default="target/release/snnc")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    where = torch.cuda.get_device_name() if args.device == "cuda" else "the CPU, small"
    print(f"{args.model}, T = {T}, {args.batch} samples, {args.precision}, on {where}; PyTorch {torch.__version__}")
    rows = [("snnc", ours(args))]
    for kind in args.neurons:
        try:
            rows.append((kind + (" compiled" if args.compile else ""), measured(args, kind)))
        except (ImportError, RuntimeError, TypeError, ValueError, NotImplementedError) as why:
            print(f"{kind}: {type(why).__name__}: {str(why).splitlines()[0] if str(why) else ''}", file=sys.stderr)
    first = rows[0][1]
    print(f"{'':24}{'step':>12}{'images/s':>12}{'memory':>12}{'of snnc':>10}")
    for name, figures in rows:
        if figures:
            seconds, peak = figures
            ratio = f"{seconds / first[0]:.2f} x" if first else ""
            print(f"{name:24}{1e3 * seconds:9.2f} ms{args.batch / seconds:12.0f}{peak / 1e9:9.2f} GB{ratio:>10}")


if __name__ == "__main__":
    main()
