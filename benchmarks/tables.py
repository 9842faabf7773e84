"""Write the tables of the README and the docs: ``python benchmarks/tables.py`` (``--check`` only compares).

All but the table of metrics are made of the results.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


def result(name: str) -> dict:
    return json.loads((HERE / "results" / f"{name}.json").read_text())


def _cores(machine: dict) -> str:
    return f"{machine['cores']} core{'s' if machine['cores'] > 1 else ''} ({machine['cpu']})"


def _preset(data: dict) -> str:
    """A preset's settings may have changed since."""
    return f"preset `{data['preset']}` of commit {data['stamp']['git']['commit'][:7]}"


def _gpu(data: dict) -> str:
    return data["stamp"]["machine"]["devices"][0]


def learning() -> str:
    import learn_suite

    machines = {
        (run["stamp"]["machine"]["cpu"], run["stamp"]["machine"]["cores"])
        for runs in learn_suite.results().values()
        for run in runs
    }
    where = "; ".join(f"{cores} core{'s' if cores > 1 else ''} of an {cpu}" for cpu, cores in sorted(machines))
    return f"{learn_suite.table()}\n\nWithout exploration; each run on {where}, compiling and evaluations included."


def speed() -> str:
    update, conv = result("bench_update"), result("bench_conv")
    names = {
        "jaxdreamer": "jaxdreamer",
        "torch": "PyTorch, as people run it",
        "torch_glibc_keeps_memory": "PyTorch, glibc told to keep its memory",
    }
    ours = update["seconds"]["jaxdreamer"]["median"]
    question = update["question"]
    lines = [f"{question[0].upper()}{question[1:]}:", "", "| | median seconds | times as long |", "|---|---|---|"]
    for key, title in names.items():
        median = update["seconds"][key]["median"]
        lines.append(f"| {title} | {median:.2f} | {median / ours:.2f} |")
    other = result("bench_update_xeon")
    medians = ", ".join(f"{other['seconds'][key]['median']:.2f}" for key in names)
    lines += ["", f"The same three on {_cores(other['stamp']['machine'])}: {medians} s."]
    gpu = result("bench_update_gpu")
    one, theirs = (gpu["seconds"][key]["median"] for key in ("jaxdreamer", "torch"))
    lines += ["", f"On an {_gpu(gpu)}: {one:.3f} s, PyTorch {theirs:.3f} s ({theirs / one:.1f} times as long)."]
    lines += ["", "500 frames through V1's encoder and decoder, with gradients:", ""]
    lines += ["| | median seconds |", "|---|---|"]
    titles = {"jaxdreamer": "jaxdreamer", "torch": "PyTorch", "plain_xla": "JAX with XLA's own convolutions"}
    lines += [f"| {title} | {conv['seconds'][key]['median']:.2f} |" for key, title in titles.items()]
    machine = update["stamp"]["machine"]
    return "\n".join([*lines, "", f"On {_cores(machine)}."])


def kernels() -> str:
    data = result("gpu_kernels")
    lines = ["Kernels that one update launches, compiled for an H100:", ""]
    lines += ["| preset | kernels | of which in loops over time |", "|---|---|---|"]
    for preset, found in data["found"].items():
        inside = sum((loop["steps"] or 1) * loop["each"] for loop in found["loops"])
        lines.append(f"| `{preset}` | {found['kernels']:,} | {inside:,} |")
    return "\n".join(lines)


def scaling() -> str:
    found, lines = result("bench_scaling")["found"], []
    counts = list(next(iter(found.values()))["devices"])
    lines += ["Operations of one update on each device, of those that one alone does, by the number of devices:", ""]
    lines += [
        "| | " + " | ".join(counts[1:]) + " | all-reduced between two | gathered |",
        "|---" * (len(counts) + 2) + "|",
    ]
    for preset, of in found.items():
        devices = of["devices"]
        shares = " | ".join(f"{devices[count]['share']:.3f}" for count in counts[1:])
        passes = (devices["2"].get(kind, {"bytes": 0, "number": 0}) for kind in ("all-reduce", "all-gather"))
        lines.append(
            f"| `{preset}` | {shares} | "
            + " | ".join(f"{x['bytes'] / 1e6:.2f} MB in {x['number']}" for x in passes)
            + " |"
        )
    return "\n".join(lines)


