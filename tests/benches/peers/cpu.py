"""An inference of zoo models in other runtimes, beside `snnc bench infer` on the same cores in the same run.

    pip install onnx onnxruntime openvino torch
    python tests/benches/peers/cpu.py [--snnc target/release/snnc] [--threads 2] [--rounds 5] [--repeats 10]
                                      [--runtimes onnxruntime openvino torch torch-compiled]
                                      [MODEL@RATE[@SET] ...]

For each model `snnc bench infer` makes random weights at which so many neurons fire (`mixer/mlp_spe#MlpSpeT@0.07`; settings follow:
`...@0.15@time=5`), `snnc export onnx` exports the same weights, and all runtimes compute a made-up picture, batch 1, in f32. Rounds
alternate: every runtime in turn, so that a slow moment of the machine meets all of them. Times are medians over all rounds. PyTorch runs
the same operators, each as `torch` has it; that they agree is seen here, and that ONNX Runtime agrees with snnc in tests/onnx.rs.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import tempfile
import time

import numpy
import onnx
from onnx import numpy_helper

MODELS = [
    "mixer/mlp_spe#MlpSpeT@0.07",
    "mixer/mlp_spe#MlpSpeT@0.15",
    "spikingformer/imagenet#Spikingformer8x512@0.15",
    "gac/msresnet_imagenet#GacMsResNet18ImageNet@0.15",
    "dsr/preact_resnet18_cifar#DsrPreActResNet18If@0.15@time=5",
]
# What is wanted: times faster than ONNX Runtime, and than OpenVINO.
WANTED = dict(zip(MODELS, [(8.0, 6.5), (5.0, 4.0), (4.0, 3.5), (2.0, 1.8), (3.0, 2.5)]))


def attributes(node):
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def in_torch(model):
    """The graph as a PyTorch module; shapes and other integers are Python's."""
    import torch
    import torch.nn.functional as F

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.known = {}
            for i, tensor in enumerate(model.graph.initializer):
                value = numpy_helper.to_array(tensor)
                if value.dtype == numpy.int64:
                    self.known[tensor.name] = value.tolist()
                else:
                    self.register_buffer(f"w{i}", torch.tensor(value))
                    self.known[tensor.name] = f"w{i}"
            self.nodes = [(n.op_type, list(n.input), list(n.output), attributes(n)) for n in model.graph.node]
            last = {name: i for i, (_, inputs, _, _) in enumerate(self.nodes) for name in inputs}
            self.done = [[n for n in set(inputs) if last[n] == i and n not in self.known] for i, (_, inputs, _, _) in enumerate(self.nodes)]

        def forward(self, x):
            values = {"input": x}

            def value(name):
                if name in values:
                    return values[name]
                known = self.known[name]
                return getattr(self, known) if isinstance(known, str) else known

            binary = {
                "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": torch.div, "Max": torch.maximum, "Min": torch.minimum,
                "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Equal": torch.eq, "MatMul": torch.matmul,
            }
            unary = {"Identity": lambda a: a, "Exp": torch.exp, "Sqrt": torch.sqrt, "Neg": torch.neg, "Abs": torch.abs, "Log": torch.log}
            for (op, inputs, outputs, own), done in zip(self.nodes, self.done):
                args = [value(name) for name in inputs]
                if op in binary:
                    out = binary[op](*args)
                elif op in unary:
                    out = unary[op](args[0])
                elif op == "Cast":
                    out = args[0].to(torch.float32)
                elif op == "Where":
                    out = torch.where(*args)
                elif op == "Reshape":
                    out = args[0].reshape(args[1])
                elif op == "Transpose":
                    out = args[0].permute(own["perm"])
                elif op == "Concat":
                    out = torch.cat(args, own["axis"])
                elif op == "Slice":
                    (start,), (end,), (axis,) = args[1:4]
                    out = args[0].narrow(axis, start, end - start)
                elif op == "Split":
                    parts = args[0].chunk(own["num_outputs"], own["axis"])
                    values.update(zip(outputs, parts))
                    continue
                elif op == "ReduceSum":
                    out = args[0].sum(args[1], keepdim=bool(own.get("keepdims", 1)))
                elif op == "ReduceMax":
                    out = args[0].amax(args[1], keepdim=bool(own.get("keepdims", 1)))
                elif op in ("Conv", "MaxPool", "AveragePool"):
                    top, left, bottom, right = own["pads"]
                    x, pad = args[0], (top, left)
                    if (top, left) != (bottom, right):
                        x, pad = F.pad(x, (left, right, top, bottom), value=float("-inf") if op == "MaxPool" else 0.0), (0, 0)
                    if op == "Conv":
                        bias = args[2] if len(args) > 2 else None
                        out = F.conv2d(x, args[1], bias, own["strides"], pad)
                    elif op == "MaxPool":
                        out = F.max_pool2d(x, own["kernel_shape"], own["strides"], pad)
                    else:
                        out = F.avg_pool2d(x, own["kernel_shape"], own["strides"], pad, count_include_pad=True)
                else:
                    raise NotImplementedError(op)
                values[outputs[0]] = out
                for name in done:
                    values.pop(name, None)
            return values["logits"]

    return Module().eval()


