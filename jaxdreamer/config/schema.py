"""The settings of a run. A field's text below it is its help; its limits are in its metadata."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from jaxdreamer.config.environment import EnvConfig
from jaxdreamer.config.settings import COUNT, FLOAT32, SMALLEST, Settings, setting


@dataclass(frozen=True)
class ModelConfig(Settings):
    """Sizes and kinds of the networks."""

    stoch_size: int = setting(30, 1, 2**20)
    """Stochastic latent: Gaussian dimensions, or groups where classes > 0."""
    classes: int = setting(0, 0, 2**20)
    """Classes per group of a categorical latent. 0: a Gaussian latent."""
    deter_size: int = setting(200, 1, 2**20)
    """Deterministic latent size, the GRU's width."""
    hidden_size: int = setting(200, 1, 2**20)
    """Width of the dense layers inside the RSSM."""
    embed_size: int = setting(1024, 0, 2**20)
    """Image embedding size: a linear layer is added where the encoder's flattened output differs. 0: never."""
    cell: Literal["gru", "layer_norm_gru", "block_gru"] = "gru"
    """Recurrent cell: V1's GRU, V2's with layer norm over its gates, or V3's block-diagonal one."""
    blocks: int = setting(8, 1, 1024)
    """Blocks of V3's cell and of its decoder's first layer; they divide deter_size."""
    prior_layers: int = setting(1, 1, 100)
    """Hidden layers of the prior."""
    unimix: float = setting(0.0, 0, 0.999)
    """Share of a uniform distribution mixed into categorical latents (V3: 0.01)."""
    gaussian_std: Literal["softplus", "sigmoid2"] = "softplus"
    """How a Gaussian latent's deviation is made: softplus(x) + 0.1 (V1) or 2 sigmoid(x / 2) + 0.1 (V2)."""
    cnn: Literal["strided", "pooled"] = "strided"
    """Convolutions of stride 2 (V1, V2), or of stride 1 with pooling and upsampling (V3)."""
    cnn_depth: int = setting(32, 1, 2**20)
    """Channels of the first strided convolution, doubled by each layer; pooled ones have 2, 3, 4, 4 times as many."""
    cnn_activation: Literal["relu", "elu", "silu", "tanh"] = "relu"
    """Activation of the convolutions."""
    cnn_residual: bool = False
    """Add a residual block after each convolution."""
    dense_activation: Literal["relu", "elu", "silu", "tanh"] = "elu"
    """Activation of every dense layer."""
    dense_norm: Literal["none", "layer", "rms"] = "none"
    """Normalisation before the activations: layer in the heads and the vector encoder and decoder, rms (V3) everywhere."""
    kernel_init: Literal["glorot_uniform", "trunc_normal"] = "glorot_uniform"
    """Initial weights: Keras' default (V1, V2), or a truncated normal of deviation 1 / sqrt(fan_in) (V3)."""
    units: int = setting(400, 1, 2**20)
    """Width of the heads and of the vector encoder and decoder."""
    # Each layer is compiled by itself: thousands of them would take forever.
    vector_layers: int = setting(4, 1, 100)
    """Layers of the vector encoder and decoder."""
    symlog_inputs: bool = False
    """Squash vector observations, and their reconstruction targets, by symlog: for values of very many sizes."""
    normalize_inputs: bool = False
    """Bring vector observations, and their reconstruction targets, to zero mean and unit deviation by running
    statistics of what was learned from (after symlog, where both are on): for values far from unit scale."""
    reward_layers: int = setting(2, 0, 100)
    """Hidden layers of the reward head."""
    discount_layers: int = setting(3, 0, 100)
    """Hidden layers of the discount head."""
    critic_layers: int = setting(3, 0, 100)
    """Hidden layers of the critic."""
    actor_layers: int = setting(4, 0, 100)
    """Hidden layers of the actor."""
    scalar_head: Literal["normal", "two_hot", "symexp_two_hot"] = "normal"
    """Reward and value distribution: unit-variance Normal (V1, V2), or two-hot in symlog space or over symexp bins (V3), for
    rewards of any scale."""
    discount_head: bool = False
    """Learn to predict episode ends. Off: the discount is constant and an end is invisible to the dream."""
    actor_distribution: Literal["tanh_normal", "truncated_normal", "bounded_normal"] = "tanh_normal"
    """Distribution of continuous actions: V1's, V2's or V3's."""
    actor_min_std: float = setting(0.1, SMALLEST)
    """Smallest deviation of bounded_normal."""
    actor_max_std: float = setting(1.0, SMALLEST)
    """Largest deviation of bounded_normal."""
    actor_output_scale: float = setting(0.01, SMALLEST)
    """Initial scale of the output layers of an actor with bounded_normal."""
    actor_unimix: float = setting(0.01, 0, 0.999)
    """Share of a uniform distribution mixed into the choices of an actor with bounded_normal."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """Type of the inputs of matrix products and convolutions; everything else is float32. auto: settled by device and
    processor where a run begins, which says so and keeps it."""


@dataclass(frozen=True)
class LossConfig(Settings):
    """World-model loss."""

    kl_loss_coeff: float = 1.0
    """Weight of the KL term, beta."""
    free_nats: float = 3.0
    """The KL is not pushed below this many nats."""
    free_nats_per: Literal["mean", "state"] = "mean"
    """Whether free_nats is of the mean KL (V1, V2), or of every single state's (V3)."""
    kl_balance: float | None = setting(None, 0, 1)
    """Share of the KL's gradient that trains the prior (V2: 0.8). none: V1's plain KL. (The released V2 reads exactly 0.5 as
    another loss: kl_balance=none with free_nats_per=state.)"""
    reward_loss_coeff: float = 1.0
    """Weight of the reward term."""
    discount_loss_coeff: float = 10.0
    """Weight of the discount term."""
    image_loss_coeff: float = 1.0
    """Weight of the reconstruction of images."""
    vector_loss_coeff: float = 1.0
    """Weight of the reconstruction of vector observations."""
    reward_scale: float = setting(1.0, SMALLEST)
    """Rewards are multiplied by this before learning. Logged returns stay in the environment's units."""
    reward_transform: Literal["none", "tanh"] = "none"
    """Applied to the scaled reward before learning; V2 squashes Atari's by tanh."""
    mask_first_action: bool = False
    """Treat the first entry of each sampled sequence as an episode start (V2), not just as an unknown state (V1)."""


