"""Parameters under torchwm's names and in its layouts, and back: the one place that knows both.

A state dictionary here is ``{name: float32 array}``, one for each of torchwm's modules. Every rule is a reordering of
axes or rows, so it carries Adam's moments as well as parameters. What torchwm has no name for (state-vector encoders,
V2's cell) keeps its path in jaxdreamer's tree, after ``jax.``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxdreamer import EnvSpec

Path = tuple[str, ...]
StateDict = dict[str, np.ndarray]

EXTRA = "other_parameters"


class Entry(NamedTuple):
    """One array in both worlds."""

    module: str
    name: str
    path: Path
    shape: tuple[int, ...]  # in torch's layout
    to_torch: Callable[[np.ndarray], np.ndarray]
    to_jax: Callable[[np.ndarray], np.ndarray]


def layout(params: Any, spec: EnvSpec) -> list[Entry]:
    """Every array of ``params`` (or of its shapes) with its torch name and layout, in the order of torchwm's optimizers."""
    leaves = dict(flatten(params))
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves.items()}
    entries: list[Entry] = []
    for module, (root, rule) in MODULES.items():
        own = _below(shapes, root)
        named = list(rule(own, spec, shapes))
        entries += [Entry(module, name, root + path, (), *pair) for name, path, pair in named]
        rest = own.keys() - {path for _, path, _ in named}
        entries += [Entry(module, "jax." + ".".join(p), root + p, (), *_SAME) for p in sorted(rest)]
    known = {entry.path for entry in entries}
    entries += [Entry(EXTRA, "jax." + ".".join(p), p, (), *_SAME) for p in sorted(shapes.keys() - known)]
    return [e._replace(shape=e.to_torch(np.empty(shapes[e.path], np.bool_)).shape) for e in entries]


def to_torch(params: Any, spec: EnvSpec) -> dict[str, StateDict]:
    """State dictionaries by module."""
    leaves = dict(flatten(params))
    states: dict[str, StateDict] = {}
    for entry in layout(params, spec):
        array = entry.to_torch(np.asarray(leaves[entry.path], np.float32))
        states.setdefault(entry.module, {})[entry.name] = np.array(array, order="C")  # a copy, to be written to
    return states


def to_jax(states: Mapping[str, Mapping[str, np.ndarray]], like: Any, spec: EnvSpec) -> Any:
    """Parameters shaped like ``like``, from state dictionaries with the names and shapes of :func:`layout`."""
    flat = {e.path: np.ascontiguousarray(e.to_jax(np.asarray(states[e.module][e.name]))) for e in layout(like, spec)}
    return unflatten(flat)


def flatten(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The leaves of nested dictionaries, with their paths."""
    if not isinstance(tree, Mapping):
        yield path, tree
        return
    for key, value in tree.items():
        yield from flatten(value, (*path, key))


def unflatten(flat: Mapping[Path, Any]) -> Any:
    """Nested dictionaries of :func:`flatten`'s pairs."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = value
    return tree


def embed_order(params: Any, spec: EnvSpec) -> np.ndarray:
    """Where each number of torchwm's image embedding lies in jaxdreamer's; empty where the two agree.

    torchwm flattens the last convolution as C, H, W, jaxdreamer as H, W, C. A linear layer after it hides that.
    """
    return _embed_order({path: tuple(leaf.shape) for path, leaf in flatten(params)}, spec)


# ---- the rules, each a pair of functions -----------------------------------------------------------------------------

Rule = tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]
Named = Iterator[tuple[str, Path, Rule]]
Shapes = Mapping[Path, tuple[int, ...]]

_SAME: Rule = (lambda x: x, lambda x: x)
_TRANSPOSED: Rule = (lambda x: x.T, lambda x: x.T)
_CONV: Rule = (lambda x: x.transpose(3, 2, 0, 1), lambda x: x.transpose(2, 3, 1, 0))  # HWIO, OIHW
_CONV_TRANSPOSED: Rule = (lambda x: x.transpose(2, 3, 0, 1), lambda x: x.transpose(2, 3, 0, 1))  # HWIO, IOHW


def _linear(rows: np.ndarray) -> Rule:
    """A kernel [in, out] whose inputs torch has in another order: torch's input i is jaxdreamer's ``rows[i]``."""
    back = np.argsort(rows)
    return lambda x: x[rows].T, lambda x: x.T[back]


def _outputs(order: np.ndarray) -> tuple[Rule, Rule]:
    """Kernel and bias of a linear layer whose outputs torch has in another order."""
    back = np.argsort(order)
    return (lambda x: x[:, order].T, lambda x: x.T[:, back]), (lambda x: x[order], lambda x: x[back])


def _layer(name: str, path: Path, weight: Rule = _TRANSPOSED, bias: Rule = _SAME) -> Named:
    yield f"{name}.weight", (*path, "kernel"), weight
    yield f"{name}.bias", (*path, "bias"), bias


