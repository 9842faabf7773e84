"""A Unity player without Unity: the other end of ML-Agents' wire, for tests. Run as the library runs a build.

It is the gRPC client of ``UnityToExternalProto``, as Unity's communicator is: it sends its initialization, then an empty
message whose answer is the first command, then an output for every command, until it is told to end (status 400) or
nobody is there. Needs mlagents_envs' message classes and grpc, none of its environment code.

The scene, a JSON file, says who plays:

    agents       [{"length", "interrupted"}, ...]; one whose length is 0 never ends. Optional "period": ticks per decision
    image        "png", "float" or "none"; image_shape [H, W, C]; blank: all one colour; channels_first
    continuous, branches, mask    the action space; mask forbids choice (time % size) of the first branch
    respawn      ticks until an ended agent is there again (0: in the same output, -1: never); reuse_ids
    api          the communication version it claims
    fault        {"kind", "at", "launches"}: exit, silent (never connects), kill, hang, raise, nan, spawn
    log          JSON lines: what it was given

An agent sees [agent, episode, time, continuous[0], discrete[0], discrete[1]] and is paid its time.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
import uuid
from typing import Any

import grpc
import numpy as np
from mlagents_envs.communicator_objects.agent_info_pb2 import AgentInfoProto
from mlagents_envs.communicator_objects.observation_pb2 import PNG
from mlagents_envs.communicator_objects.unity_message_pb2 import UnityMessageProto
from mlagents_envs.communicator_objects.unity_output_pb2 import UnityOutputProto
from mlagents_envs.communicator_objects.unity_to_external_pb2_grpc import UnityToExternalProtoStub
from PIL import Image
from unity_scene import picture

RESET = 1
ENGINE = uuid.UUID("e951342c-4f7e-11ea-b238-784f4387d1f7")
DEFAULTS: dict[str, Any] = {
    "behavior": "Duo?team=0", "agents": [], "image": "none", "image_shape": [12, 16, 3], "blank": False,
    "channels_first": False, "continuous": 0, "branches": [], "mask": False, "respawn": 0, "reuse_ids": False,
    "api": "1.5.0", "fault": {}, "log": os.devnull,
}  # fmt: skip


class Agent:
    def __init__(self, index: int, about: dict[str, Any]) -> None:
        self.index, self.length, self.interrupted = index, about["length"], about.get("interrupted", False)
        self.period = about.get("period", 1)
        self.episode, self.time, self.id, self.away = -1, 0, 0, 0
        self.acted = (0.0, 0, 0)

    def begin(self, number: int) -> None:
        self.episode, self.time, self.id, self.acted = self.episode + 1, 0, number, (0.0, 0, 0)


class Scene:
    def __init__(self, about: dict[str, Any]) -> None:
        self.about = {**DEFAULTS, **about}
        self.agents = [Agent(i, item) for i, item in enumerate(self.about["agents"])]
        self.tick, self.ids, self.waiting = 0, 0, []

    def begin(self, agent: Agent) -> None:
        agent.begin(agent.index if self.about["reuse_ids"] else self.ids)
        self.ids += 1

    def reset(self, output: Any) -> None:
        for agent in self.agents:
            self.begin(agent)
            agent.away = 0
        self.tick, self.waiting = 0, list(self.agents)
        for agent in self.waiting:
            self.show(output, agent, 0.0, done=False)

    def step(self, actions: list[Any], output: Any) -> None:
        """Act, and let time pass until there is something to say."""
        assert len(actions) == len(self.waiting), f"{len(actions)} actions for {len(self.waiting)} agents"
        for agent, action in zip(self.waiting, actions):
            self.act(agent, action)
        self.waiting = []
        said = 0
        while not said:
            self.tick += 1
            for agent in self.agents:
                said += self.pass_time(agent, output)

    def pass_time(self, agent: Agent, output: Any) -> int:
        if agent.away:
            agent.away -= 1
            if agent.away == 0:
                self.begin(agent)
                return self.decide(agent, output, 0.0)
            return 0
        if self.tick % agent.period:
            return 0
        agent.time += 1
        if agent.time != agent.length:
            return self.decide(agent, output, float(agent.time))
        self.show(output, agent, float(agent.time), done=True)
        if self.about["respawn"] == 0:
            self.begin(agent)
            return self.decide(agent, output, 0.0)
        agent.away = self.about["respawn"]
        return 1

    def decide(self, agent: Agent, output: Any, reward: float) -> int:
        self.waiting.append(agent)
        self.show(output, agent, reward, done=False)
        return 1

    def act(self, agent: Agent, action: Any) -> None:
        continuous, discrete = list(action.continuous_actions), list(action.discrete_actions)
        assert len(continuous) == self.about["continuous"] and len(discrete) == len(self.about["branches"])
        for choice, size in zip(discrete, self.about["branches"]):
            assert 0 <= choice < size, f"choice {choice} of {size}"
        if self.about["mask"]:
            assert discrete[0] != agent.time % self.about["branches"][0], "a forbidden choice was sent"
        agent.acted = (*continuous, 0.0)[0], (*discrete, 0)[0], (*discrete, 0, 0)[1]
        self.write(action=[continuous, discrete], agent=agent.index, episode=agent.episode, time=agent.time)

    def show(self, output: Any, agent: Agent, reward: float, done: bool) -> None:
        info: AgentInfoProto = output.agentInfos[self.about["behavior"]].value.add()
        info.id, info.reward, info.done = agent.id, reward, done
        info.max_step_reached = done and agent.interrupted
        info.group_reward = 0.25
        if self.about["mask"] and not done:
            size = self.about["branches"][0]
            forbidden = [choice == agent.time % size for choice in range(size)]
            info.action_mask.extend([*forbidden, *[False] * sum(self.about["branches"][1:])])
        vector = info.observations.add()
        nan = (
            self.about["fault"].get("kind") == "nan" and agent.time == self.about["fault"]["at"] and faulty(self.about)
        )
        values = [agent.index, agent.episode, np.nan if nan else agent.time, *agent.acted]
        vector.shape.append(len(values))
        vector.name = "VectorSensor_size6"
        vector.float_data.data.extend(values)
        if self.about["image"] != "none":
            self.show_image(info.observations.add(), agent)

    def show_image(self, sensor: Any, agent: Agent) -> None:
        pixels = picture(agent.index, agent.time, self.about["image_shape"], self.about["blank"])
        first = self.about["channels_first"]
        sensor.name = "CameraSensor"
        sensor.dimension_properties.extend([1, 2, 2] if first else [2, 2, 1])
        sensor.shape.extend(np.transpose(pixels, (2, 0, 1)).shape if first else pixels.shape)
        if self.about["image"] == "png":
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            sensor.compression_type, sensor.compressed_data = PNG, file.getvalue()
        else:
            values = np.transpose(pixels, (2, 0, 1)) if first else pixels
            sensor.float_data.data.extend((values / 255.0).ravel().tolist())

    def write(self, **line: Any) -> None:
        with open(self.about["log"], "a") as file:
            file.write(json.dumps(line) + "\n")

    def describe(self, output: UnityOutputProto) -> None:
        """The behaviour's parameters, which Unity sends along with its agents' first states."""
        parameters = output.rl_initialization_output.brain_parameters.add()
        parameters.brain_name, parameters.is_training = self.about["behavior"], True
        parameters.action_spec.num_continuous_actions = self.about["continuous"]
        parameters.action_spec.num_discrete_actions = len(self.about["branches"])
        parameters.action_spec.discrete_branch_sizes.extend(self.about["branches"])


def faulty(about: dict[str, Any]) -> bool:
    """Whether this launch is one of those that go wrong."""
    with open(about["log"]) as file:
        launches = sum('"launch"' in line for line in file)
    return launches <= about["fault"].get("launches", 1)


def engine_settings(data: bytes) -> dict[str, float]:
    """Quality level and time scale from a side channel's messages."""
    found, position = {}, 0
    while position < len(data):
        channel = uuid.UUID(bytes_le=data[position : position + 16])
        (length,) = struct.unpack_from("<i", data, position + 16)
        message = data[position + 20 : position + 20 + length]
        position += 20 + length
        if channel == ENGINE:
            (kind,) = struct.unpack_from("<i", message)
            if kind == 1:
                found["quality_level"] = struct.unpack_from("<i", message, 4)[0]
            elif kind == 2:
                found["time_scale"] = struct.unpack_from("<f", message, 4)[0]
    return found


