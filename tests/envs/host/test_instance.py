"""Environments of others: whatever they return for a number or a flag, what they do wrong, and what they are given as."""

import logging
import sys
from decimal import Decimal
from fractions import Fraction

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from jaxdreamer import families
from jaxdreamer.config import ConfigError, EnvConfig
from jaxdreamer.envs import EnvError, LocalVectorEnv, WorkerVectorEnv, make_env, make_vector, register, wrap
from jaxdreamer.envs.check import check_env
from jaxdreamer.envs.device.pure import counting
from jaxdreamer.envs.host.outcome import flag_of, name_of, reward_of
from tests.envs.host.troubled import Troubled, troubled
from tests.envs.toy import CountingEnv

ACTION = np.eye(5, dtype=np.float32)[0]


class Doing(CountingEnv):
    """CountingEnv, but for what is given by method or attribute."""

    def __init__(self, truncate_at=5, **changes):
        super().__init__(truncate_at=truncate_at)
        for name, change in changes.items():
            setattr(self, name, change)


def refuse_long_seeds(seed=None):
    assert seed is None or seed < 2**16, "a seed of 16 bits, please"
    return np.zeros(3), {}


def stepping(**changes):
    """A step that returns these instead of the right values, by their place."""
    places = {"obs": 0, "reward": 1, "terminated": 2, "truncated": 3, "info": 4}

    class Stepping(CountingEnv):
        def step(self, action):
            values = list(super().step(action))
            for name, value in changes.items():
                values[places[name]] = value
            return tuple(values)

    return Stepping(truncate_at=5)


NUMBERS = {
    "python": (2, 2.0, True, Fraction(1, 2), Decimal("0.5"), 10**30),
    "numpy": (np.float64(2), np.float16(2), np.int8(2), np.bool_(True), np.array(2), np.array([2.0]), np.array([[2]])),
    "others": ([2], (2.0,), [[np.float32(2)]], [np.array([2])], jnp.float32(2), jnp.array([2]), np.array([2], object)),
}


@pytest.mark.parametrize("value", [value for group in NUMBERS.values() for value in group], ids=repr)
def test_rewards_of_every_kind_of_one_number(value):
    inner = value
    while np.ndim(inner):
        inner = inner[0]
    assert reward_of(value, "it") == float(inner) and type(reward_of(value, "it")) is float


def test_rewards_that_are_tensors():
    torch = pytest.importorskip("torch")
    for value in (torch.tensor(0.5), torch.tensor([0.5], requires_grad=True), [torch.tensor(0.5)]):
        assert reward_of(value, "it") == 0.5
    assert flag_of(torch.tensor(True), "done", "it") is True
    with pytest.raises(EnvError, match="one number"):
        reward_of(torch.zeros(2), "it")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, r"None \(NoneType\); is a `return` missing\?"), ("x", r"'x' \(str\)"), ("1.5", "'1.5'"), (b"1", "bytes"),
        (np.zeros(2), r"array\(\[0., 0.\]\) \(ndarray of shape \(2,\)\)"), ([], "list of shape"), ([1, 2], "list"),
        (1j, "1j"), (np.complex128(1), "complex"), ({"a": 1}, "dictionary"), (np.array("x"), "ndarray"), (object, "type"),
        (10**400, "int"), (np.array([None]), "ndarray"), (lambda: 1.0, "function"), (jnp.zeros(3), "shape"),
    ],
)  # fmt: skip
def test_rewards_that_are_no_number_are_refused_with_what_was_found(value, shown):
    with pytest.raises(EnvError, match=rf"the reward must be one number, <X> returned .*{shown}"):
        reward_of(value, "<X>")


@pytest.mark.parametrize("yes", [True, 1, 1.0, np.bool_(True), np.array(True), np.array([1]), [True], jnp.array(True)])
def test_flags_of_every_kind(yes):
    assert flag_of(yes, "terminated", "it") is True
    no = [type(yes[0])(0)] if isinstance(yes, list) else yes * 0
    assert flag_of(no, "terminated", "it") is False and flag_of(None, "terminated", "it") is False


@pytest.mark.parametrize("value", ["False", np.array([True, False]), [], np.nan, {}, np.zeros(0, bool), 1j])
def test_flags_that_are_none_are_refused(value):
    with pytest.raises(EnvError, match="terminated must be true or false, <X> returned"):
        flag_of(value, "terminated", "<X>")


