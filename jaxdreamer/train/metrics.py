"""The names in ``metrics.jsonl``, and what each means."""

from __future__ import annotations

from fnmatch import fnmatchcase

NAMES = {
    "agent_steps": "decisions taken so far, over all environments; a reset is none",
    "env_frames": "simulator steps so far: agent_steps times env.action_repeat; the x axis of every curve",
    "updates": "gradient updates so far, skipped ones included",
    "skipped": "updates so far that changed nothing, because a loss or gradient was not finite",
    "train_ratio": "updates for each entry, once the prefill is done: run.updates / run.train_every",
    "imagined/return": "mean lambda-return of dreamed sequences, in the units that rewards are learned in",
    "imagined/return_std": "standard deviation of these returns",
    "imagined/return_scale": "distance of their percentiles by which the advantage is divided (V3)",
    "imagined/reward": "mean reward that the model predicts in a dream",
    "imagined/value": "mean value that the critic gives to dreamed states",
    "imagined/discount": "mean discount in a dream: gamma times the predicted chance to go on",
    "imagined/advantage": "mean absolute difference of return and value, where the actor learns by REINFORCE",
    "*/episode/*": "what environments say of their episodes in info['episode_metrics'], as means over the episodes of which "
    "they said it, and what the backend makes of these means: Crafter's achievements in percent of episodes, and its score",
    "*/return": "mean sum of an episode's rewards, in the environment's own units",
    "*/return_std": "standard deviation of these sums over the episodes",
    "*/return_min": "lowest of these sums",
    "*/return_max": "highest of these sums",
    "*/length": "mean agent steps of an episode",
    "*/episodes": "how many episodes the above are of: under train/ those that ended since the last line, played with "
    "exploration; under eval/ those of one evaluation, played without; under eval_sampled/ those of one played with "
    "sampled actions",
    "*/broken_entries": "entries that were not finite and were replaced by a reset: under env/ so far, under eval/ and "
    "eval_sampled/ of one evaluation",
    "env/restarts": "worker processes or players started again so far",
    "replay/entries": "entries that can be learned from, collected and given",
    "loss/model": "world-model loss, the sum of its terms",
    "loss/obs/*": "its reconstruction term of one observation: minus the log-likelihood in nats, weighted",
    "loss/reward": "its reward term, likewise",
    "loss/discount": "its term of the predicted end of episodes, likewise",
    "loss/kl": "its divergence between posterior and prior, with free nats, weighted",
    "loss/actor": "actor loss on dreamed sequences, with the entropy bonus",
    "actor/return_term": "part of minus the actor loss that the returns make; with the entropy bonus it is all of it",
    "actor/entropy_bonus": "its other part, the weighted entropy; where it outweighs the return term, the policy "
    "stays random",
    "loss/critic": "critic loss on dreamed sequences: minus the log-likelihood of their lambda-returns",
    "loss/replay_value": "critic loss on replayed states, weighted (V3)",
    "kl": "divergence between posterior and prior in nats",
    "*_entropy": "entropy in nats of the actor, the prior or the posterior",
    "grad_norm/*": "norm of a part's gradient, before clipping",
    "open_loop/*_seen": "mean squared error of reconstruction, images in [0, 1]",
    "open_loop/*": "mean squared error of prediction from the actions alone",
    "held_out/*_seen": "mean squared error of reconstruction, of the episodes of replay.data that are not learned from",
    "held_out/*": "mean squared error of their prediction from the actions alone",
    "time/unix": "seconds since 1970",
    "time/frames_per_second": "env frames a second since the last line",
    "time/updates_per_second": "updates a second since the last line",
    "time/share_environment": "share of the time since the last line that the loop waited for its environments",
    "time/share_policy": "share of deciding on actions; an update that they have to wait for is the update's time",
    "time/share_store": "share of checking, counting and storing entries",
    "time/share_sample": "share of waiting for a batch while it is gathered; a thread gathers ahead",
    "time/share_transfer": "share of waiting for a batch on its way to the device",
    "time/share_update": "share of starting updates and waiting for them",
    "time/share_device": "share of the compiled loop where all is on the device; `jaxdreamer bench` takes it apart",
    "time/share_log": "share of writing lines like this one and showing progress",
    "time/share_evaluate": "share of evaluations, with their films and pictures",
    "time/share_save": "share of writing checkpoints",
}
"""By name, or pattern with ``*``; the first that fits counts."""


def sentence(name: str) -> str | None:
    """What the metric of a name is; None for a name that only an algorithm of one's own can have written."""
    return next((text for pattern, text in NAMES.items() if fnmatchcase(name, pattern)), None)
