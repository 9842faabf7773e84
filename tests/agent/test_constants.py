"""The constants of the published agents, written down from their configurations and not from our presets.

Every setting that an algorithm reads is here, so that a test fails where any one of them is changed. Sources:
danijar/dreamer 56d4d44, danijar/dreamerv2 07d906e (``configs.yaml``) and danijar/dreamerv3 of 2024.
"""

from __future__ import annotations

import math

import jax
import pytest

from jaxdreamer import config as configs
from jaxdreamer.config import preset
from jaxdreamer.nets.networks import make_networks
from jaxdreamer.types import ActionPart, ActionSpec, ArraySpec, EnvSpec

# The groups that describe an agent, and of the others what is published.
GROUPS = ("model.", "loss.", "behavior.", "optimizer.", "replay.")
GAMES = {
    "env.image_size", "env.num_envs", "env.time_limit", "env.repeat_action_probability", "env.noop_max", "env.grayscale",
    "env.terminal_on_life_loss", "env.full_action_space",
}  # fmt: skip
OTHERS = (
    "algorithm",
    "env.action_repeat",
    "run.frames",
    "run.prefill",
    "run.prefill_policy",
    "run.pretrain",
    "run.train_every",
    "run.updates",
)
OURS = {
    "model.precision", "model.cnn_residual", "model.normalize_inputs", "behavior.exploration_epsilon",
    "behavior.actor_input_gradient", "replay.shards", "replay.data", "replay.data_fraction", "replay.held_out",
    "replay.on_disk",
}  # fmt: skip
OF_V3 = {
    "model.blocks", "model.actor_min_std", "model.actor_max_std", "model.actor_output_scale", "model.actor_unimix",
    "behavior.target_critic_coeff", "behavior.return_percentiles", "behavior.return_rate", "behavior.return_limit",
    "behavior.replay_value_coeff", "behavior.acting_rate",
}  # fmt: skip
NOT_OF_V3 = {
    "model.gaussian_std", "behavior.actor_gradient_mix", "behavior.actor_sample_gradient", "behavior.returns_from_start",
}  # fmt: skip

