"""The programs in `docs/` agree with the package, and compile where their headers are installed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from chhiggs_pnet.data.schema import CLASSES, EXT14, NUM_NODES

SOURCE = Path(__file__).parents[1] / "docs" / "classify.cpp"


def test_the_example_has_the_shapes_of_the_package():
    text = SOURCE.read_text()
    assert f"kNodes = {NUM_NODES};" in text
    assert f"kFeatures = {len(EXT14)};" in text
    classes = re.search(r"kClasses = \{(.*?)\}", text).group(1)
    assert re.findall(r'"(\w+)"', classes) == list(CLASSES)


def test_the_example_compiles():
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    probe = [compiler, "-std=c++17", "-fsyntax-only", "-x", "c++", "-"]
    header = "#include <onnxruntime_cxx_api.h>\n"
    found = subprocess.run(probe, input=header, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        pytest.skip("ONNX Runtime's C++ headers are not installed")
    command = [compiler, "-std=c++17", "-Wall", "-Wextra", "-fsyntax-only", str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