def runtime(name, path, threads):
    """A function from pictures to logits."""
    if name == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda x: session.run(["logits"], {"input": x})[0]
    if name == "openvino":
        import openvino

        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        request = openvino.Core().compile_model(openvino.Core().read_model(path), "CPU", settings).create_infer_request()
        return lambda x: request.infer([x])[0]
    import torch

    torch.set_num_threads(threads)
    module = in_torch(onnx.load(path))
    if name == "torch-compiled":
        module = torch.compile(module)

    def run(x):
        with torch.inference_mode():
            return module(torch.from_numpy(x)).numpy()

    return run


def versions(names):
    found = {}
    for name in names:
        module = __import__(name.split("-")[0])
        found[name.split("-")[0]] = module.__version__
    return found


def snnc(args, model, sets, *more):
    """`snnc bench infer` with its JSON."""
    command = [args.snnc, "bench", "infer", model, "--format", "json", "--repeats", str(args.repeats), *sets, *more]
    env = {**os.environ, "RAYON_NUM_THREADS": str(args.threads)}
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout)


def measure(args, spec, folder):
    model, rate, *settings = spec.split("@")
    sets = [word for s in settings for word in (["--time", s[5:]] if s.startswith("time=") else ["--set", s])]
    weights, path = (str(folder / name) for name in ("weights.safetensors", "model.onnx"))
    first = snnc(args, model, sets, "--rate", rate, "--keep", weights, "--force")
    command = [args.snnc, "export", "onnx", model, "--weights", weights, "--batch", "1", "--force", "-o", path, *sets]
    subprocess.run(command, check=True, capture_output=True)
    onnx.checker.check_model(onnx.load(path))
    dims = [d.dim_value for d in onnx.load(path).graph.input[0].type.tensor_type.shape.dim]
    x = (numpy.random.default_rng(2).random(dims, dtype=numpy.float32) - 0.5) * numpy.float32(12**0.5)
    peers = {name: runtime(name, path, args.threads) for name in args.runtimes}
    logits = {name: [numpy.asarray(run(x)).ravel() for _ in range(2)][-1] for name, run in peers.items()}
    one = next(iter(logits.values()), None)
    off = {name: float(numpy.abs(theirs - one).max() / max(1.0, numpy.abs(one).max())) for name, theirs in logits.items()}
    seconds = {name: [] for name in ["snnc", *peers]}
    for _ in range(args.rounds):
        seconds["snnc"].append(snnc(args, model, sets, "--weights", weights)["median_s"])
        for name, run in peers.items():
            for _ in range(args.repeats):
                start = time.perf_counter()
                run(x)
                seconds[name].append(time.perf_counter() - start)
    return first, {name: statistics.median(s) for name, s in seconds.items()}, off


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL@RATE")
    parser.add_argument("--snnc", default="target/release/snnc")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--runtimes", nargs="*", default=["onnxruntime", "openvino", "torch", "torch-compiled"])
    args = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {args.threads} threads, {args.rounds} rounds of {args.repeats}, medians")
    print(", ".join(f"{name} {version}" for name, version in versions(args.runtimes).items()))
    others = args.runtimes
    print()
    print("| model | firing | snnc | " + " | ".join(f"{name}" for name in others) + " | wanted: ONNX Runtime, OpenVINO |")
    print("|---|---:|---:|" + "---:|" * len(others) + "---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for spec in args.models:
            first, seconds, off = measure(args, spec, pathlib.Path(folder))
            own = seconds["snnc"]
            cells = [f"{1e3 * seconds[n]:.1f} ms, **{seconds[n] / own:.2f} x**" for n in others]
            wanted = ", ".join(f"{w} x" for w in WANTED[spec]) if spec in WANTED else ""
            print(f"| {spec} | {100 * first['firing_rate']:.1f} % | {1e3 * own:.1f} ms | " + " | ".join(cells) + f" | {wanted} |", flush=True)
            worst = {name: value for name, value in off.items() if value > 1e-4}
            if worst:
                print(f"\nlogits differ from the first by more than 1e-4 (spikes near their threshold): {worst}\n", flush=True)


if __name__ == "__main__":
    main()