V1 = {
    "algorithm": "dreamer", "env.action_repeat": 2,
    "model.stoch_size": 30, "model.classes": 0, "model.deter_size": 200, "model.hidden_size": 200,
    "model.embed_size": 1024, "model.cell": "gru", "model.prior_layers": 1, "model.unimix": 0.0,
    "model.gaussian_std": "softplus", "model.cnn": "strided", "model.cnn_depth": 32, "model.cnn_activation": "relu",
    "model.dense_activation": "elu", "model.dense_norm": "none", "model.kernel_init": "glorot_uniform",
    "model.units": 400, "model.vector_layers": 4, "model.symlog_inputs": False, "model.reward_layers": 2,
    "model.discount_layers": 3, "model.critic_layers": 3, "model.actor_layers": 4, "model.scalar_head": "normal",
    "model.discount_head": False, "model.actor_distribution": "tanh_normal",
    "loss.kl_loss_coeff": 1.0, "loss.free_nats": 3.0, "loss.free_nats_per": "mean", "loss.kl_balance": None,
    "loss.reward_loss_coeff": 1.0, "loss.discount_loss_coeff": 10.0, "loss.image_loss_coeff": 1.0,
    "loss.vector_loss_coeff": 1.0, "loss.reward_scale": 1.0, "loss.reward_transform": "none",
    "loss.mask_first_action": False,
    "behavior.imagine_horizon": 15, "behavior.imagine_last": 0, "behavior.discount": 0.99, "behavior.td_lambda": 0.95,
    "behavior.actor_gradient": "dynamics", "behavior.actor_gradient_mix": 0.1,
    "behavior.actor_sample_gradient": "exact", "behavior.actor_entropy": 0.0, "behavior.returns_from_start": False,
    "behavior.target_critic_every": 0, "behavior.target_critic_rate": 1.0, "behavior.update_order": "joint",
    "behavior.exploration_noise": 0.3,
    "optimizer.kind": "keras_adam", "optimizer.model_learning_rate": 6e-4, "optimizer.actor_learning_rate": 8e-5,
    "optimizer.critic_learning_rate": 8e-5, "optimizer.adam_epsilon": 1e-7, "optimizer.grad_clip_norm": 100.0,
    "optimizer.grad_clip_ratio": 0.0, "optimizer.warmup": 0, "optimizer.weight_decay": 0.0,
    "replay.capacity": 1_000_000,  # theirs has no limit: a run has 2.5 million entries at most
    "replay.batch_size": 50, "replay.batch_length": 50, "replay.cross_episodes": False, "replay.context": "none",
    "replay.online": False, "run.prefill_policy": "random",
    "run.frames": 5_000_000, "run.prefill": 2500, "run.pretrain": 100, "run.train_every": 500, "run.updates": 100,
}  # fmt: skip
V2 = V1 | {
    "model.stoch_size": 32, "model.classes": 32, "model.embed_size": 0, "model.cell": "layer_norm_gru",
    "model.gaussian_std": "sigmoid2", "model.cnn_depth": 48, "model.cnn_activation": "elu", "model.reward_layers": 4,
    "model.discount_layers": 4, "model.critic_layers": 4, "model.actor_distribution": "truncated_normal",
    "loss.free_nats": 1.0, "loss.kl_balance": 0.8, "loss.discount_loss_coeff": 1.0, "loss.mask_first_action": True,
    "behavior.actor_gradient": "auto", "behavior.actor_sample_gradient": "released", "behavior.actor_entropy": 1e-4,
    "behavior.returns_from_start": True, "behavior.target_critic_every": 100, "behavior.update_order": "sequential",
    "behavior.exploration_noise": 0.0,
    "optimizer.model_learning_rate": 3e-4, "optimizer.adam_epsilon": 1e-5, "optimizer.weight_decay": 1e-6,
    "replay.capacity": 2_000_000, "replay.batch_size": 16,
    "run.frames": 200_000_000, "run.prefill": 1000, "run.train_every": 5, "run.updates": 1,
}  # fmt: skip
V2_ATARI = V2 | {
    "env.action_repeat": 4, "model.deter_size": 600, "model.hidden_size": 600, "model.discount_head": True,
    "loss.kl_loss_coeff": 0.1, "loss.free_nats": 0.0, "loss.discount_loss_coeff": 5.0, "loss.reward_transform": "tanh",
    "behavior.discount": 0.999, "behavior.actor_entropy": 1e-3,
    "optimizer.model_learning_rate": 2e-4, "optimizer.actor_learning_rate": 4e-5, "optimizer.critic_learning_rate": 1e-4,
    "run.prefill": 50_000, "run.pretrain": 1, "run.train_every": 16,
    "env.image_size": (64, 64), "env.num_envs": 1, "env.time_limit": 27_000,  # 108,000 frames
    "env.repeat_action_probability": None,  # 0.25, as the ids ALE/...-v5 have it
    "env.noop_max": 30, "env.grayscale": True, "env.terminal_on_life_loss": False, "env.full_action_space": False,
}  # fmt: skip
V3 = {
    "algorithm": "dreamer_v3", "env.action_repeat": 2,
    "model.stoch_size": 32, "model.classes": 16, "model.deter_size": 2048, "model.hidden_size": 256,
    "model.embed_size": 0, "model.cell": "block_gru", "model.blocks": 8, "model.prior_layers": 2, "model.unimix": 0.01,
    "model.cnn": "pooled", "model.cnn_depth": 16, "model.cnn_activation": "silu", "model.dense_activation": "silu",
    "model.dense_norm": "rms", "model.kernel_init": "trunc_normal", "model.units": 256, "model.vector_layers": 3,
    "model.symlog_inputs": True, "model.reward_layers": 1, "model.discount_layers": 1, "model.critic_layers": 3,
    "model.actor_layers": 3, "model.scalar_head": "symexp_two_hot", "model.discount_head": True,
    "model.actor_distribution": "bounded_normal", "model.actor_min_std": 0.1, "model.actor_max_std": 1.0,
    "model.actor_output_scale": 0.01, "model.actor_unimix": 0.01,
    "loss.kl_loss_coeff": 1.1, "loss.free_nats": 1.0, "loss.free_nats_per": "state", "loss.kl_balance": 1 / 1.1,
    "loss.reward_loss_coeff": 1.0, "loss.discount_loss_coeff": 1.0,
    "loss.image_loss_coeff": 2.0, "loss.vector_loss_coeff": 2.0,  # squared errors without a half
    "loss.reward_scale": 1.0, "loss.reward_transform": "none", "loss.mask_first_action": True,
    "behavior.imagine_horizon": 15, "behavior.imagine_last": 0, "behavior.discount": 1 - 1 / 333,
    "behavior.td_lambda": 0.95,
    "behavior.actor_gradient": "reinforce", "behavior.actor_entropy": 3e-4, "behavior.target_critic_every": 1,
    "behavior.target_critic_rate": 0.02, "behavior.target_critic_coeff": 1.0,
    "behavior.return_percentiles": (5.0, 95.0), "behavior.return_rate": 0.01, "behavior.return_limit": 1.0,
    "behavior.replay_value_coeff": 0.3, "behavior.acting_rate": 1.0, "behavior.update_order": "joint",
    "behavior.exploration_noise": 0.0,
    "optimizer.kind": "laprop", "optimizer.model_learning_rate": 4e-5, "optimizer.actor_learning_rate": 4e-5,
    "optimizer.critic_learning_rate": 4e-5, "optimizer.adam_epsilon": 1e-20, "optimizer.grad_clip_norm": 0.0,
    "optimizer.grad_clip_ratio": 0.3, "optimizer.warmup": 1000, "optimizer.weight_decay": 0.0,
    "replay.capacity": 1_000_000,  # theirs 5 million
    "replay.batch_size": 16, "replay.batch_length": 64, "replay.cross_episodes": True,
    "replay.context": "collected",  # theirs is also refreshed by what learning makes of it
    "replay.online": True, "run.frames": 1_000_000, "run.prefill_policy": "agent",
    "run.prefill": 1088,  # learning begins with 16 * 64 sequences of 65 entries
    "run.pretrain": 0, "run.train_every": 2, "run.updates": 1,
}  # fmt: skip
V3_ATARI = V3 | {
    "env.action_repeat": 4, "env.image_size": (96, 96), "env.num_envs": 16, "env.time_limit": 27_000,
    "env.repeat_action_probability": None, "env.noop_max": 30, "env.grayscale": True,
    "env.terminal_on_life_loss": False, "env.full_action_space": True,
    "run.frames": 204_000_000,  # 5.1e7 steps
    "run.prefill": 2048,  # 16 * 64 sequences, 64 of every environment: 128 entries of each
    "run.train_every": 32,  # a ratio of 32 replayed to collected, in batches of 16 * 64
}  # fmt: skip
V3_ATARI100K = V3 | {
    "env.action_repeat": 4, "env.image_size": (64, 64), "env.num_envs": 1, "env.time_limit": 27_000,
    "env.repeat_action_probability": 0.0, "env.noop_max": 30, "env.grayscale": False,
    "env.terminal_on_life_loss": False, "env.full_action_space": False,
    "run.frames": 440_000,  # 1.1e5 steps
    "run.train_every": 4,  # a ratio of 256
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "published", "unread"),
    [
        ("dreamer_v1", V1, OF_V3),
        ("dreamer_v2", V2, OF_V3),
        ("dreamer_v2_atari", V2_ATARI, OF_V3),
        ("dreamer_v3", V3, NOT_OF_V3),
        ("dreamer_v3_atari", V3_ATARI, NOT_OF_V3),
        ("dreamer_v3_atari100k", V3_ATARI100K, NOT_OF_V3),
    ],
)
def test_every_constant_is_the_published_one(name, published, unread):
    flat = configs.fields(preset(name))
    read = {key for key in flat if key.startswith(GROUPS) or key in OTHERS} - unread - OURS
    read |= GAMES if "atari" in name else set()
    assert {key: flat[key] for key in read} == published


