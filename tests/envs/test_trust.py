"""What of a stored run would run somebody's program: everything that does is named, and nothing else."""

import pytest

from jaxdreamer.config import EnvConfig, replace_env
from jaxdreamer.envs.trust import Untrusted, foreign, refuse_untrusted, trust_word

XML = '<mujoco model="a:b"><worldbody/></mujoco>'


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"id": "evil:Foo-v0"}, {"env.id": "import the module 'evil'"}),
        ({"id": "evil.inner:Foo-v0", "backend": "gymnasium"}, {"env.id": "import the module 'evil.inner'"}),
        ({"python": "./python"}, {"env.python": "start the program './python'"}),
        ({"id": "a:b:Foo-v0", "backend": "robotics"}, {"env.id": "import the module 'a:b'"}),
        ({"id": "evil:Foo-v0", "backend": "mujoco"}, {"env.id": "import the module 'evil'"}),
        ({"id": "evil:model.xml", "backend": "gym"}, {"env.id": "import the module 'evil'"}),
        ({"id": XML, "backend": "mujoco"}, {"env.id": "compile the model that is written in it"}),
        ({"id": "model.mjb", "backend": "mjcf"}, {"env.id": "load the binary model 'model.mjb'"}),
        (
            {"id": "model.xml", "backend": "mujoco", "reward_fn": "evil:reward", "terminal_fn": "worse:end"},
            {
                "env.reward_fn": "import and call 'evil:reward'",
                "env.terminal_fn": "import and call 'worse:end'",
            },
        ),
        (
            {
                "backend": "unity",
                "unity_python": "./python",
                "unity_file_name": "./player",
                "unity_additional_args": ("-executeMethod", "Evil"),
                "unity_log_folder": "/home",
            },
            {
                "env.unity_python": "start the program './python'",
                "env.unity_file_name": "start the player './player'",
                "env.unity_additional_args": "start the player with the words ('-executeMethod', 'Evil')",
                "env.unity_log_folder": "write logs to '/home'",
            },
        ),
    ],
)
def test_everything_that_would_run_is_named_and_needs_trust(settings, named):
    config = replace_env(EnvConfig(), settings)
    assert foreign(config) == named and trust_word(config) == " --trust"
    with pytest.raises(Untrusted) as raised:
        refuse_untrusted(config, "runs/x/config.json")
    told = str(raised.value)
    assert told.startswith("runs/x/config.json would ") and "--trust" in told and "trust=True" in told
    assert all(f"{does} ({name})" in told for name, does in named.items())
    refuse_untrusted(config, "runs/x/config.json", own=named)  # all of it was given by the user himself
    if len(named) > 1:
        with pytest.raises(Untrusted):
            refuse_untrusted(config, "runs/x/config.json", own=[*named][1:])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"id": "ALE/Pong-v5"},
        {"id": "C:\\models\\cart.xml", "backend": "mujoco"},
        {"id": "dm_control:walker-walk", "backend": "dmc"},  # looked up in the suite's own list
        {"id": "ant", "backend": "brax"},
        {"id": "evil:Foo", "backend": "toy"},
        {"backend": "unity"},  # the Editor, which the user has open
        {"backend": "mine", "id": "evil:Foo"},  # a backend of the user's program
    ],
)
def test_what_is_ours_or_an_installed_backends_needs_none(settings):
    config = replace_env(EnvConfig(), settings)
    assert foreign(config) == {} and trust_word(config) == ""
    refuse_untrusted(config, "runs/x/config.json")