@dataclass(frozen=True)
class BehaviorConfig(Settings):
    """Actor, critic and exploration."""

    imagine_horizon: int = setting(15, 1, 100_000)
    """Steps dreamed from each posterior state, H. 1: the return is the reward and the next state's value."""
    imagine_last: int = 0
    """Dream only from this many last entries of each sequence, whose states know the most of the past. 0: from all."""
    discount: float = setting(0.99, 0, 1)
    """gamma."""
    td_lambda: float = setting(0.95, 0, 1)
    """lambda of the lambda-return."""
    actor_gradient: Literal["auto", "auto_both", "dynamics", "reinforce", "both"] = "dynamics"
    """How the actor learns. auto: reinforce where any action is a choice, dynamics elsewhere; auto_both: elsewhere both."""
    actor_gradient_mix: float = setting(0.1, 0, 1)
    """Share of the dynamics gradient in both."""
    actor_sample_gradient: Literal["exact", "released"] = "exact"
    """How a sample of truncated_normal depends on its mean and deviation: exactly; or as in the released V2, like a sample
    of an unbounded Normal, with gradients 3 to 4 times as large, beside which the entropy bonus weighs that much less."""
    actor_entropy: float = 0.0
    """Weight of the entropy bonus."""
    actor_input_gradient: bool = False
    """Let the actor's gradient also flow through the dreamed states it reads, not through its actions alone. Neither V1
    nor V2 does; torchwm does."""
    returns_from_start: bool = False
    """Train the critic on the real start state too (V2), or on dreamed ones only (V1)."""
    target_critic_every: int = 0
    """Updates between copies of the critic into the target critic. 0: no target critic. V2's target critic makes the
    returns; V3's holds the critic back."""
    target_critic_rate: float = setting(1.0, 0, 1)
    """How far each copy moves the target critic. 1: all the way (V2); V3: 0.02 at every update."""
    target_critic_coeff: float = 1.0
    """Weight of the target critic's value as a second target of the critic (V3 only)."""
    return_percentiles: tuple[float, float] = setting((5.0, 95.0), 0, 100)
    """Percentiles of dreamed returns whose distance scales the advantage (V3 only)."""
    return_rate: float = setting(0.01, 0, 1)
    """How fast these percentiles are followed (V3 only)."""
    return_limit: float = setting(1.0, SMALLEST)
    """Smallest scale of returns: smaller ones are not blown up (V3 only)."""
    replay_value_coeff: float = 0.3
    """Weight of the critic's loss on replayed states (V3 only)."""
    update_order: Literal["joint", "sequential"] = "joint"
    """joint: all gradients from the same parameters (V1). sequential: dream with the updated world model (V2)."""
    acting_rate: float = setting(1.0, SMALLEST, 1)
    """How far each update moves the parameters that the policy acts with, in training and afterwards, to the learned ones.
    1: they are the same; less: a running average, in which the noise of single updates cancels (V3 only)."""
    exploration_noise: float = 0.3
    """Deviation of the Gaussian added to continuous actions while collecting."""
    exploration_epsilon: float = setting(0.0, 0, 1)
    """Probability of a uniform choice for each discrete action while collecting."""


