"""A lowered denoiser as a graph for ONNX Runtime or OpenVINO, and the denoiser of a pipeline that runs it.

The graph's inputs are `sample`, `timestep` (1) and `encoder_hidden_states`, for SDXL `text_embeds` and
`time_ids`, for SD3 `text_embeds` too; its output is `out_sample`. The batch is free, the size is that of the
example.
"""

import importlib
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from torch import Tensor, nn

from ..errors import EnvironmentProblem
from ..models.conditioning import Conditioning, predict
from ..models.example_call import ExampleCall
from ..quant.rows import Rows
from ..types import ExportFormat

ONNX_FILE, IR_FILE, ROWS_FILE = "model.onnx", "openvino_model.xml", "timesteps.json"
OPSET = 17
OLDEST = {"onnx": (1, 16), "onnxruntime": (1, 17), "openvino": (2025, 0)}
_INTEGER_NODES = (
    "MatMulIntegerToFloat",
    "MatMulInteger",
    "QLinearMatMul",
    "QLinearConv",
    "ConvInteger",
    "QGemm",
)
_PRODUCTS = (*_INTEGER_NODES, "Conv", "FusedConv", "Gemm", "FusedGemm")

Run = Callable[[dict[str, np.ndarray]], np.ndarray]


class Loaded(NamedTuple):
    """A graph in its runtime: how it is run, and its products that the runtime computes in integers."""

    run: Run
    integer: int
    products: int


def need(form: ExportFormat) -> None:
    """Raise EnvironmentProblem where a format's packages are missing or too old."""
    packages = ("onnx", "onnxruntime") if form is ExportFormat.ONNX else ("onnx", "openvino")
    for name in packages:
        _package(name, form)


def write(
    form: ExportFormat, network: nn.Module, call: ExampleCall, rows: Sequence[float], folder: Path
) -> None:
    """Write the graph of a lowered network, for images of the call's size, and the timesteps of its rows."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / ONNX_FILE
    _write_onnx(network, call, file)
    if form is ExportFormat.OPENVINO:
        openvino = _package("openvino", form)
        openvino.save_model(openvino.convert_model(file), folder / IR_FILE, compress_to_fp16=False)
        for path in folder.glob(f"{ONNX_FILE}*"):
            path.unlink()
    (folder / ROWS_FILE).write_text(json.dumps(list(rows)) + "\n")


def load(folder: Path, threads: int = 0) -> Loaded:
    """Return the graph of a folder in its runtime on the CPU; `threads` 0: as many as the runtime chooses."""
    if (folder / IR_FILE).is_file():
        return _load_openvino(folder / IR_FILE, threads)
    return _load_onnx(folder / ONNX_FILE, threads)


def inputs(x: Tensor, timestep: Tensor, conditioning: Conditioning) -> dict[str, np.ndarray]:
    """Return a call's inputs by name."""
    tensors = {
        "sample": x,
        "timestep": timestep.reshape(-1)[:1],
        "encoder_hidden_states": conditioning.tokens,
    }
    if conditioning.pooled is not None:
        tensors["text_embeds"] = conditioning.pooled
    if conditioning.size is not None:
        tensors["time_ids"] = conditioning.size
    return {name: tensor.detach().float().cpu().numpy() for name, tensor in tensors.items()}


class GraphDenoiser(ModelMixin, ConfigMixin):
    """A denoiser for a diffusers pipeline that runs a graph; `config` is the original's."""

    config_name = "config.json"

    def __init__(self, folder: Path, threads: int = 0) -> None:
        """Load the graph in a folder beside its config.json."""
        super().__init__()
        fields = json.loads((folder / self.config_name).read_text())
        self.register_to_config(**{name: value for name, value in fields.items() if name[0] != "_"})
        self.rows = Rows(json.loads((folder / ROWS_FILE).read_text()))
        self.graph = load(folder, threads)
        self.like = nn.Parameter(
            torch.zeros(1), requires_grad=False
        )  # whose dtype and device pipelines ask for

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: dict[str, Tensor] | None = None,
        pooled_projections: Tensor | None = None,
        **_: object,
    ) -> tuple[Tensor]:
        """Return the prediction; raises UsageProblem for a timestep that was not calibrated."""
        added = added_cond_kwargs or {}
        pooled = added.get("text_embeds", pooled_projections)
        timestep = torch.as_tensor(timestep)
        self.rows.find(timestep)
        conditioning = Conditioning(encoder_hidden_states, pooled, added.get("time_ids"))
        return (torch.from_numpy(self.graph.run(inputs(sample, timestep, conditioning))),)


def graphs_in(folder: Path) -> dict[str, GraphDenoiser]:
    """Return the denoiser of a pipeline folder by its name there; empty where it is no graph."""
    for files in folder.glob(f"*/{ROWS_FILE}"):
        return {files.parent.name: GraphDenoiser(files.parent)}
    return {}


class _Call(nn.Module):
    """A network as a function of tensors alone."""

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, sample: Tensor, timestep: Tensor, tokens: Tensor, *rest: Tensor) -> Tensor:
        named = dict(zip(self.names[3:], rest, strict=True))
        conditioning = Conditioning(tokens, named.get("text_embeds"), named.get("time_ids"))
        return predict(self.network, sample, timestep, conditioning)


def _write_onnx(network: nn.Module, call: ExampleCall, file: Path) -> None:
    tensors = inputs(call.x, call.timestep, call.conditioning)
    names = list(tensors)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter, about shapes that the example fixes
        torch.onnx.export(
            _Call(network, names).eval(),
            tuple(map(torch.from_numpy, tensors.values())),
            str(file),
            dynamo=False,
            opset_version=OPSET,
            input_names=names,
            output_names=["out_sample"],
            dynamic_axes={name: {0: "batch"} for name in names if name != "timestep"},
        )


def _load_onnx(file: Path, threads: int) -> Loaded:
    runtime, onnx = _package("onnxruntime", ExportFormat.ONNX), _package("onnx", ExportFormat.ONNX)
    import tempfile

    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    integer = products = 0
    for node in graph.node:
        has_weight = node.op_type in _PRODUCTS or (
            node.op_type == "MatMul" and not weights.isdisjoint(node.input)
        )
        products += has_weight
        integer += node.op_type in _INTEGER_NODES
    return Loaded(lambda arrays: session.run(None, arrays)[0], integer, products)


def _load_openvino(file: Path, threads: int) -> Loaded:
    openvino = _package("openvino", ExportFormat.OPENVINO)
    options: dict[str, object] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino.Core().compile_model(str(file), "CPU", options)
    integer = products = 0
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        if facts["layerType"].value in ("Convolution", "FullyConnected"):
            products += 1
            integer += facts["runtimePrecision"].value in ("u8", "i8")
    return Loaded(lambda arrays: np.array(compiled(list(arrays.values()))[0]), integer, products)


def _package(name: str, form: ExportFormat) -> ModuleType:
    """Return a package; raise EnvironmentProblem where it is missing or too old."""
    try:
        package = importlib.import_module(name)
    except ImportError:
        raise EnvironmentProblem(
            f"--format {form}: {name} is not installed; pip install 'sdquant[{form}]'"
        ) from None
    version = tuple(int(part) for part in package.__version__.split(".")[:2])
    if version < OLDEST[name]:
        oldest = ".".join(map(str, OLDEST[name]))
        raise EnvironmentProblem(
            f"--format {form}: {name} {package.__version__} is too old, expected {oldest} or newer; "
            f"pip install -U 'sdquant[{form}]'"
        )
    return package
