"""Tasks of Playground's suite step as MuJoCo itself does, and six of them see and pay as dm_control's own."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer import config as configs
from jaxdreamer.config import EnvConfig
from jaxdreamer.envs.device import playground_env

pytest.importorskip("mujoco_playground")
mujoco = pytest.importorskip("mujoco")
CHEAP = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # to compile; steps are few


@functools.cache
def compiled(task):
    """The task's environment; Playground's own; its first state; and one step from any state of the physics."""
    env = playground_env.make_functional(configs.replace_env(EnvConfig(backend="playground", id=task), {}))
    start = jax.jit(env.reset).lower(jax.random.key(0)).compile(compiler_options=CHEAP)(jax.random.key(0))

    def advance(qpos, qvel, mocap, warmstart, action):
        data = start.data.replace(qpos=qpos, qvel=qvel, mocap_pos=mocap, qacc_warmstart=warmstart)
        state, reward, terminal = env.step(start.replace(data=data), action)
        return env.observe(state), reward, terminal, state.data.qpos, state.data.qvel

    data = start.data
    given = (data.qpos, data.qvel, data.mocap_pos, data.qacc_warmstart, jnp.zeros(env.spec.action.size))
    step = jax.jit(advance).lower(*given).compile(compiler_options=CHEAP)
    return env, playground_env.load(playground_env.canonical(task)), start, step


def both(task, model, data, count, look=lambda: None, mocap=None):
    """For ``count`` random actions: MJX's step from where MuJoCo stands, MuJoCo's own, and what ``look`` sees after it."""
    env, theirs, _, step = compiled(task)
    rng = np.random.default_rng(0)
    for _ in range(count):
        action = rng.uniform(-1, 1, env.spec.action.size).astype(np.float32)
        where = (data.qpos, data.qvel, data.mocap_pos if mocap is None else mocap, data.qacc_warmstart)
        found = step(*(np.asarray(x, np.float32) for x in where), action)
        data.ctrl[:] = action
        mujoco.mj_step(model, data, theirs.n_substeps)
        yield jax.tree.map(np.asarray, found), data.qpos.copy(), data.qvel.copy(), look()


SUITE = [  # all but the Humanoids, whose programs take longest to compile, the second Hopper and the Swimmer
    "AcrobotSwingup", "AcrobotSwingupSparse", "BallInCup", "CartpoleBalance", "CartpoleBalanceSparse", "CartpoleSwingup",
    "CartpoleSwingupSparse", "CheetahRun", "FingerSpin", "FingerTurnEasy", "FingerTurnHard", "FishSwim", "HopperHop",
    "PendulumSwingup", "PointMass", "ReacherEasy", "ReacherHard", "WalkerRun", "WalkerStand", "WalkerWalk",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("task", SUITE)
def test_a_step_is_mujocos(task):
    """From 20 states under random actions: positions and velocities equal those of MuJoCo's own step of the same model.

    Where things touch, few iterations of the solver (Playground's choice) end apart in float32 and float64: there the
    median of the steps is held to rounding, and the worst step to a part of what it moved.
    """
    env, theirs, start, _ = compiled(task)
    assert set(SUITE) < set(playground_env.import_playground().dm_control_suite.ALL_ENVS)
    data = mujoco.MjData(theirs.mj_model)
    data.qpos[:], data.qvel[:], data.mocap_pos[:] = start.data.qpos, start.data.qvel, start.data.mocap_pos
    mujoco.mj_forward(theirs.mj_model, data)
    errors, first = [], data.qpos.copy()
    for (obs, reward, terminal, qpos, qvel), expected_qpos, expected_qvel, _ in both(task, theirs.mj_model, data, 20):
        errors.append([np.abs(qpos - expected_qpos).max(), (np.abs(qvel - expected_qvel) / (1 + np.abs(qvel))).max()])
        assert 0 <= reward <= 1 and not terminal
        assert {name: (x.shape, x.dtype) for name, x in obs.items()} == {
            name: (spec.shape, np.dtype(spec.dtype)) for name, spec in env.spec.obs.items()
        }
        assert all(np.isfinite(x).all() for x in obs.values())
    assert (data.qpos != first).any()
    assert (np.median(errors, axis=0) < [1e-5, 1e-4]).all() and (np.max(errors, axis=0) < [0.05, 0.5]).all(), errors


OPTIONS = ("timestep", "iterations", "ls_iterations", "tolerance", "solver", "cone", "integrator", "disableflags")


def near(physics):
    """The point mass a little beside its target, so that it is paid."""
    physics.data.qpos[:] = 0.004, -0.003


def upright(physics):
    physics.data.qpos[:] = 0.05, 0.1


def on_target(physics):
    """dm_control places the target by its geom, Playground by a body of its own."""
    physics.named.model.geom_pos["target", ["x", "y"]] = physics.named.data.geom_xpos["finger", ["x", "y"]] + 0.01


@pytest.mark.parametrize(
    "task, theirs, place, tolerance, share, apart",
    [
        ("CartpoleBalance", ("cartpole", "balance"), None, 1e-5, 1.0, []),
        ("PointMass", ("point_mass", "easy"), near, 1e-5, 1.0, []),
        ("AcrobotSwingup", ("acrobot", "swingup"), upright, 1e-4, 1.0, []),
        ("ReacherEasy", ("reacher", "easy"), on_target, 2e-3, 1.0, []),  # the wrist meets its limit
        ("CheetahRun", ("cheetah", "run"), None, 1e-3, 1.0, []),
        # Playground gives how upright the torso is where dm_control gives its height. Ten stiff steps of physics in one,
        # with two iterations of the solver each, multiply rounding where joints and feet meet their limits.
        ("WalkerWalk", ("walker", "walk"), None, 0.1, 0.9, [14]),
    ],
)
def test_200_steps_are_seen_and_paid_as_in_dm_control(task, theirs, place, tolerance, share, apart):
    """Each step from where dm_control's own task stands, with Playground's time step and solver: ``share`` of the steps.

    Two things differ on purpose of theirs: Playground integrates with Euler's rule at its own time step, with fewer
    iterations; and its poses, and rewards made of them, are those before the last physics step, as ``mj_step`` leaves them,
    while dm_control brings them up to date.
    """
    suite = pytest.importorskip("dm_control.suite")
    _, playground, start, _ = compiled(task)
    reference = suite.load(*theirs, {"random": 0})
    reference.reset()
    physics = reference.physics
    model, data, options = physics.model.ptr, physics.data.ptr, playground.mj_model.opt
    for name in OPTIONS:
        setattr(model.opt, name, getattr(options, name))
    data.qpos[:], data.qvel[:] = start.data.qpos, start.data.qvel
    mujoco.mj_forward(model, data)
    if place:
        place(physics)
        mujoco.mj_forward(model, data)

    def look():
        seen = reference.task.get_observation(physics)
        return np.concatenate([np.ravel(x) for x in seen.values()]), reference.task.get_reward(physics)

    target = physics.named.data.geom_xpos["target"][None] if task.startswith("Reacher") else np.zeros((0, 3))
    rewards, errors = [], []
    for (obs, reward, terminal, _, _), _, _, (expected, paid) in both(task, model, data, 200, look, target):
        rewards.append(paid)
        errors.append([*np.delete(np.abs(obs["state"] - expected), apart), abs(reward - paid)])
        assert not terminal
        assert reference.task.get_termination(physics) is None  # both end by time alone
    assert np.ptp(rewards) > 1e-3
    worst = np.max(errors, axis=1)
    assert np.quantile(worst, share) < tolerance, worst