@dataclass(frozen=True)
class OptimizerConfig(Settings):
    """The optimizer of each of the three parts."""

    kind: Literal["adam", "keras_adam", "laprop"] = "adam"
    """Adam; Keras' (V1, V2), which adds epsilon before the bias correction; or LaProp (V3), which scales gradients before
    it averages them."""

    model_learning_rate: float = setting(6e-4, SMALLEST)
    """World model."""
    actor_learning_rate: float = setting(8e-5, SMALLEST)
    """Actor."""
    critic_learning_rate: float = setting(8e-5, SMALLEST)
    """Critic."""
    adam_epsilon: float = setting(1e-7, SMALLEST)
    """Adam's, or LaProp's, epsilon."""
    grad_clip_norm: float = 100.0
    """Largest global gradient norm of each part. 0: any."""
    grad_clip_ratio: float = 0.0
    """Largest norm of each tensor's gradient relative to the tensor's own (V3: 0.3). 0: any."""
    warmup: int = 0
    """Updates over which the learning rates rise from 0."""
    weight_decay: float = setting(0.0, 0, 1)
    """Every parameter is multiplied by 1 - this at each update, whatever the learning rate (as V2 does it)."""


@dataclass(frozen=True)
class ReplayConfig(Settings):
    """Experience and batches."""

    capacity: int = setting(1_000_000, 1, COUNT)
    """Entries kept, over all environments."""
    on_disk: bool = False
    """Keep the entries in files that are mapped into memory, in the run's folder replay/: for more than memory holds."""
    batch_size: int = setting(50, 1)
    """Sequences per update, B."""
    batch_length: int = setting(50, 1)
    """Entries per sequence, T. 1: every entry stands alone, so nothing is learned of what leads to what."""
    context: Literal["none", "collected"] = "none"
    """The latent that a sequence begins from: zeros, or what the agent had there when it collected the entry (V3)."""
    online: bool = False
    """Learn from every sequence once as soon as it is complete, before others are drawn (V3). Needs cross_episodes."""
    cross_episodes: bool = True
    """Let a sequence run over an episode's end into the next (the state is reset there). Off, as V1 and V2 sample: only
    one that begins with an episode shorter than a sequence."""
    data: str = ""
    """Recorded experience to learn from: a folder of episodes (`jaxdreamer data export`), the folder or id of a Minari
    dataset, or the folder of a LeRobot dataset. It stays as it is, beside what the run collects."""
    data_fraction: float | None = setting(None, 0, 1)
    """Share of every batch that is drawn from data, once the run has collected enough itself. none: every sequence, given or
    collected, is equally likely."""
    held_out: int = setting(0, 0, 1_000_000)
    """Episodes of data that are not learned from: each evaluation logs how well the model predicts them (held_out/*)."""
    shards: int = setting(0, 0)
    """Groups of environments on the device, that every batch is drawn from in equal parts. Devices share them out: what is
    learned depends on this and not on them. 0: one group, or as many as there are devices when the run begins."""


