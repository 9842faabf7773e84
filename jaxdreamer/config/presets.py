"""The presets, as data: only what differs from the defaults in `schema.py`, or from what a size is stacked upon.

The defaults are V1's constants, but for an agent step of one simulator step, sequences that may cross episodes and Adam in
its usual form.
"""

from __future__ import annotations

from typing import Any

_V2: dict[str, Any] = {
    "model.stoch_size": 32,
    "model.classes": 32,
    "model.embed_size": 0,
    "model.cell": "layer_norm_gru",
    "model.gaussian_std": "sigmoid2",
    "model.cnn_depth": 48,
    "model.cnn_activation": "elu",
    "model.reward_layers": 4,
    "model.discount_layers": 4,
    "model.critic_layers": 4,
    "model.actor_distribution": "truncated_normal",
    "loss.kl_balance": 0.8,
    "loss.discount_loss_coeff": 1.0,
    "loss.mask_first_action": True,
    "behavior.actor_gradient": "auto",
    "behavior.actor_sample_gradient": "released",
    "behavior.returns_from_start": True,
    "behavior.target_critic_every": 100,
    "behavior.update_order": "sequential",
    "behavior.exploration_noise": 0.0,
    "optimizer.kind": "keras_adam",
    "optimizer.adam_epsilon": 1e-5,
    "optimizer.weight_decay": 1e-6,
    "replay.capacity": 2_000_000,
    "replay.batch_size": 16,
    "run.updates": 1,
    "run.updates_per_call": 10,
}


def _v3_size(deter: int) -> dict[str, Any]:
    """Every width of a V3 agent follows from one: hidden = units = deter / 8, classes = depth = deter / 128."""
    return {
        "model.deter_size": deter,
        "model.hidden_size": deter // 8,
        "model.units": deter // 8,
        "model.classes": deter // 128,
        "model.cnn_depth": deter // 128,
    }


_V3_SIZES = {"1m": 512, "12m": 2048, "25m": 3072, "50m": 4096, "100m": 6144, "200m": 8192, "400m": 12288}
_V3_DISCOUNT = 1 - 1 / 333
_V3: dict[str, Any] = {
    "algorithm": "dreamer_v3",
    **_v3_size(2048),
    "model.stoch_size": 32,
    "model.embed_size": 0,
    "model.cell": "block_gru",
    "model.blocks": 8,
    "model.prior_layers": 2,
    "model.unimix": 0.01,
    "model.cnn": "pooled",
    "model.cnn_activation": "silu",
    "model.dense_activation": "silu",
    "model.dense_norm": "rms",
    "model.kernel_init": "trunc_normal",
    "model.vector_layers": 3,
    "model.symlog_inputs": True,
    "model.reward_layers": 1,
    "model.discount_layers": 1,
    "model.critic_layers": 3,
    "model.actor_layers": 3,
    "model.scalar_head": "symexp_two_hot",
    "model.discount_head": True,
    "model.actor_distribution": "bounded_normal",
    # max(1, KL) to the prior with weight 1, to the posterior with 0.1.
    "loss.kl_loss_coeff": 1.1,
    "loss.kl_balance": 1 / 1.1,
    "loss.free_nats": 1.0,
    "loss.free_nats_per": "state",
    "loss.discount_loss_coeff": 1.0,
    # Squared errors without the half of a Normal's log-density.
    "loss.vector_loss_coeff": 2.0,
    "loss.image_loss_coeff": 2.0,
    "loss.mask_first_action": True,
    "behavior.imagine_horizon": 15,
    "behavior.discount": _V3_DISCOUNT,
    "behavior.td_lambda": 0.95,
    "behavior.actor_gradient": "reinforce",
    "behavior.actor_entropy": 3e-4,
    "behavior.target_critic_every": 1,
    "behavior.target_critic_rate": 0.02,
    "behavior.target_critic_coeff": 1.0,
    "behavior.replay_value_coeff": 0.3,
    "behavior.exploration_noise": 0.0,
    "optimizer.kind": "laprop",
    "optimizer.model_learning_rate": 4e-5,
    "optimizer.actor_learning_rate": 4e-5,
    "optimizer.critic_learning_rate": 4e-5,
    "optimizer.adam_epsilon": 1e-20,
    "optimizer.grad_clip_norm": 0.0,
    "optimizer.grad_clip_ratio": 0.3,
    "optimizer.warmup": 1000,
    "replay.capacity": 1_000_000,
    "replay.batch_size": 16,
    "replay.batch_length": 64,
    "replay.context": "collected",
    "run.pretrain": 0,
}
# How the published runs collect. (A prefill of ``classic`` is random, and shorter.)
_V3_RUN: dict[str, Any] = {
    "replay.online": True,
    "run.prefill": 1088,
    "run.prefill_policy": "agent",
    "run.updates": 1,
}
_GAME: dict[str, Any] = {"env.action_repeat": 4, "env.time_limit": 27_000}