def test_ataris_games_are_evaluated_as_rarely_as_published():
    assert preset("dreamer_v2_atari").run.eval_every == 250_000


# The walker's observations, and 64x64 RGB; six numbers in an action.
ACTION = ActionSpec((ActionPart("continuous", 6),))
VECTORS = {"orientations": 14, "height": 1, "velocity": 9}
WALKER = EnvSpec({name: ArraySpec((size,), "float32", "vector") for name, size in VECTORS.items()}, ACTION)
PIXELS = EnvSpec({"image": ArraySpec((64, 64, 3), "uint8", "image")}, ACTION)


@pytest.mark.parametrize(
    ("size", "from_state", "from_pixels"),
    [
        ("v3_1m", 640_867, 686_846),
        ("v3_12m", 9_738_019, 10_494_158),
        ("v3_25m", 21_782_947, 23_489_326),
        ("v3_50m", 38_612_003, 41_650_062),
        ("v3_100m", 86_622_499, 93_468_238),
        ("v3_200m", 153_769_507, 165_948_686),
        ("v3_400m", 345_473_059, 372_896_398),
    ],
)
def test_v3_has_as_many_parameters_as_published(size, from_state, from_pixels):
    model = preset(f"dreamer_v3,{size}").model
    for spec, expected in ((WALKER, from_state), (PIXELS, from_pixels)):
        shapes = jax.eval_shape(make_networks(model, spec).init, jax.random.key(0))
        assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == expected
