#!/usr/bin/env bash
# Installs what some tests need beyond Rust, gcc and Python: a C++ compiler, shellcheck, a cross compiler, an emulator, a browser (Debian's packages), and NVIDIA's
# compiler, ONNX and its runtime (Python's packages, into target/cuda and target/onnx).
# Without them these tests are skipped; with SNNC_ALL_TESTS set, as in CI, they fail.
set -euo pipefail
cd "$(dirname "$0")/.."
packages=(g++ shellcheck gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user chromium)
missing=()
for package in "${packages[@]}"; do
    dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    as=()
    [ "$(id -u)" -eq 0 ] || as=(sudo)
    "${as[@]}" apt-get update -qq
    "${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
if [ ! -d target/onnx/onnxruntime ]; then
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target target/onnx \
        'onnx==1.*' 'onnxruntime==1.*' 'numpy==2.*'
fi
if [ ! -d target/cuda/nvidia ]; then
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps --target target/cuda \
        'nvidia-cuda-nvrtc==13.*' 'nvidia-cuda-runtime==13.*' 'nvidia-cuda-crt==13.*'
fi