def misbehave(fault: dict[str, Any], moment: int | str) -> None:
    """Before connecting this is moment 0, after the first message "hello", then it counts exchanges."""
    if moment != fault.get("at", 0):
        return
    print(f"player: about to {fault['kind']}", file=sys.stderr, flush=True)
    if fault["kind"] == "exit":
        sys.exit(3)
    if fault["kind"] in ("silent", "hang"):
        time.sleep(1000)
    if fault["kind"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault["kind"] == "raise":
        raise RuntimeError("the scene's own trouble")
    if fault["kind"] == "spawn":  # Unity's players have helpers, too
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)", "jaxdreamer-test-helper"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scene", required=True)
    parser.add_argument("--mlagents-port", type=int, required=True)
    parser.add_argument("-nographics", action="store_true")
    parser.add_argument("-batchmode", action="store_true")
    parser.add_argument("-logFile", default=os.devnull)
    parser.add_argument("--extra")
    words = parser.parse_args()
    with open(words.scene) as file:
        scene = Scene(json.load(file))
    scene.write(launch=os.getpid(), port=words.mlagents_port, nographics=words.nographics, extra=words.extra)
    fault = scene.about["fault"] if scene.about["fault"] and faulty(scene.about) else {"kind": "", "at": -1}
    with open(words.logFile, "a") as file:
        file.write("player: the scene is loaded\n")
    misbehave(fault, 0)

    exchange = UnityToExternalProtoStub(grpc.insecure_channel(f"localhost:{words.mlagents_port}")).Exchange

    def send(output: UnityOutputProto | None) -> Any:
        message = UnityMessageProto()
        message.header.status = 200
        if output is not None:
            message.unity_output.CopyFrom(output)
        reply = exchange(message, wait_for_ready=output is not None, timeout=60)
        if reply.header.status != 200:
            sys.exit(0)
        return reply.unity_input

    hello = UnityOutputProto()
    hello.rl_initialization_output.name = "scripted"
    hello.rl_initialization_output.communication_version = scene.about["api"]
    hello.rl_initialization_output.package_version = "3.0.0"
    hello.rl_initialization_output.capabilities.baseRLCapabilities = True
    answer = send(hello).rl_initialization_input
    misbehave(fault, "hello")
    scene.write(seed=answer.seed, python_api=answer.communication_version)
    command, described, exchanges = send(None).rl_input, False, 0
    while True:
        exchanges += 1
        misbehave(fault, exchanges)
        if settings := engine_settings(command.side_channel):
            scene.write(engine=settings)
        output = UnityOutputProto()
        if command.command == RESET:
            scene.reset(output.rl_output)
        else:
            scene.step(list(command.agent_actions[scene.about["behavior"]].value), output.rl_output)
        if not described:
            scene.describe(output)
            described = True
        command = send(output).rl_input


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as error:
        print(f"player: the other side is gone: {error.code()}", file=sys.stderr)
        sys.exit(1)