@dataclass(frozen=True)
class RunConfig(Settings):
    """Budget and cadence, in entries: what replay stores of each environment at every moment, an episode's reset too."""

    frames: int = setting(5_000_000, 1, COUNT)
    """Budget: entries x action_repeat, prefill included."""
    offline: int = setting(0, 0, COUNT)
    """Entries at the beginning that are not collected: the agent learns from replay.data as often as if they were. As many
    as the budget: no environment is ever stepped."""
    prefill: int = setting(2500, 0, COUNT)
    """Entries before learning."""
    prefill_policy: Literal["random", "agent"] = "random"
    """Who acts during the prefill: chance, or the agent as it is before it has learned anything (V3)."""
    pretrain: int = 100
    """Updates once the prefill is done."""
    train_every: int = setting(500, 1, COUNT)
    """Entries between trainings, over all environments. updates / train_every is the train ratio."""
    updates: int = setting(100, 1)
    """Updates each time."""
    updates_per_call: int = setting(1, 1, 100_000)
    """Most updates in one compiled call; the largest divisor of updates up to this is used. More spare small models the cost
    of calling; with large ones they hold more batches in memory and keep Ctrl-C waiting."""
    eval_every: int = setting(5000, 0, COUNT)
    """Entries between evaluations. 0: only at the end."""
    eval_episodes: int = setting(10, 1, 100_000)
    """Noise-free episodes of each evaluation, on an environment and seeds of its own."""
    eval_sampled: int = setting(0, 0, 100_000)
    """Episodes of each evaluation played beside these with sampled actions. Where they return far more, or far less, the
    most likely action is no good summary of the policy. 0: none, as train/return tells much of it."""
    log_every: int = setting(1000, 1, COUNT)
    """Entries between metric lines."""
    checkpoint_every: int = setting(10_000, 1, COUNT)
    """Entries between checkpoints."""
    keep_checkpoints: int = setting(2, 1)
    """How many checkpoints stay on disk."""
    start: str = ""
    """The folder of another run, whose weights this one begins to learn from, with optimizers, replay and counters of its
    own. It is read where the run begins, and not again. Empty: fresh weights."""
    start_parts: Literal["all", "world_model"] = "all"
    """What is taken from there: world model, actor and critic, of which the actor plays the prefill; or the world model
    alone, beside a fresh actor and critic."""
    video: bool = True
    """Save a policy video and an open-loop prediction with each evaluation, where images are seen."""
    stop_at_return: float | None = setting(None, -FLOAT32)
    """End the run once the mean return of an evaluation is at least this. none: train until the budget is spent."""
    keep_best: bool = False
    """Keep the parameters of the best evaluation in best/, beside the newest checkpoints."""
    loop: Literal["auto", "device", "host"] = "auto"
    """Where environments are stepped: inside the compiled program, or in this process. auto: on the device wherever the
    environment is made of pure functions."""


@dataclass(frozen=True)
class Config(Settings):
    """Everything a run depends on; written beside it as config.json."""

    preset: str = "dreamer_v1"
    """Where the values came from."""
    algorithm: str = "dreamer"
    """How the agent learns. dreamer: DreamerV1 and V2, which differ by their settings; dreamer_v3."""
    seed: int = setting(0, 0, 2**32 - 1)  # jax's random keys take 32 bits: a larger one would silently be a smaller one
    """All randomness derives from it."""
    env: EnvConfig = field(default_factory=EnvConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    behavior: BehaviorConfig = field(default_factory=BehaviorConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    run: RunConfig = field(default_factory=RunConfig)

    @property
    def train_ratio(self) -> float:
        """Updates per entry."""
        return self.run.updates / self.run.train_every
