"""Slow references in plain NumPy float64: a loop per index, sums as the papers write them, no code shared with ops."""

from __future__ import annotations

import math

import numpy as np
import scipy.stats


def n_step_return(reward, value, discount, k, n):
    """``sum_{i<n} (prod_{j<i} d_{k+j}) r_{k+i} + (prod_{j<n} d_{k+j}) v_{k+n}``."""
    total, factor = 0.0, 1.0
    for i in range(n):
        total += factor * reward[k + i]
        factor *= discount[k + i]
    return total + factor * value[k + n]


def lambda_return(reward, value, discount, td_lambda):
    """One sequence of K+1, as a sum over n-step returns: ``(1-l) sum_{n<N} l^{n-1} V^n_k + l^{N-1} V^N_k``, N = K-k."""
    last = len(reward) - 1
    returns = []
    for k in range(last):
        longest = last - k
        total = td_lambda ** (longest - 1) * n_step_return(reward, value, discount, k, longest)
        for n in range(1, longest):
            total += (1 - td_lambda) * td_lambda ** (n - 1) * n_step_return(reward, value, discount, k, n)
        returns.append(total)
    return np.array(returns)


def discount_weights(discount):
    return np.array([math.prod(float(d) for d in discount[:k]) for k in range(len(discount))])


def normal_pdf(z):
    return math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


def normal_cdf(z):
    return 0.5 * math.erfc(-z / math.sqrt(2))


def normal_log_prob(x, loc, std):
    """Of one vector."""
    return float(scipy.stats.norm.logpdf(x, loc, std).sum())


def normal_kl(loc_p, std_p, loc_q, std_q):
    return sum(
        math.log(sq / sp) + (sp**2 + (mp - mq) ** 2) / (2 * sq**2) - 0.5
        for mp, sp, mq, sq in zip(loc_p, std_p, loc_q, std_q)
    )


def tanh_normal_log_prob_at_tanh_of(x, loc, std):
    """Log-density at y = tanh(x), of one vector, from ``dy/dx = 1 / cosh(x)^2``."""
    return normal_log_prob(x, loc, std) + sum(2 * math.log(math.cosh(a)) for a in x)


def truncated_quantile(u, loc, std):
    """Solve ``cdf(x) = u`` on [-1, 1] by bisection."""
    low_mass, high_mass = normal_cdf((-1 - loc) / std), normal_cdf((1 - loc) / std)
    low, high = -1.0, 1.0
    for _ in range(80):
        middle = (low + high) / 2
        below = (normal_cdf((middle - loc) / std) - low_mass) / (high_mass - low_mass) < u
        low, high = (middle, high) if below else (low, middle)
    return (low + high) / 2


def truncated_log_prob(x, loc, std):
    """Of one number."""
    mass = normal_cdf((1 - loc) / std) - normal_cdf((-1 - loc) / std)
    return math.log(normal_pdf((x - loc) / std) / std / mass)


def softmax(logits):
    """Of one vector."""
    exps = [math.exp(x - max(logits)) for x in logits]
    return [e / sum(exps) for e in exps]


def categorical_entropy(logits):
    return -sum(p * math.log(p) for p in softmax(logits))


def categorical_kl(logits_p, logits_q):
    return sum(p * math.log(p / q) for p, q in zip(softmax(logits_p), softmax(logits_q)))


def bernoulli_log_prob(x, logit):
    p = 1 / (1 + math.exp(-logit))
    return x * math.log(p) + (1 - x) * math.log(1 - p)


def symlog(x):
    return math.copysign(math.log1p(abs(x)), x)


def two_hot(x, bins):
    """Of one number."""
    weights = [0.0] * len(bins)
    if x <= bins[0]:
        weights[0] = 1.0
    elif x >= bins[-1]:
        weights[-1] = 1.0
    else:
        for i in range(len(bins) - 1):
            if bins[i] <= x < bins[i + 1]:
                weights[i] = (bins[i + 1] - x) / (bins[i + 1] - bins[i])
                weights[i + 1] = (x - bins[i]) / (bins[i + 1] - bins[i])
    return np.array(weights)


def integrate(f, low, high, points=2001):
    """Midpoint rule over an array function."""
    width = (high - low) / points
    return float(np.sum(f(low + width * (np.arange(points) + 0.5))) * width)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def dense(x, layer):
    return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)


def gru(h, x, kernel_x, kernel_h, bias_x, bias_h):
    """One step of one vector, a gate at a time: reset, update, new."""
    arrays = (h, x, kernel_x, kernel_h, bias_x, bias_h)
    h, x, kernel_x, kernel_h, bias_x, bias_h = (np.asarray(a, np.float64) for a in arrays)
    n = len(h)
    ours = [slice(i * n, (i + 1) * n) for i in range(3)]
    from_x = [x @ kernel_x[:, gate] + bias_x[gate] for gate in ours]
    from_h = [h @ kernel_h[:, gate] + bias_h[gate] for gate in ours]
    reset, update = sigmoid(from_x[0] + from_h[0]), sigmoid(from_x[1] + from_h[1])
    new = np.tanh(from_x[2] + reset * from_h[2])
    return np.array([(1 - update[i]) * new[i] + update[i] * h[i] for i in range(n)])


