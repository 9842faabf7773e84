"""The loop over time: both ways of differentiating it are lax.scan, and the one for GPUs keeps weights out of its loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer.ops import scan

STEPS, LANES, SIZE = 5, 3, 4
RNG = np.random.default_rng(0)
WEIGHTS = {
    name: RNG.normal(size=shape).astype(np.float32)
    for name, shape in {"w": (2 * SIZE, SIZE), "u": (SIZE, SIZE), "b": (SIZE,)}.items()
}
INIT = (RNG.normal(size=(LANES, SIZE)).astype(np.float32), np.zeros((LANES, SIZE), np.float32))
SEEN = RNG.normal(size=(STEPS, LANES, SIZE)).astype(np.float32)
FIRST = RNG.random((STEPS, LANES)) < 0.3
KEYS = jax.random.split(jax.random.key(0), STEPS)


def step_of(weights):
    """A cell with what agents have: resets by flags, choices drawn by key with a gradient straight through, an output."""

    def step(state, inputs):
        (h, choice), (seen, first, key) = state, inputs
        h = jnp.where(first[:, None], 0.0, h)
        h = jnp.tanh(jnp.concatenate([h, choice], -1) @ weights["w"] + weights["b"] + seen)
        logits = h @ weights["u"]
        p = jax.nn.softmax(logits)
        drawn = jax.nn.one_hot(jax.random.categorical(key, logits), SIZE)
        return (h, drawn + p - jax.lax.stop_gradient(p)), logits

    return step


def by_lax(step, init, inputs):
    def body(state, x):
        state, y = step(state, x)
        return state, (state, y)

    return jax.lax.scan(body, init, inputs)[1]


def loss(loop, weights, init, seen):
    (h, choice), logits = loop(step_of(weights), init, (seen, FIRST, KEYS))
    return jnp.sum(h * jnp.arange(SIZE)) + jnp.sum(choice**2 * logits), (h, choice, logits)


@pytest.mark.parametrize("loop", [scan.scan_states, scan.hoisted, functools.partial(scan.hoisted, unroll=3)])
@pytest.mark.parametrize("many", [False, True])
def test_values_and_gradients_are_those_of_lax_scan(loop, many):
    def found(loop):
        function = jax.value_and_grad(lambda *x: loss(loop, *x), argnums=(0, 1, 2), has_aux=True)
        if not many:
            return jax.jit(function)(WEIGHTS, INIT, SEEN)
        scaled = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x]), (WEIGHTS, INIT, SEEN))
        return jax.jit(jax.vmap(function))(*scaled)

    expected = jax.tree.leaves(found(by_lax))
    for mine, theirs in zip(jax.tree.leaves(found(loop)), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)
    assert all(np.abs(x).max() > 0 for x in expected)


def loops(jaxpr):
    """Shapes that the loops of a jaxpr carry, and those that they stack."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            numbers = equation.params["num_carry"]
            shapes = [x.aval.shape for x in equation.outvars]
            yield shapes[:numbers], [shape[1:] for shape in shapes[numbers:]]
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from loops(inner)


@pytest.mark.parametrize(("loop", "inside"), [(scan.scan_states, True), (scan.hoisted, False)])
def test_gradients_of_weights_are_added_up_in_the_loop_or_taken_after_it(loop, inside):
    gradient = jax.grad(lambda weights: loss(loop, weights, INIT, SEEN)[0])
    carried = [shape for shapes, _ in loops(jax.make_jaxpr(gradient)(WEIGHTS).jaxpr) for shape in shapes]
    assert any(shape in carried for shape in [(2 * SIZE, SIZE), (SIZE, SIZE)]) is inside


def test_the_loop_for_gpus_stacks_states_outputs_and_their_gradients_alone():
    gradient = jax.grad(lambda weights: loss(scan.hoisted, weights, INIT, SEEN)[0])
    forward, backward = [stacked for _, stacked in loops(jax.make_jaxpr(gradient)(WEIGHTS).jaxpr)]
    assert forward == 3 * [(LANES, SIZE)] and backward == 3 * [(LANES, SIZE)]


def test_the_device_chooses(monkeypatch):
    monkeypatch.setattr(scan, "hoisted", lambda *given, unroll: ("hoisted", unroll))
    monkeypatch.setattr(scan.lax, "scan", lambda *given, unroll: (None, ("lax", unroll)))
    assert scan.scan_states(None, None, None) == ("lax", 1)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert scan.scan_states(None, None, None) == ("hoisted", scan.GPU_UNROLL)