def _rssm(own: Shapes, spec: EnvSpec, shapes: Shapes) -> Named:
    if ("recurrent", "kernel_x") in own:
        yield "rnn.weight_ih", ("recurrent", "kernel_x"), _TRANSPOSED
        yield "rnn.weight_hh", ("recurrent", "kernel_h"), _TRANSPOSED
        yield "rnn.bias_ih", ("recurrent", "bias_x"), _SAME
        yield "rnn.bias_hh", ("recurrent", "bias_h"), _SAME
    inputs = own["input", "kernel"][0]
    stoch = inputs - spec.action.size
    # torchwm concatenates action before stoch, and embedding before deter.
    yield from _layer("fc_state_action", ("input",), _linear(np.r_[stoch:inputs, 0:stoch]))
    yield from _layer("fc_embed_prior", ("prior_hidden",))
    yield from _layer("fc_state_prior", ("prior_out",))
    deter = own["prior_hidden", "kernel"][0]
    embed = own["posterior_kernel",][0] - deter
    order = _embed_order(shapes, spec)
    order = np.r_[order, len(order) : embed]
    yield "fc_embed_posterior.weight", ("posterior_kernel",), _linear(np.r_[deter + order, 0:deter])
    yield "fc_embed_posterior.bias", ("posterior_bias",), _SAME
    yield from _layer("fc_state_posterior", ("posterior_out",))


def _encoder(own: Shapes, spec: EnvSpec, shapes: Shapes) -> Named:
    for index in range(_count(own, "image_image", "conv_")):
        yield from _layer(f"conv_block.{2 * index}", ("image_image", f"conv_{index}"), _CONV)
    if ("image_image", "embed", "kernel") in own:
        yield from _layer("fc", ("image_image", "embed"), _linear(_channels_first(_encoder_grid(own, spec))))


def _decoder(own: Shapes, spec: EnvSpec, shapes: Shapes) -> Named:
    layers = _count(own, "image_image", "deconv_")
    if not layers:
        return
    sides = spec.obs["image"].shape[:2]
    for _ in range(layers):  # back through windows of 6 for even sides and 5 for odd ones, at stride 2
        sides = tuple((side - (6 - side % 2)) // 2 + 1 for side in sides)
    order = _channels_first((*sides, own["image_image", "deconv_0", "kernel"][2]))
    yield from _layer("dense", ("image_image", "dense"), *_outputs(order))
    for index in range(layers):
        yield from _layer(f"convtranspose.{2 * index}", ("image_image", f"deconv_{index}"), _CONV_TRANSPOSED)


def _head(prefix: str) -> Callable[[Shapes, EnvSpec, Shapes], Named]:
    def rule(own: Shapes, spec: EnvSpec, shapes: Shapes) -> Named:
        if not own:
            return
        layers = _count(own, "mlp", "dense_")
        for index in range(layers):
            yield from _layer(f"{prefix}.{2 * index}", ("mlp", f"dense_{index}"))
        yield from _layer(f"{prefix}.{2 * layers}", ("out",))

    return rule


# torchwm's modules, in the order of its optimizers: where their parameters lie in jaxdreamer's tree, and their rule.
MODULES: dict[str, tuple[Path, Callable[[Shapes, EnvSpec, Shapes], Named]]] = {
    "rssm": (("model", "rssm"), _rssm),
    "obs_encoder": (("model", "encoder"), _encoder),
    "obs_decoder": (("model", "decoder"), _decoder),
    "reward_model": (("model", "reward"), _head("model")),
    "discount_model": (("model", "discount"), _head("model")),
    "actor": (("actor",), _head("action_model")),
    "value_model": (("critic",), _head("model")),
}


def _below(shapes: Shapes, root: Path) -> Shapes:
    return {path[len(root) :]: shape for path, shape in shapes.items() if path[: len(root)] == root}


def _count(own: Shapes, parent: str, prefix: str) -> int:
    return len({path[1] for path in own if path[0] == parent and path[1].startswith(prefix)})


def _channels_first(grid: tuple[int, ...]) -> np.ndarray:
    """For a flattened [H, W, C] grid: where each number of its [C, H, W] flattening lies."""
    return np.arange(np.prod(grid)).reshape(grid).transpose(2, 0, 1).ravel()


def _encoder_grid(own: Shapes, spec: EnvSpec) -> tuple[int, ...]:
    layers = _count(own, "image_image", "conv_")
    sides = spec.obs["image"].shape[:2]
    for _ in range(layers):
        sides = tuple((side - 4) // 2 + 1 for side in sides)
    return (*sides, own["image_image", f"conv_{layers - 1}", "kernel"][3])


def _embed_order(shapes: Shapes, spec: EnvSpec) -> np.ndarray:
    own = _below(shapes, MODULES["obs_encoder"][0])
    if ("image_image", "embed", "kernel") in own or not _count(own, "image_image", "conv_"):
        return np.arange(0)
    return _channels_first(_encoder_grid(own, spec))