@pytest.mark.parametrize(
    ("env", "says"),
    [
        (lambda: stepping(reward=None), "the reward must be one number, <Stepping.* returned None"),
        (lambda: stepping(reward="x"), "the reward must be one number.*'x'"),
        (lambda: stepping(terminated=np.zeros(2, bool)), "terminated must be true or false.*shape"),
        (lambda: stepping(truncated="no"), "truncated must be true or false.*'no'"),
        (lambda: stepping(obs=None), "step of <Stepping.* returned no observation"),
        (lambda: stepping(obs=np.zeros(4)), r"'state'.*\(3,\).*\(4,\)"),
        (lambda: Doing(step=lambda action: None), r"step must return .* <Doing.* returned NoneType"),
        (lambda: Doing(step=lambda action: (0, 0, False)), "returned 3 values"),
        (
            lambda: Doing(step=lambda action: 1 / 0),
            r"step of <Doing.* raised ZeroDivisionError.*test_instance.py, line",
        ),
        (lambda: Doing(step=lambda action: next(iter(()))), "step of <Doing.* raised StopIteration .*test_instance.py"),
        (lambda: Doing(step=lambda action: sys.exit("no licence")), "step of <Doing.* raised SystemExit: no licence"),
        (lambda: Doing(reset=lambda seed=None: None), "reset of <Doing.* returned no observation"),
        (lambda: Doing(reset=lambda seed=None: (np.zeros(3), {}, False)), "found a tuple of ndarray, dict, bool"),
        (lambda: Doing(reset=refuse_long_seeds), "raised AssertionError: a seed of 16 bits, please"),
        (lambda: Doing(reset=lambda seed=None: {}["goal"]), "reset of <Doing.* raised KeyError: 'goal'"),
        (lambda: Doing(reset=lambda **all: [].pop(0)), "reset of <Doing.* raised IndexError"),
        (lambda: Doing(close=lambda: 1 / 0), "close of <Doing.* raised ZeroDivisionError"),
    ],
)
def test_what_an_environment_does_wrong_is_a_sentence_and_a_finding(env, says):
    if "close" not in says:
        wrapped = wrap(env())
        with pytest.raises(EnvError, match=says):
            wrapped.reset(2**31 - 1)
            wrapped.step(ACTION)
    report = check_env(env, steps=4)
    assert not report.ok
    with pytest.raises(EnvError, match=says):
        raise EnvError("\n".join(finding.text for finding in report.findings))


def test_an_environment_with_the_least_there_can_be():
    class Bare:
        observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)

        def reset(self):
            return np.zeros(2)

        def step(self, action):
            return np.zeros(2), [1], np.array([0]), None

    env = wrap(Bare())
    assert not env.can_render and env.frame_rate == 30
    env.reset()
    assert env.step(np.eye(2)[0])[1:] == (1.0, False, False, False)
    env.close(), env.close()
    assert wrap(Doing(metadata=None, spec=None)).reset(0).is_first
    assert wrap(Doing(reset=lambda seed=None: (np.zeros(3), None))).reset(0).obs["state"].shape == (3,)


def test_one_lane_that_cannot_be_closed_keeps_none_from_it(caplog):
    closed = []
    lanes = LocalVectorEnv([Doing(close=lambda: 1 / 0), Doing(close=lambda: closed.append(1))])
    lanes.close()
    assert closed == [1] and "lane 0 could not be closed: close of <Doing" in caplog.text
    lanes.close()
    assert closed == [1]  # once
    assert make_vector(EnvConfig(), 1, make=lambda: Doing(close=lambda: 1 / 0), apart=True).num_envs == 1


def test_environments_that_nobody_wrapped_are_wrapped():
    config = EnvConfig(action_repeat=2, backend="bare")
    lanes = make_vector(config, 2, make=lambda: CountingEnv(truncate_at=6))
    lanes.step(np.zeros((2, 5)))
    assert lanes.step(np.zeros((2, 5))).reward.tolist() == [3, 3]
    assert LocalVectorEnv([CountingEnv, lambda: gymnasium.make("Pendulum-v1")][:1]).spec.action.size == 5
    register("bare", lambda config: CountingEnv())
    try:
        env = make_env(config)
        env.reset(0)
        assert env.step(ACTION).reward == 3
        assert make_vector(config, 1).spec == env.spec
    finally:
        del families._registered["bare"]
    assert check_env(lambda: gymnasium.make("Pendulum-v1"), steps=5).steps == 5
    workers = WorkerVectorEnv([lambda: Troubled(truncate_at=6)], workers=1, timeout=60)
    assert workers.spec == env.spec
    workers.close()


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (None, "found None; is a `return` missing"),
        (CountingEnv, r"which makes one: call it, as in CountingEnv\(\)"),
        (7, "found 7, which has no observation_space and no action_space"),
        (counting(), "found FunctionalEnv: pure functions are given themselves"),
        (type("Dmc", (), {"observation_spec": 0, "reset": 0, "step": 0})(), "env.backend=dmc"),
        (type("Zoo", (), {"possible_agents": ["a"]})(), "has several agents"),
        (
            Doing(observation_space=lambda agent: None),
            "observation_space of .* is a function, as where there are several",
        ),
        (Doing(action_space=None), r"has no action_space \(None\): an environment must have it before its first reset"),
    ],
)
def test_what_is_no_environment_is_refused_with_what_to_give(made, says):
    with pytest.raises(ConfigError, match=says):
        make_vector(EnvConfig(), 1, make=lambda: made)


