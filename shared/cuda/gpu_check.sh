#!/usr/bin/env bash
# Build the libraries, run every test and every benchmark on a GPU machine, from a bare checkout.
#
#   shared/cuda/gpu_check.sh [build folder]
#
# Needs torch, pytest, CMake, ninja and a C++ compiler; nothing is installed. PYTHON chooses the interpreter. Without
# a GPU it does what the machine can. The table goes to benchmarks/gpu.md, or to benchmarks/cpu.md without a GPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

python=$(command -v "${PYTHON:-python3}")
build=$(realpath -m "${1:-build/gpu-check}")
[ -n "${CUDA_HOME:-}" ] || CUDA_HOME=/usr/local/cuda
command -v nvcc >/dev/null || PATH=$PATH:$CUDA_HOME/bin

step() { printf '\n== %s\n' "$*"; "$@"; }

device=$("$python" -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')
arch=()
if [ "$device" = cuda ]; then
  capability=$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')
  arch=("-DCMAKE_CUDA_ARCHITECTURES=$capability")
fi
step cmake -S . -B "$build" -G Ninja "-DPython_EXECUTABLE=$python" "${arch[@]}"
step cmake --build "$build"

export HEP_SHARED_CUDA_LIB=$build HEP_SHARED_KERNELS=native HEP_SHARED_REQUIRE_NATIVE=1
export PYTHONPATH=$PWD/src:$PWD/../src${PYTHONPATH:+:$PYTHONPATH}
# The settings of the workspace need plug-ins that such a machine may not have.
pytest=("$python" -m pytest -c /dev/null --rootdir=. --import-mode=importlib -p no:cacheprovider -q -ra
  -o "markers=gpu: needs a CUDA device")
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
step "${pytest[@]}" tests
if [ "$device" = cuda ] && command -v compute-sanitizer >/dev/null; then
  step compute-sanitizer --error-exitcode 1 "${pytest[@]}" tests/test_values.py -k "cuda and not float64"
fi
table=benchmarks/$([ "$device" = cuda ] && echo gpu || echo cpu).md
step "$python" tools/bench.py --device "$device" --out "$table"
cat "$table"