PRESETS: dict[str, dict[str, Any]] = {
    # danijar/dreamer's released settings.
    "dreamer_v1": {"env.action_repeat": 2, "optimizer.kind": "keras_adam", "replay.cross_episodes": False},
    # danijar/dreamerv2, dmc_vision and dmc_proprio.
    "dreamer_v2": {
        **_V2,
        "env.action_repeat": 2,
        "loss.free_nats": 1.0,
        "behavior.actor_entropy": 1e-4,
        "optimizer.model_learning_rate": 3e-4,
        "replay.cross_episodes": False,
        "run.frames": 200_000_000,
        "run.prefill": 1000,
        "run.train_every": 5,
    },
    # danijar/dreamerv2, atari. Its games are gray, begin with up to 30 frames without an action and have the actions that do
    # something: the options' defaults. Its sticky actions are those of the ids ``ALE/...-v5``.
    "dreamer_v2_atari": {
        **_V2,
        **_GAME,
        "model.deter_size": 600,
        "model.hidden_size": 600,
        "model.discount_head": True,
        "loss.kl_loss_coeff": 0.1,
        "loss.free_nats": 0.0,
        "loss.discount_loss_coeff": 5.0,
        "loss.reward_transform": "tanh",
        "behavior.discount": 0.999,
        "behavior.actor_entropy": 1e-3,
        "optimizer.model_learning_rate": 2e-4,
        "optimizer.actor_learning_rate": 4e-5,
        "optimizer.critic_learning_rate": 1e-4,
        "replay.cross_episodes": False,
        "run.frames": 200_000_000,
        "run.prefill": 50_000,
        "run.pretrain": 1,
        "run.train_every": 16,
        "run.eval_every": 250_000,
    },
    # danijar/dreamerv3 as of 2024, which published the vision scores: repeat 2, train ratio 512.
    "dreamer_v3": {
        **_V3,
        **_V3_RUN,
        "env.action_repeat": 2,
        "run.frames": 1_000_000,
        "run.train_every": 2,
    },
    # The same of 2024, atari: train ratio 32, sixteen environments; learning begins with 1,024 sequences, as everywhere.
    "dreamer_v3_atari": {
        **_V3,
        **_V3_RUN,
        **_GAME,
        "env.image_size": (96, 96),
        "env.full_action_space": True,
        "env.num_envs": 16,
        "run.frames": 204_000_000,
        "run.prefill": 2048,
        "run.train_every": 32,
    },
    # The same, atari100k: in colour, no sticky actions, train ratio 256.
    "dreamer_v3_atari100k": {
        **_V3,
        **_V3_RUN,
        **_GAME,
        "env.repeat_action_probability": 0.0,
        "env.grayscale": False,
        "run.frames": 440_000,
        "run.train_every": 4,
    },
    **{f"v3_{name}": _v3_size(deter) for name, deter in _V3_SIZES.items()},
    # A few minutes to half an hour on a CPU: V3 in a small size, with learning rates for thousands of updates instead of
    # millions. Chosen on dm_control's cartpole-swingup, reacher-easy and walker-walk; what was measured is in the README.
    "classic": {
        **_V3,
        "model.deter_size": 128,
        "model.hidden_size": 64,
        "model.units": 64,
        # Gaussian: through them the actor's gradient is exact, and few numbers say more than few choices.
        "model.classes": 0,
        "model.cnn": "strided",
        "model.cnn_depth": 8,
        # Half of the gradient of continuous actions comes through the dynamics, as V3 of 2023 had it: of so few dreams it
        # tells more. The other half is V3's own: it sees what an all-or-nothing reward brings, which has no slope.
        "behavior.actor_gradient": "auto_both",
        "behavior.actor_gradient_mix": 0.5,
        # A nearer horizon and more chance than V3's: the value of a gait is known, and other gaits are tried, in time.
        "behavior.discount": 0.99,
        "behavior.actor_entropy": 1.5e-3,
        "behavior.imagine_last": 8,
        "behavior.acting_rate": 0.01,
        "optimizer.model_learning_rate": 1e-3,
        "optimizer.actor_learning_rate": 3e-4,
        "optimizer.critic_learning_rate": 3e-4,
        "optimizer.warmup": 300,
        "replay.capacity": 100_000,
        "replay.batch_length": 16,
        "run.frames": 5_000,
        "run.prefill": 1000,
        "run.train_every": 10,
        "run.updates": 5,
        "run.updates_per_call": 5,
        "run.eval_every": 1000,
        "run.log_every": 500,
        "run.checkpoint_every": 5000,
    },
    # Sizes to stack upon either: fast enough for a CPU, and for a test.
    "small": {
        "model.deter_size": 64,
        "model.hidden_size": 64,
        "model.stoch_size": 16,
        "model.embed_size": 0,
        "model.cnn_depth": 8,
        "model.units": 64,
        "model.vector_layers": 2,
        "model.reward_layers": 2,
        "model.discount_layers": 2,
        "model.critic_layers": 2,
        "model.actor_layers": 2,
        "replay.capacity": 100_000,
        "replay.batch_size": 16,
        "replay.batch_length": 32,
        "run.updates_per_call": 10,
    },
    "tiny": {
        "model.deter_size": 16,
        "model.hidden_size": 16,
        "model.stoch_size": 4,
        "model.embed_size": 0,
        "model.cnn_depth": 2,
        "model.units": 16,
        "model.vector_layers": 1,
        "model.reward_layers": 1,
        "model.discount_layers": 1,
        "model.critic_layers": 1,
        "model.actor_layers": 1,
        "behavior.imagine_horizon": 5,
        "replay.capacity": 10_000,
        "replay.batch_size": 4,
        "replay.batch_length": 8,
        "run.updates_per_call": 10,
    },
}

ABOUT: dict[str, str] = {
    "dreamer_v1": "V1 as released: Gaussian latents, gradients through the dynamics",
    "dreamer_v2": "V2 as released for continuous control: categorical latents, KL balancing",
    "dreamer_v2_atari": "V2 as released for Atari: larger, a discount head, tanh rewards",
    "dreamer_v3": "V3 of 2024 at 12 million parameters",
    "dreamer_v3_atari": "V3 with the published settings for Atari at 200M frames",
    "dreamer_v3_atari100k": "V3 with the published settings for Atari at 400k frames",
    "classic": "V3 in a small size, for state vectors and small pictures on a CPU",
    "small": "a size to stack on V1 and V2, as in dreamer_v2,small",
    "tiny": "the smallest size, to try whether something runs: classic,tiny",
    **{
        name: f"V3's size of {name[3:-1]} million parameters: dreamer_v3,{name}"
        for name in PRESETS
        if name[:3] == "v3_"
    },
}
"""What each preset is, in a line."""