def test_a_maker_is_a_function_and_what_it_raises_is_told():
    with pytest.raises(ConfigError, match=r"make must be a function.*make=lambda: MyEnv\(\)"):
        make_vector(EnvConfig(), 1, make=CountingEnv())
    with pytest.raises(EnvError, match=r"the function that makes the environment raised ZeroDivisionError"):
        make_vector(EnvConfig(), 1, make=lambda: 1 / 0)
    with pytest.raises(EnvError, match=r"the function that makes the environment raised SystemExit: no licence"):
        make_vector(EnvConfig(), 1, make=lambda: sys.exit("no licence"))


def test_an_environment_that_cannot_say_its_name_yet_has_its_classs():
    class Board(Doing):
        def __str__(self):
            return self.board  # there is one from the first reset on

    with pytest.raises(EnvError, match=r"^step of <Board> raised KeyError"):
        (env := wrap(Board(step=lambda action: {}["goal"]))).reset(0)
        env.step(ACTION)
    assert name_of(type("Drawn", (), {"__str__": lambda self: "+-+\n|x|\n"})()) == "+-+ |x|"


def test_a_space_that_cannot_be_had_and_a_frame_rate_that_is_none_are_told():
    class Later(Doing):
        observation_space = property(lambda self: self.sensors, lambda self, space: None)
        sensors = property(lambda self: {}["camera"])

    with pytest.raises(EnvError, match=r"looking at <Later.* raised KeyError: 'camera' .*test_instance.py, line"):
        wrap(Later())
    for rate in ("fast", -5, np.inf):
        with pytest.raises(ConfigError, match=r"metadata\['render_fps'\] of <Doing.* must be a number above 0, found"):
            wrap(Doing(metadata={"render_fps": rate}))
    assert wrap(Doing(metadata=["rgb_array"])).frame_rate == 30
    assert wrap(Doing(metadata={"video.frames_per_second": np.int32(50)})).frame_rate == 50


@pytest.mark.parametrize("hide", [lambda env: env, wrap, lambda env: gymnasium.wrappers.TimeLimit(env, 9)])
@pytest.mark.parametrize("count", [1, 2])
def test_one_instance_for_all_is_refused_at_the_start(hide, count):
    shared = CountingEnv()
    with pytest.raises(ConfigError, match=r"<CountingEnv.* was given twice.*make=lambda: MyEnv\(\)"):
        make_vector(EnvConfig(), count, make=lambda: hide(shared), apart=True)
    assert not check_env(lambda: hide(shared)).ok


def test_looking_for_a_shared_instance_costs_one_that_is_closed_again():
    made, closed = [], []

    def make():
        made.append(Doing(close=lambda: closed.append(1)))
        return made[-1]

    make_vector(EnvConfig(), 1, make=make, apart=True)
    assert (len(made), len(closed)) == (2, 1)
    make_vector(EnvConfig(), 1, make=make)
    make_vector(EnvConfig(), 2, make=make, apart=True)
    assert (len(made), len(closed)) == (5, 1)


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (None, "rendered nothing"),
        ([], "rendered nothing"),
        (np.zeros((4, 4, 3)), r"uint8 \[H, W, 3\], found float64"),
        (np.zeros((4, 4, 2), np.uint8), "found uint8"),
        ("text", "rendered frame"),
    ],
)
def test_frames_that_are_none(frame, says):
    env = wrap(Doing(render=lambda: frame))
    env.reset(0)
    with pytest.raises(EnvError, match=says):
        env.render()


def test_the_newest_of_a_list_of_frames_is_taken():
    env = wrap(Doing(render=lambda: [np.full((4, 4, 3), i, np.uint8) for i in range(3)]))
    assert env.render().max() == 2


def test_a_worker_that_cannot_draw_goes_on(caplog):
    with caplog.at_level(logging.WARNING):
        env = WorkerVectorEnv([troubled(render_mode=None)], workers=1, timeout=60)
        for _ in range(3):
            env.step(ACTION[None])
        assert not env.can_render
        with pytest.raises(EnvError, match=r"worker 0 \(lane 0\).*cannot be rendered: its render_mode is None"):
            env.render(0)
        assert env.step(ACTION[None]).obs["state"][0, 1] == 3 and env.restarts == 0 and not caplog.records
    env.close()