def layer_norm_gru(h, x, kernel, bias, scale, offset):
    """One step of one vector, V2's: reset, candidate, update from one normalised product."""
    n = len(h)
    y = np.concatenate([x, h]).astype(np.float64) @ np.asarray(kernel, np.float64) + bias
    mean = sum(y) / len(y)
    variance = sum((y - mean) ** 2) / len(y)
    y = (y - mean) / math.sqrt(variance + 1e-3) * scale + offset
    new_h = []
    for i in range(n):
        reset, update = sigmoid(y[i]), sigmoid(y[2 * n + i] - 1)
        new_h.append(update * math.tanh(reset * y[n + i]) + (1 - update) * h[i])
    return np.array(new_h)


def v1_behavior_losses(*, reward, value, discount, td_lambda):
    """V1, in the indices of its own code, whose sequences start at the first *dreamed* state. Arrays [H+1, N]."""
    reward, value, discount = (np.asarray(x, np.float64)[1:] for x in (reward, value, discount))
    horizon, lanes = reward.shape
    actor_terms, critic_terms = [], []
    for n in range(lanes):
        returns = {horizon - 1: value[horizon - 1, n]}
        for k in reversed(range(horizon - 1)):
            bootstrap = (1 - td_lambda) * value[k + 1, n] + td_lambda * returns[k + 1]
            returns[k] = reward[k, n] + discount[k, n] * bootstrap
        weight = 1.0
        for k in range(horizon - 1):
            actor_terms.append(-weight * returns[k])
            critic_terms.append(-weight * normal_log_prob([returns[k]], [value[k, n]], [1.0]))
            weight *= discount[k, n]
    return np.mean(actor_terms), np.mean(critic_terms)


def v2_behavior_losses(
    *, reward, value, discount, critic, td_lambda, log_prob=None, mix=1.0, entropy=None, entropy_scale=0.0
):
    """V2, in the indices of its own code: states z_0 (real) to z_H, all arrays [H+1, N] or [H, N].

    ``value`` is the target critic's, ``critic`` the trained one's; ``log_prob[k]`` that of the action taken in z_k;
    ``mix`` the share of the dynamics gradient.
    """
    reward, value, discount, critic = (np.asarray(x, np.float64) for x in (reward, value, discount, critic))
    horizon, lanes = len(reward) - 1, reward.shape[1]
    actor_terms, critic_terms = [], []
    for n in range(lanes):
        returns = {horizon: value[horizon, n]}
        for k in reversed(range(horizon)):
            bootstrap = (1 - td_lambda) * value[k + 1, n] + td_lambda * returns[k + 1]
            returns[k] = reward[k, n] + discount[k, n] * bootstrap
        weight = 1.0
        for k in range(horizon):
            critic_terms.append(-weight * normal_log_prob([returns[k]], [critic[k, n]], [1.0]))
            if k < horizon - 1:
                objective = mix * returns[k + 1]
                if mix < 1:
                    objective += (1 - mix) * log_prob[k, n] * (returns[k + 1] - value[k, n])
                if entropy is not None:
                    objective += entropy_scale * entropy[k, n]
                actor_terms.append(-weight * objective)
            weight *= discount[k, n]
    return np.mean(actor_terms), np.mean(critic_terms)


def ray_grid(side, pixel):
    """Ray directions [side, side, 3] of a square picture, z = -1; rows run downwards."""
    x = (np.arange(side) + 0.5 - side / 2) * pixel
    return np.stack([*np.meshgrid(x, -x), -np.ones((side, side))], -1)


def implicit(name, size, q):
    """Below 0 inside a shape, of points [..., 3] in its own frame."""
    if name in ("sphere", "capsule"):
        half = size[1] if name == "capsule" else 0
        on_axis = np.stack([0 * q[..., 0], 0 * q[..., 0], np.clip(q[..., 2], -half, half)], -1)
        return np.linalg.norm(q - on_axis, axis=-1) - size[0]
    if name == "ellipsoid":
        return np.linalg.norm(q / np.array(size), axis=-1) - 1
    if name == "cylinder":
        return np.maximum(np.hypot(q[..., 0], q[..., 1]) - size[0], np.abs(q[..., 2]) - size[1])
    return (np.abs(q) - np.array(size)).max(-1)


def cast_ray(name, size, centre, rot, direction, far=6.0, steps=1500):
    """Depth (inf: a miss) and outward normal of the first surface along rays from the origin: small steps, then halving."""

    def value(t):
        return implicit(name, size, (t[..., None] * direction - centre) @ rot)

    grid = direction.shape[:-1]
    before, found = np.zeros(grid), np.full(grid, np.inf)
    for t in np.linspace(0, far, steps + 1)[1:]:
        enters = np.isinf(found) & (value(np.full(grid, t)) < 0)
        found[enters] = t
        before = np.where(np.isinf(found), t, before)
    low, high = before, np.where(np.isinf(found), before, found)
    for _ in range(40):
        middle = (low + high) / 2
        inside = value(middle) < 0
        low, high = np.where(inside, low, middle), np.where(inside, middle, high)
    q = (high[..., None] * direction - centre) @ rot
    gradient = [implicit(name, size, q + step) - implicit(name, size, q - step) for step in 1e-6 * np.eye(3)]
    normal = np.stack(gradient, -1)
    normal = normal / np.linalg.norm(normal, axis=-1, keepdims=True) @ rot.T
    return np.where(np.isinf(found), np.inf, high), normal
