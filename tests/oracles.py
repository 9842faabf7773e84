"""Slow references in plain NumPy float64: a loop per index, sums as the papers write them, no code shared with ops."""

from __future__ import annotations

import math

import numpy as np


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
    return sum(math.log(normal_pdf((a - m) / s) / s) for a, m, s in zip(x, loc, std))


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
