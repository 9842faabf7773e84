"""Dreamer V1's update in PyTorch, from the mathematics, the way PyTorch users write it: what ours is compared to.

Modules, a Python loop over time, ``torch.distributions``, ``requires_grad`` turned off where the actor dreams.

    python benchmarks/torch_dreamer.py --repeats 5 [--warmup 1] [--small] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn import functional as F


@dataclass(frozen=True)
class Sizes:
    """Everything that has a size; the defaults are the released V1's."""

    length: int = 50
    batch: int = 50
    action: int = 6
    horizon: int = 15
    depth: int = 32
    stoch: int = 30
    deter: int = 200
    hidden: int = 200
    units: int = 400

    @property
    def feature(self) -> int:
        return self.stoch + self.deter


SMALL = Sizes(length=6, batch=4, action=3, horizon=5, depth=4, stoch=5, deter=16, hidden=16, units=24)


class Encoder(nn.Module):
    """Images [N, 3, 64, 64] to [N, 32 * depth]."""

    def __init__(self, depth: int):
        super().__init__()
        channels = [3, depth, 2 * depth, 4 * depth, 8 * depth]
        self.layers = nn.ModuleList(nn.Conv2d(i, o, 4, stride=2) for i, o in pairwise(channels))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.relu(layer(x))
        return x.flatten(1)


class Decoder(nn.Module):
    """Features [N, F] to mean images [N, 3, 64, 64]."""

    def __init__(self, feature: int, depth: int):
        super().__init__()
        self.dense = nn.Linear(feature, 32 * depth)
        channels, windows = [32 * depth, 4 * depth, 2 * depth, depth, 3], [5, 5, 6, 6]
        self.layers = nn.ModuleList(
            nn.ConvTranspose2d(i, o, k, stride=2) for i, o, k in zip(channels, channels[1:], windows)
        )

    def forward(self, feat: Tensor) -> Tensor:
        x = self.dense(feat)[:, :, None, None]
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class MLP(nn.Module):
    """ELU layers of one width and a linear one."""

    def __init__(self, inputs: int, layers: int, units: int, outputs: int):
        super().__init__()
        widths = [inputs] + [units] * layers
        hidden = [m for i, o in pairwise(widths) for m in (nn.Linear(i, o), nn.ELU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(units, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class RSSM(nn.Module):
    """The recurrent state-space model; a state is (stoch, deter)."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        embed = 32 * sizes.depth
        self.before_cell = nn.Linear(sizes.stoch + sizes.action, sizes.hidden)
        self.cell = nn.GRUCell(sizes.hidden, sizes.deter)
        self.prior_net = nn.Sequential(
            nn.Linear(sizes.deter, sizes.hidden), nn.ELU(), nn.Linear(sizes.hidden, 2 * sizes.stoch)
        )
        self.posterior_net = nn.Sequential(
            nn.Linear(sizes.deter + embed, sizes.hidden), nn.ELU(), nn.Linear(sizes.hidden, 2 * sizes.stoch)
        )

    @staticmethod
    def gaussian(raw: Tensor) -> Independent:
        mean, scale = raw.chunk(2, -1)
        return Independent(Normal(mean, F.softplus(scale) + 0.1, validate_args=False), 1, validate_args=False)

    def imagine_step(self, stoch: Tensor, deter: Tensor, action: Tensor) -> tuple[Independent, Tensor]:
        """One action further: (prior over stoch, deter)."""
        x = F.elu(self.before_cell(torch.cat([stoch, action], -1)))
        deter = self.cell(x, deter)
        return self.gaussian(self.prior_net(deter)), deter

    def observe_step(self, deter: Tensor, embed: Tensor) -> Independent:
        """Posterior over stoch."""
        return self.gaussian(self.posterior_net(torch.cat([deter, embed], -1)))


@contextlib.contextmanager
def frozen(modules: Iterable[nn.Module]) -> Iterator[None]:
    """No gradients for these modules' parameters from what is computed inside; gradients still pass through them."""
    parameters = [p for module in modules for p in module.parameters()]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


class TorchDreamer:
    """World model, actor and critic with their three Adams; ``update`` is one training step of all.

    A batch is time-major: ``image`` uint8 [T, B, 64, 64, 3], ``action`` [T, B, A] that led to each image, ``reward``
    [T, B] received on arriving there; NumPy arrays or tensors.
    """

    discount, td_lambda, free_nats, clip = 0.99, 0.95, 3.0, 100.0

    def __init__(self, sizes: Sizes = Sizes(), seed: int = 0):
        torch.manual_seed(seed)
        self.sizes = sizes
        self.encoder, self.rssm = Encoder(sizes.depth), RSSM(sizes)
        self.decoder = Decoder(sizes.feature, sizes.depth)
        self.reward = MLP(sizes.feature, 2, sizes.units, 1)
        self.value = MLP(sizes.feature, 3, sizes.units, 1)
        self.actor = MLP(sizes.feature, 4, sizes.units, 2 * sizes.action)
        self.model = nn.ModuleList([self.encoder, self.rssm, self.decoder, self.reward])
        for module in [*self.model.modules(), *self.value.modules(), *self.actor.modules()]:
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        self.optimizers = [
            (self.model, torch.optim.Adam(self.model.parameters(), lr=6e-4, eps=1e-7)),
            (self.actor, torch.optim.Adam(self.actor.parameters(), lr=8e-5, eps=1e-7)),
            (self.value, torch.optim.Adam(self.value.parameters(), lr=8e-5, eps=1e-7)),
        ]

    def update(self, batch: dict[str, np.ndarray | Tensor]) -> dict[str, float]:
        """Losses of all three, from the same parameters; then a step of each optimizer."""
        model_loss, metrics, stoch, deter = self.model_loss(batch)
        actor_loss, value_loss = self.behaviour_losses(stoch.detach().flatten(0, 1), deter.detach().flatten(0, 1))
        for (module, optimizer), loss in zip(self.optimizers, (model_loss, actor_loss, value_loss)):
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), self.clip)
        for _, optimizer in self.optimizers:
            optimizer.step()
        losses = {"model": model_loss, "actor": actor_loss, "value": value_loss, **metrics}
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def model_loss(self, batch: dict[str, np.ndarray | Tensor]) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor]:
        """Negative log-likelihoods and KL; and the posterior states [T, B, ...]."""
        image = torch.as_tensor(batch["image"]).permute(0, 1, 4, 2, 3).float() / 255 - 0.5
        action, reward = (torch.as_tensor(batch[key]) for key in ("action", "reward"))
        length, size = image.shape[:2]
        embed = self.encoder(image.flatten(0, 1)).unflatten(0, (length, size))

        stoch, deter = image.new_zeros(size, self.sizes.stoch), image.new_zeros(size, self.sizes.deter)
        stochs, deters, kls = [], [], []
        for t in range(length):
            prior, deter = self.rssm.imagine_step(stoch, deter, action[t])
            posterior = self.rssm.observe_step(deter, embed[t])
            stoch = posterior.rsample()
            stochs.append(stoch)
            deters.append(deter)
            kls.append(kl_divergence(posterior, prior))
        stochs, deters = torch.stack(stochs), torch.stack(deters)

        feat = torch.cat([stochs, deters], -1).flatten(0, 1)
        image_nll = -Normal(self.decoder(feat), 1.0).log_prob(image.flatten(0, 1)).sum((1, 2, 3)).mean()
        reward_nll = -Normal(self.reward(feat).squeeze(-1), 1.0).log_prob(reward.flatten()).mean()
        kl = torch.stack(kls).mean()
        loss = image_nll + reward_nll + kl.clamp(min=self.free_nats)
        return loss, {"image": image_nll, "reward": reward_nll, "kl": kl}, stochs, deters

    def act(self, feat: Tensor) -> Tensor:
        """A sample of the tanh-squashed Normal policy."""
        mean, scale = self.actor(feat).chunk(2, -1)
        mean = 5 * torch.tanh(mean / 5)
        std = F.softplus(scale + math.log(math.exp(5) - 1)) + 1e-4
        return torch.tanh(Normal(mean, std).rsample())

    def behaviour_losses(self, stoch: Tensor, deter: Tensor) -> tuple[Tensor, Tensor]:
        """Dream from every state [N, ...]; (actor loss, value loss)."""
        with frozen([self.model, self.value]):
            feats = []
            for _ in range(self.sizes.horizon):
                action = self.act(torch.cat([stoch, deter], -1).detach())
                prior, deter = self.rssm.imagine_step(stoch, deter, action)
                stoch = prior.rsample()
                feats.append(torch.cat([stoch, deter], -1))
            feat = torch.stack(feats)
            reward, value = self.reward(feat).squeeze(-1), self.value(feat).squeeze(-1)

        # G_k = r_k + g ((1 - lambda) v_{k+1} + lambda G_{k+1}), from the last value backwards.
        returns, following = [], value[-1]
        for k in reversed(range(self.sizes.horizon - 1)):
            mixed = (1 - self.td_lambda) * value[k + 1] + self.td_lambda * following
            following = reward[k] + self.discount * mixed
            returns.append(following)
        returns = torch.stack(returns[::-1])
        weight = self.discount ** torch.arange(self.sizes.horizon - 1)[:, None]

        actor_loss = -(weight * returns).mean()
        prediction = Normal(self.value(feat[:-1].detach()).squeeze(-1), 1.0)
        value_loss = -(weight * prediction.log_prob(returns.detach())).mean()
        return actor_loss, value_loss


