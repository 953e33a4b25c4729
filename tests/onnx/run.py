"""Checks exported models and runs them with ONNX Runtime.

Usage: run.py FOLDER. For every NAME.onnx there it reads NAME.json, {"shape": [...]}, and NAME.input (little-endian f32), and writes NAME.logits.
"""

import json
import pathlib
import sys

import numpy
import onnx
import onnxruntime

for path in sorted(pathlib.Path(sys.argv[1]).glob("*.onnx")):
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    shape = json.loads(path.with_suffix(".json").read_text())["shape"]
    batch = numpy.fromfile(path.with_suffix(".input"), dtype="<f4").reshape(shape)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options)
    (logits,) = session.run(["logits"], {"input": batch})
    logits.astype("<f4").tofile(path.with_suffix(".logits"))