def alone() -> str:
    titles = {"update": "a full-size V1 update", "brax": "the Brax loop, learning (`dreamer_v1,small`)"}
    found = {title: result(f"bench_commits_{part}") for part, title in titles.items()}
    words = ", ".join(f"{title} {data['found']['seconds']['ratio']:.3f}" for title, data in found.items())
    data = next(iter(found.values()))
    return (
        f"What one device pays for there being more: seconds over those of {data['then'][:7]}, the last commit that knew "
        f"one alone, in turn: {words}. On {_cores(data['stamp']['machine'])}."
    )


def workers() -> str:
    data = result("bench_workers")
    titles = {
        "one process, full": "one process, `render_quality=full`",
        "one process, fast": "one process, `fast`",
        "workers, fast": "8 environments in 2 workers, `fast`",
    }
    lines = ["Agent steps a second of walker-walk from 64x64 pixels, two physics steps each, drawn in software:", ""]
    lines += ["| | median | best window | CPU milliseconds a step |", "|---|---|---|---|"]
    for key, title in titles.items():
        rate = data["rates"][key]["agent_steps_per_second"]
        cost = data["rates"][key]["cpu_milliseconds_per_step"]
        lines.append(f"| {title} | {rate['median']:.0f} | {rate['max']:.0f} | {cost:.2f} |")
    machine, leak = data["stamp"]["machine"], data["leak"]
    grown = f"Memory after {leak['cycles']} times making, drawing and closing one: {leak['grown_mb']:+.0f} MB."
    return "\n".join([*lines, "", f"On {_cores(machine)}. {grown}"])


def brax() -> str:
    data, drawing = result("bench_brax"), result("bench_raycast")
    titles = {
        "physics": "Brax's physics alone, random actions",
        "device": "the whole agent on the device, not learning",
        "device_learning": "the same, learning",
        "host": "the same agent, Brax stepped from the host, not learning",
        "host_learning": "the same, learning",
    }
    cases = data["cases"]
    lines = [f"Environment steps a second, {_preset(data)}, one update for two steps where it learns:", ""]
    lines += ["| | " + " | ".join(f"{case['env']}, {case['lanes']} environments" for case in cases) + " |"]
    lines += ["|---" * (len(cases) + 1) + "|"]
    for key, title in titles.items():
        rates = " | ".join(f"{case['env_steps_per_second'][key]:,.0f}" for case in cases)
        lines.append(f"| {title} | {rates} |")
    for case in cases:
        one, four = (case["env_steps_per_second"][f"device_learning{suffix}"] for suffix in ("", "_4_seeds"))
        lines += ["", f"Four seeds side by side: {one / four:.1f} times as long as one seed of {case['env']}."]
    lines += ["", "64x64 frames a second of one scene each:", "", "| | ray-caster | MuJoCo, its effects off | MuJoCo |"]
    lines += ["|---|---|---|---|"]
    for name, rates in drawing["rates"].items():
        keys = ("raycast_16", "mujoco_effects_off", "mujoco")
        medians = " | ".join(f"{rates[key]['frames_per_second']['median']:,.0f}" for key in keys)
        lines.append(f"| {name} | {medians} |")
    lines += ["", f"On {_cores(data['stamp']['machine'])}; no GPU draws for MuJoCo there."]
    return "\n".join([*lines, "", *brax_on_gpu()])


def brax_on_gpu() -> list[str]:
    data, pixels = result("bench_brax_gpu"), result("bench_brax_gpu_pixels")
    cases = data["cases"]
    lines = [f"Environment steps a second of ant, {_preset(data)}, on an {_gpu(data)}:", ""]
    lines += ["| | " + " | ".join(f"{case['lanes']:,} environments" for case in cases) + " |"]
    lines += ["|---" * (len(cases) + 1) + "|"]
    titles = {
        "physics": "Brax's physics alone, random actions",
        "device": "the whole agent, not learning",
        "device_learning": "the same, learning",
    }
    for key, title in titles.items():
        lines.append(f"| {title} | " + " | ".join(f"{c['env_steps_per_second'][key]:,.0f}" for c in cases) + " |")
    updates = " | ".join(f"{case['updates_per_second']['device_learning']:.0f}" for case in cases)
    lines.append(f"| updates a second | {updates} |")
    shares = [case["shares_of_device_learning"] for case in cases]
    for key, title in {"physics": "physics", "policy_and_replay": "policy and replay", "learning": "learning"}.items():
        lines.append(f"| share of time: {title} | " + " | ".join(f"{share[key]:.1%}" for share in shares) + " |")
    lines += ["", "Where the time goes while the full-size agent acts from pixels there, roughly (one repeat):", ""]
    lines += ["| | agent steps a second | physics | drawing | policy and replay |", "|---|---|---|---|---|"]
    for case in pixels["cases"]:
        rates = case["env_steps_per_second"]
        physics, drawn = (rates["device"] / rates[key] for key in ("physics", "physics_drawing"))
        shares = f"{physics:.0%} | {drawn - physics:.0%} | {1 - drawn:.0%}"
        lines.append(f"| {case['lanes']:,} environments | {rates['device']:,.0f} | {shares} |")
    least = min(case["shares_of_device_learning"]["learning"] for case in pixels["cases"])
    repeat = pixels["cases"][0]["action_repeat"]
    return [
        *lines,
        "",
        f"`{pixels['preset']}`, {repeat} physics steps and a frame an agent step. With its train ratio learning is "
        f"{least:.0%} or more of the whole.",
    ]


