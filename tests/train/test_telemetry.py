"""Pictures of what the model dreams: one for each image key, in the run's folder whatever a key is called."""

import numpy as np

from jaxdreamer.agent.algorithm import OpenLoop
from jaxdreamer.record.metrics import MetricsLog
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.train.telemetry import save_open_loop
from jaxdreamer.types import ActionPart, ActionSpec, ArraySpec, EnvSpec


def test_pictures_of_odd_keys_stay_in_their_folder_and_apart(tmp_path):
    keys = ["image", "Image", "../../x", "a/b", "a-b", "x" * 300, "c\0d"]
    spec = EnvSpec(
        {key: ArraySpec((8, 8, 3), "uint8", "image") for key in keys}, ActionSpec((ActionPart("discrete", 2),))
    )
    frames = {key: np.zeros((4, 1, 8, 8, 3), np.uint8) for key in keys}
    report = OpenLoop(truth=frames, model=frames, error={key: np.zeros(4) for key in keys})
    run = RunDir(tmp_path / "run").create()
    with MetricsLog(run.metrics) as log:
        save_open_loop(report, spec, run, log, context=2, counters={"agent_steps": 1, "env_frames": 2, "updates": 3})
    names = sorted(path.name for path in run.videos.iterdir())
    assert len(names) == len(keys) and "open_loop-image-000000000002.png" in names
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