def random_batch(sizes: Sizes, seed: int = 0) -> dict[str, np.ndarray]:
    """Noise of a batch's shapes and types."""
    rng, lead = np.random.default_rng(seed), (sizes.length, sizes.batch)
    return {
        "image": rng.integers(0, 256, (*lead, 64, 64, 3), dtype=np.uint8),
        "action": rng.uniform(-1, 1, (*lead, sizes.action)).astype(np.float32),
        "reward": rng.uniform(0, 1, lead).astype(np.float32),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="0: as PyTorch chooses")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--json", action="store_true", help="print one line of JSON and nothing else")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_default_device(device)
    if device == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as JAX's default is there
    sizes = SMALL if args.small else Sizes()
    dreamer = TorchDreamer(sizes)
    batch = {name: torch.as_tensor(value, device=device) for name, value in random_batch(sizes).items()}
    seconds, losses = [], {}
    for index in range(args.warmup + args.repeats):
        start = time.perf_counter()
        losses = dreamer.update(batch)
        if index >= args.warmup:
            seconds.append(time.perf_counter() - start)
    found = {
        "seconds": seconds,
        "median": sorted(seconds)[len(seconds) // 2],
        "losses": losses,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "threads": torch.get_num_threads(),
        "malloc": {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")},
    }
    print(json.dumps(found) if args.json else json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
