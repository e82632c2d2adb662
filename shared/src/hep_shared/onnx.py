"""ONNX files that are known to agree with the PyTorch model they came from.

A file appears only after ONNX Runtime has reproduced the model's outputs y at several batch sizes,

    max |y_onnx - y_torch| <= atol max(1, max |y_torch|),

and carries what its reader needs (units, normalisation, names, versions) in `metadata_props`.

Legend: B events.
"""

import copy
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hep_shared import __version__
from hep_shared.amp import resolve_device
from hep_shared.errors import InputFileError, UserError
from hep_shared.files import atomic_write_bytes, reader_boundary, verify_manifest, write_manifest

_REMEDY = "export the model again or check the download"


def export_onnx(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    path: str | Path,
    *,
    output_names: Sequence[str],
    metadata: Mapping[str, Any],
    atol: float = 1e-5,
    batches: Sequence[int] = (1, 2, 7),
    dynamic_axes: Mapping[str, Sequence[int]] | None = None,
    further_examples: Sequence[Mapping[str, Tensor]] = (),
) -> dict[str, float]:
    """Export a model with a free batch axis, check it and write it with its manifest.

    Args:
        model: Model in any mode and on any device; a copy is exported in evaluation mode on the CPU.
        inputs: Example tensor by name of the argument of `model.forward`, each (B, ...). The check cuts or
            repeats these events to the batch sizes, so give several that differ.
        path: The `.onnx` file to write.
        output_names: Name of each output in order; axis 0 of each is B.
        metadata: Facts for the reader, such as units and normalisation; values are strings or JSON-ready.
        atol: Largest difference allowed, relative to the largest output where that exceeds 1.
        batches: Batch sizes B to check.
        dynamic_axes: Axes beside 0 whose length is free too, by input name, such as `{"x": (1,)}`.
        further_examples: Inputs with other lengths of the free axes, which are checked as `inputs` are.

    Returns:
        Largest absolute difference found, by output name, in the output's own unit.

    Raises:
        UserError: If the model cannot be converted, or the outputs differ by more; no file is written.
        ValueError: If `dynamic_axes` names no input.
    """
    dynamic_axes = dynamic_axes or {}
    if unknown := set(dynamic_axes) - set(inputs):
        raise ValueError(f"dynamic_axes names {sorted(unknown)}, but the inputs are {sorted(inputs)}")
    model = copy.deepcopy(model).cpu().eval()
    # An example batch of 1 would be taken for a constant axis.
    examples = {name: tensor.detach().cpu() for name, tensor in inputs.items()}
    num_events = max(2, *(len(tensor) for tensor in examples.values()))
    with _quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                model,
                (),
                kwargs=_take(examples, num_events),
                dynamo=True,
                dynamic_shapes={
                    name: dict.fromkeys((0, *dynamic_axes.get(name, ())), torch.export.Dim.DYNAMIC)
                    for name in examples
                },
                output_names=list(output_names),
                external_data=False,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"{type(model).__name__} cannot be exported to ONNX: {reason}.") from error
    assert program is not None
    proto = program.model_proto
    facts = {
        **metadata,
        "input_names": list(examples),
        "output_names": list(output_names),
        "torch_version": torch.__version__,
        "hep_shared_version": __version__,
    }
    onnx.helper.set_model_props(proto, {key: _encode(value) for key, value in facts.items()})
    data = proto.SerializeToString()
    worst = check_parity(model, data, examples, output_names, atol, batches)
    for further in further_examples:
        found = check_parity(model, data, further, output_names, atol, batches)
        worst = {name: max(difference, found[name]) for name, difference in worst.items()}
    atomic_write_bytes(path, data)
    write_manifest(path)
    return worst