def playground() -> str:
    lines = ["Control steps a second of {} environments, drawn at 64x64, random actions, no agent:", ""]
    lines += ["| | compiled program | its physics alone | dm_control in {} processes, `fast` | times as fast |"]
    lines += ["|---" * 5 + "|"]
    for name in ("bench_playground", "bench_playground_walker"):
        data = result(name)
        rates = (data["steps_per_second"][key]["median"] for key in data["steps_per_second"])
        medians = " | ".join(f"{rate:,.0f}" for rate in rates)
        lines.append(f"| {data['task']} | {medians} | {data['ratio']:.1f} |")
    lines[0] = lines[0].format(data["lanes"])
    lines[2] = lines[2].format(data["workers"])
    return "\n".join([*lines, "", f"On {_cores(data['stamp']['machine'])}."])


def torchwm() -> str:
    data, other = result("bench_compat"), result("bench_compat_xeon")
    examples = result("compat_examples")["examples"]
    ours, theirs = (data["seconds"][name]["median"] for name in ("train_one_batch", "torch"))
    ratio, other_ratio = (one["torch_is_times_as_long"] for one in (data, other))
    done = ", ".join(f"{name} ({found['updates']})" for name, found in sorted(examples.items()))
    return (
        "The examples of torchwm's documentation, unchanged but for the budget (and Unity's "
        "graphics and interpreter), at its default sizes: each was stopped "
        f"by Ctrl-C amid its updates, resumed, evaluated, saved and reloaded. Updates done: {done}.\n\n"
        f"Measured: `train_one_batch()` at the default sizes takes {ours:.1f} s, sampling included, an independent PyTorch "
        f"update {theirs:.1f} s ({ratio:.2f} times as long), on {_cores(data['stamp']['machine'])}; "
        f"{other_ratio:.2f} times as long on {_cores(other['stamp']['machine'])}."
    )


def metrics() -> str:
    from jaxdreamer.train.metrics import NAMES

    rows = [f"| `{name}` | {text} |" for name, text in NAMES.items()]
    return "\n".join(["| name | what it is |", "|---|---|", *rows])


BLOCKS = {
    "learning": ("README.md", learning),
    "speed": ("docs/benchmarks.md", speed),
    "kernels": ("docs/benchmarks.md", kernels),
    "scaling": ("docs/devices.md", scaling),
    "alone": ("docs/devices.md", alone),
    "workers": ("docs/benchmarks.md", workers),
    "brax": ("docs/benchmarks.md", brax),
    "playground": ("docs/device.md", playground),
    "torchwm": ("docs/torchwm.md", torchwm),
    "metrics": ("docs/metrics.md", metrics),
}
"""By the name in the comments that a table stands between: its file, and what makes it."""


def written(text: str, name: str, table: str) -> str:
    """A page with a table put between its comments. Raises ValueError where the page has no such comments."""
    block = f"<!-- {name} -->\n{table}\n<!-- /{name} -->"
    text, found = re.subn(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _: block, text, flags=re.S)
    if found != 1:
        raise ValueError(f"<!-- {name} --> ... <!-- /{name} --> stands {found} times where its table belongs")
    return text


def main() -> int:
    stale = []
    for name, (file, make) in BLOCKS.items():
        path = ROOT / file
        before = path.read_text()
        after = written(before, name, make())
        if after != before and "--check" in sys.argv:
            stale.append(f"{file}: the table {name} is not what its sources say: run python benchmarks/tables.py")
        elif after != before:
            path.write_text(after)
    print("\n".join(stale), end="\n" if stale else "")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
