"""Pure functions of named arrays as programs that run without this library: StableHLO and ONNX.

Every array has a leading batch axis, whose size is free in the program. Neither format holds code of Python's: StableHLO is
read by ``jax.export.deserialize``, ONNX by onnxruntime and others.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version

import jax

from jaxdreamer.errors import ConfigError, JaxdreamerError, import_extra
from jaxdreamer.ops.conv import in_plain_form
from jaxdreamer.types import Array

PLATFORMS = ("cpu", "cuda", "tpu")
Shapes = Mapping[str, tuple[tuple[int, ...], str]]
"""Shape without the batch axis, and dtype, by name."""


class NotExportable(JaxdreamerError, RuntimeError):
    """A function that a format cannot hold; the message names the format and the operation."""


def to_stablehlo(function: Callable[[dict[str, Array]], dict[str, Array]], inputs: Shapes) -> bytes:
    """A function of a dictionary as a program for CPU, CUDA and TPU.

    ``jax.export.deserialize(bytearray(data)).call({name: array, ...})`` runs it, and gives a dictionary.
    """
    import_extra("flatbuffers", "export", "exporting as StableHLO")
    from jax import export

    with in_plain_form():
        return bytes(export.export(jax.jit(function), platforms=PLATFORMS)(_symbolic(inputs)).serialize())


def to_onnx(
    function: Callable[[dict[str, Array]], dict[str, Array]],
    inputs: Shapes,
    outputs: Sequence[str],
    note: Mapping[str, str] | None = None,
) -> bytes:
    """A function of a dictionary as an ONNX model, whose inputs and outputs have the names of the dictionaries' entries.

    ``outputs`` says their order. ``note`` is kept in the model's metadata.

    Raises:
        MissingExtra: jax2onnx is not installed.
        NotExportable: jax2onnx cannot translate an operation.
    """
    jax2onnx = import_extra("jax2onnx", "export", "exporting as ONNX")
    names = list(inputs)
    arguments = [inspect.Parameter(f"x{index}", inspect.Parameter.POSITIONAL_ONLY) for index in range(len(names))]

    def positional(*arrays: Array) -> tuple[Array, ...]:
        found = function(dict(zip(names, arrays)))
        return tuple(found[name] for name in outputs)

    # It counts a function's arguments, and knows no *arrays.
    positional.__signature__ = inspect.Signature(arguments)  # type: ignore[attr-defined]
    try:
        with in_plain_form(), _quietly("onnx_ir.serde"):
            model = jax2onnx.to_onnx(
                positional,
                list(_symbolic(inputs).values()),
                input_names=names,
                output_names=list(outputs),
                model_name="policy",
                opset=OPSET,
            )
    except NotImplementedError as error:
        raise NotExportable(f"jax2onnx {version('jax2onnx')} cannot write this as ONNX: {error}") from error
    missing = {item.name for item in model.graph.input} ^ set(names)
    if missing:
        raise NotExportable(f"jax2onnx changed the inputs {', '.join(sorted(missing))} of the program")
    for key, text in (note or {}).items():
        model.metadata_props.add(key=key, value=text)
    return model.SerializeToString()


OPSET = 21
"""Read by every onnxruntime from 1.18 (2024) on."""


@contextmanager
def _quietly(name: str) -> Iterator[None]:
    """Without the warnings of one logger: it names every value inside the graph whose type it leaves to the reader."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _symbolic(inputs: Shapes) -> dict[str, jax.ShapeDtypeStruct]:
    from jax import export

    if not inputs:
        raise ConfigError("a program without inputs cannot be exported: it would have no batch axis")
    (batch,) = export.symbolic_shape("batch")
    return {name: jax.ShapeDtypeStruct((batch, *shape), dtype) for name, (shape, dtype) in inputs.items()}