def _take(inputs: Mapping[str, Tensor], batch: int) -> dict[str, Tensor]:
    """Cut or repeat the events of each input to a batch size."""
    return {name: tensor[torch.arange(batch) % len(tensor)] for name, tensor in inputs.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's remarks on its own internals."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def check_parity(
    model: nn.Module,
    data: bytes,
    examples: Mapping[str, Tensor],
    output_names: Sequence[str],
    atol: float = 1e-5,
    batches: Sequence[int] = (1, 2, 7),
) -> dict[str, float]:
    """Compare an ONNX model with the PyTorch one; arguments and result are those of `export_onnx`.

    Args:
        model: Model in evaluation mode on the CPU.
        data: The serialised ONNX model.
        examples: Example tensor by input name, each (B, ...).
        output_names: Name of each output in order.
        atol: Largest difference allowed.
        batches: Batch sizes B to check.

    Returns:
        Largest absolute difference found, by output name, in the output's own unit.

    Raises:
        UserError: If an output differs by more, or in shape, or is NaN.
    """
    session = ort.InferenceSession(data, _session_options(None), providers=["CPUExecutionProvider"])
    worst = dict.fromkeys(output_names, 0.0)
    for batch in batches:
        inputs = _take(examples, batch)
        with torch.no_grad():
            outputs = model(**inputs)
        expected = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        found = session.run(list(output_names), {name: tensor.numpy() for name, tensor in inputs.items()})
        for name, ours, theirs in zip(output_names, expected, found, strict=True):
            reference = ours.double().numpy()
            difference = _max_abs(theirs - reference) if theirs.shape == reference.shape else float("inf")
            tolerance = atol * max(1.0, _max_abs(reference))
            if not difference <= tolerance:  # also catches NaN
                raise UserError(
                    f"ONNX output '{name}' differs from PyTorch by {difference:.3g} at batch size {batch}, "
                    f"more than the {tolerance:.3g} allowed; no file was written, look for an operator that "
                    "depends on the batch size or on randomness."
                )
            worst[name] = max(worst[name], difference)
    return worst


def _max_abs(values: NDArray[Any]) -> float:
    return float(np.abs(values).max(initial=0.0))


def _session_options(num_threads: int | None) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # failures raise; below that ONNX Runtime only remarks on the machine
    options.intra_op_num_threads = num_threads or int(os.environ.get("OMP_NUM_THREADS", "0"))
    return options


def open_session(
    path: str | Path, device: str = "auto", *, num_threads: int | None = None
) -> ort.InferenceSession:
    """Open an ONNX file for inference.

    Args:
        path: The `.onnx` file; one with a manifest must match it.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        num_threads: CPU threads; the default is OMP_NUM_THREADS, and without it ONNX Runtime's own choice.

    Returns:
        The session, which runs on the device asked for.

    Raises:
        InputFileError: If the file is missing or damaged, or keeps weights in other files.
        UserError: If CUDA was asked for and is absent, in PyTorch or in ONNX Runtime.
    """
    # ONNX Runtime lists CUDA wherever its GPU wheel is installed and falls back silently: ask PyTorch.
    target = resolve_device(device)
    providers: list[Any] = ["CPUExecutionProvider"]
    if target.type == "cuda":
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": target.index or 0}))
    _read_proto(path)
    with reader_boundary(path, remedy=_REMEDY):
        session = ort.InferenceSession(
            Path(path).read_bytes(), _session_options(num_threads), providers=providers
        )
    if target.type == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
        if device != "auto":
            raise UserError(
                f"--device {device} was asked for, but ONNX Runtime {ort.__version__} could not start CUDA; "
                "install the CUDA and cuDNN versions it needs, or use --device cpu."
            )
        logging.getLogger(__name__).warning("ONNX Runtime could not start CUDA; running on the CPU")
    return session


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Read the metadata that `export_onnx` stored.

    Args:
        path: The `.onnx` file.

    Returns:
        The mapping given at export, plus `input_names`, `output_names` and versions.

    Raises:
        InputFileError: If the file is missing or damaged, or keeps weights in other files.
    """
    return {entry.key: _decode(entry.value) for entry in _read_proto(path).metadata_props}


def _read_proto(path: str | Path) -> onnx.ModelProto:
    verify_manifest(path)
    with reader_boundary(path, remedy=_REMEDY):
        proto = onnx.ModelProto()
        proto.ParseFromString(Path(path).read_bytes())
        # Such a path may point at any file of the machine.
        if any(
            isinstance(part, onnx.TensorProto) and part.data_location == onnx.TensorProto.EXTERNAL
            for part in _parts(proto)
        ):
            raise InputFileError(path, "keeps weights in other files", "export it with external_data=False")
    return proto


def _parts(message: Any) -> Iterator[Any]:
    """All messages inside a protobuf message, those of subgraphs and functions included."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield part
                yield from _parts(part)


def _encode(value: Any) -> str:
    """Plain text where that reads back unchanged, JSON otherwise."""
    return value if isinstance(value, str) and _decode(value) == value else json.dumps(value)


def _decode(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
