"""What bad input gets: every row of the table in docs/errors.md has a test, here or in the room it belongs to."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from jaxdreamer.config import EnvConfig, MissingExtra
from jaxdreamer.envs.base import SpaceError
from jaxdreamer.envs.host.gymnasium_env import wrap
from tests.cli.test_cli import fails
from tests.envs.toy import CountingEnv

ROOT = Path(__file__).resolve().parent.parent
# Rows that a command shows: its words, and what standard error must hold.
ROWS = {
    "unknown preset": (["train", "--preset", "dreamr_v1"], ["unknown preset 'dreamr_v1'", "did you mean dreamer_v1"]),
    "unknown setting": (["train", "deter_sise=3"], ["unknown setting 'deter_sise'", "deter_size"]),
    "unknown flag": (["train", "--model.deter-sise", "3"], ["unknown setting", "model.deter_size"]),
    "wrong type": (["train", "deter_size=big"], ["model.deter_size: expected int, found 'big'"]),
    "wrong choice": (["train", "actor_gradient=reinforced"], ["behavior.actor_gradient", "did you mean reinforce"]),
    "impossible value": (["train", "discount=1.5"], ["behavior.discount must lie between 0 and 1, found 1.5"]),
    "unknown environment": (["train", "--env", "Pendulm-v1"], ["Pendulm-v1", "Pendulum-v1"]),
    "unknown backend": (["train", "--env.backend", "gim"], ["unknown backend 'gim'", "did you mean gym"]),
    "image too small": (["train", "obs=pixels", "image_size=4x4"], ["image_size must be at least 8", "(4, 4)"]),
    "replay too short": (
        ["train", "capacity=60", "batch_length=50"],
        ["replay.capacity 60 leaves 60 entries", "need at least 100"],
    ),
    "replay larger than memory": (
        ["train", "capacity=10000000000000"],
        ["this machine has", "set replay.capacity to"],
    ),
}


# Rows by the test that holds them.
TESTED = {
    "tests/replay/test_mapped.py": {
        "replay on disk for which there is no room": "test_room_that_the_disk_does_not_have_is_refused_at_the_start",
        "rows of a replay on disk that were overwritten, or whose files are gone": (
            "test_what_was_overwritten_or_is_gone_is_told_and_can_be_done_without"
        ),
    },
    "tests/data/test_episodes.py": {
        "a recording with numbers that are not finite, actions out of range, ends amid an episode": (
            "test_what_cannot_be_learned_from_is_refused_by_its_place"
        ),
    },
    "tests/data/test_export.py": {
        "`--data` that leads to nothing": "test_a_dataset_that_others_recorded_is_read_as_an_environment_is",
        "a file that is no `.npz`": "test_files_that_are_no_episodes_are_refused_by_name",
        "an export to a folder that is in use": "test_exported_and_read_back_it_is_the_same",
    },
    "tests/data/test_lerobot.py": {
        "a LeRobot dataset that is older, or has a damaged table or film": "test_what_cannot_be_used_is_refused_by_name",
    },
    "tests/train/test_given.py": {
        "a recording of other spaces": "test_other_spaces_are_refused_with_what_was_found_and_expected",
        "data that changed since the run began": (
            "test_what_it_was_given_must_be_the_same_when_it_goes_on_wherever_it_lies"
        ),
        "`offline`, `data_fraction`, `held_out` or `--env none` without `--data`": (
            "test_what_cannot_be_is_refused_in_a_sentence"
        ),
        "more episodes kept apart than there are, or shorter ones than a sequence": (
            "test_what_cannot_be_is_refused_in_a_sentence"
        ),
        "`--data` or `on_disk` on the device": "test_what_cannot_be_is_refused_in_a_sentence",
    },
    "tests/train/test_stop.py": {
        "Ctrl-C, twice": "test_a_first_ctrl_c_amid_a_compile_is_answered_at_once_and_a_second_leaves",
        "a terminal or a job that ends under a run": (
            "test_a_terminal_or_a_scheduler_that_ends_everything_finds_the_run_saved"
        ),
    },
    "tests/config/test_fuzz_settings.py": {
        "a number past its limits": "test_a_number_past_its_limits_is_refused_by_name",
        "networks or batches larger than memory": "test_what_memory_would_not_hold_is_refused_by_name",
    },
    "tests/cli/test_words.py": {
        "a flag without its value": "test_a_flag_is_not_taken_for_a_value",
    },
    "tests/cli/test_sweep.py": {
        "a `--vary` that is no range and no list, or a value that the setting cannot have": (
            "test_what_is_tried_is_read_or_refused_by_name"
        ),
        "a sweep's folder with other settings": "test_another_sweep_or_another_folder_is_refused",
    },
    "tests/envs/host/test_robotics_env.py": {
        "an id that is gone": "test_ids_that_are_gone_name_what_to_use",
    },
    "tests/envs/host/test_atari.py": {
        "settings of Atari's games for another task": (
            "test_other_tasks_know_no_such_settings_and_an_action_of_one_frame_is_told"
        ),
    },
    "tests/train/test_sharing.py": {
        "more `--devices` than there are": "test_devices_that_are_not_there",
        "a batch, environments or seeds that the devices do not divide": (
            "test_numbers_that_devices_do_not_divide_are_refused_with_those_that_they_would"
        ),
    },
    "tests/train/test_crew.py": {
        "`--coordinator`, `--processes` and `--process` that do not fit each other": (
            "test_words_that_do_not_fit_each_other"
        ),
        "processes that were given other settings than process 0": "test_processes_that_were_asked_for_different_runs",
        "Unity's players, learning from data alone, a replay on disk, or `--seeds`, over several processes": (
            "test_what_several_processes_cannot_train"
        ),
        "environments over several processes that their devices do not divide": "test_what_several_processes_cannot_train",
        "one of several processes that raises an error": "test_a_process_raises",
        "one of several processes that is killed": "test_a_process_is_killed",
        "a process that nobody joins, or that does not come in time": "test_a_process_that_nobody_joins",
        "a SIGTERM to one of several processes": "test_two_processes_do_what_one_does",
    },
    "tests/train/test_episode_metrics.py": {
        '`info["episode_metrics"]` that holds no numbers': "test_what_is_no_number_is_an_error_that_names_it",
    },
    "tests/envs/host/test_plugins.py": {
        "an id of a package that is not installed": "test_what_is_not_installed_is_not_imported",
    },
    "tests/test_bad_input.py": {
        "missing extra": "test_a_missing_extra_names_the_pip_line",
        "unsupported space": "test_an_unsupported_space_names_its_key",
    },
    "tests/envs/host/test_dmc_env.py": {
        "libraries that do not fit together": "test_versions_that_do_not_fit_are_named",
    },
    "tests/envs/test_named.py": {
        "a module that cannot be imported": "test_why_a_name_leads_nowhere",
    },
    "tests/test_devices.py": {
        "a platform that JAX cannot use": "test_a_platform_that_is_not_there_is_one_sentence_everywhere",
    },
    "tests/record/test_metrics.py": {
        "`--wandb` without a login or a network": "test_wandb_without_a_login_or_a_network_is_a_sentence",
        "`metrics.jsonl` deleted, shortened or edited": (
            "test_a_log_that_is_not_the_checkpoints_keeps_what_it_has_and_says_so"
        ),
        "damaged lines in `metrics.jsonl`": "test_damaged_lines_are_left_out_and_counted",
        "a link in a log's place": "test_what_is_no_file_is_neither_read_nor_written_to",
    },
    "tests/cli/test_cli.py": {
        "plotting without matplotlib": "test_train_then_evaluate_then_go_on",
    },
    "tests/envs/host/test_instance.py": {
        "what is no environment, given as `make=`": "test_what_is_no_environment_is_refused_with_what_to_give",
        "one instance for every lane and evaluation": "test_one_instance_for_all_is_refused_at_the_start",
        "an environment that raises, ends the program, or returns the wrong number of values": (
            "test_what_an_environment_does_wrong_is_a_sentence_and_a_finding"
        ),
        "a reward or a flag that is no number": "test_rewards_that_are_no_number_are_refused_with_what_was_found",
    },
    "tests/envs/host/test_workers.py": {
        "an environment that crashes, hangs or is killed, in a worker": (
            "test_a_worker_that_fails_is_started_again_and_its_episode_ends_there"
        ),
    },
    "tests/train/test_evaluate.py": {
        "nan from an environment, in a vector, a picture, a choice or a reward": (
            "test_an_episode_that_begins_broken_is_none_and_another_is_played"
        ),
    },
    "tests/envs/host/test_observations.py": {
        "an observation of text": "test_text_is_left_out_with_a_line_and_alone_it_is_an_error",
        "an observation without any numbers, `Box(0,)`": "test_what_has_no_numbers_is_left_out_with_a_note",
        "fractions where the space has whole numbers": "test_floats_are_not_cut_to_whole_numbers",
        "a picture outside its space's bounds": "test_float_images_are_rounded_and_kept_in_range",
    },
    "tests/envs/test_check.py": {
        "numbers far from unit scale (symbols of 0 to 10 in bounds of 0 to 255)": (
            "test_vectors_far_from_unit_scale_are_warned_of"
        ),
        "a nearly black picture, or one without bounds": "test_pictures_are_looked_at",
    },
    "tests/envs/host/test_actions.py": {
        "actions without bounds, or with huge ones (1e6 and more)": (
            "test_missing_and_huge_bounds_are_refused_then_replaced_with_one_note"
        ),
    },
    "tests/train/test_run.py": {
        "an `action_bound` that nothing needs": (
            "test_what_a_bare_environment_leaves_undone_is_said_at_the_start_and_a_shared_one_is_refused"
        ),
        "a film of what cannot be drawn": "test_a_task_that_cannot_be_drawn_is_evaluated_all_the_same",
        "folder of another run": "test_a_folder_of_another_run_is_refused_by_name",
        "folder with other files": "test_a_folder_with_something_else_in_it_is_refused",
        "nan in a batch": "test_twenty_bad_updates_in_a_row_stop_the_run_and_name_the_term",
    },
    "tests/envs/host/test_render.py": {
        "nothing to draw with": "test_nothing_works_or_is_switched_off_or_is_nonsense",
    },
    "tests/envs/host/test_mujoco_env.py": {
        "a model that cannot be loaded": "test_an_mjb_that_will_not_load_is_an_error_with_both_versions",
    },
    "tests/envs/host/test_mujoco_model.py": {
        "a file that is no model": "test_what_is_no_model_is_told_by_what_it_is",
        "a URDF, which has no actuators": "test_a_urdf_says_that_it_has_no_actuators_and_the_mjcf_that_gives_it_some",
        "a URDF's `package://` meshes": "test_meshes_of_a_urdf_are_found_beside_it_or_the_way_to_them_is_told",
        "an unknown keyframe": "test_a_keyframe_that_is_not_there_is_told_with_those_that_are",
    },
    "tests/envs/unity/test_unity_env.py": {
        "Unity player that never connects": "test_a_player_that_never_connects",
    },
    "tests/record/test_checkpoint.py": {
        "a run folder of any name (`[1]`, `\\`, `*`, `$HOME`, a newline)": "test_any_name_that_a_file_system_allows",
        "a disk that is full or read-only": "test_a_disk_that_fills_up_is_a_sentence_and_costs_nothing",
        "a damaged checkpoint": "test_200_garbled_manifests_all_leave_the_older_checkpoint",
    },
    "tests/record/test_rundir.py": {
        "a file where the run's folder should be": "test_what_lies_in_a_folders_place_is_a_sentence",
    },
    "tests/train/test_start.py": {
        "`--start` from a run of other observations, actions, networks or another algorithm": (
            "test_a_start_from_another_kind_of_run_is_refused_by_what_differs"
        ),
    },
    "tests/train/test_folder.py": {
        "a film that cannot be written": "test_a_film_that_cannot_be_written_does_not_cost_the_run",
        "`config.json` or `spec.json` gone": "test_an_agent_is_loaded_or_the_file_named",
        "`config.json` edited by hand": "test_settings_edited_by_hand_are_shown_or_refused",
        "`checkpoints/` deleted": "test_deleted_checkpoints_ask_before_the_run_is_begun_anew",
        "a damaged or missing part of the replay": "test_a_damaged_chunk_can_be_gone_on_without",
    },
    "tests/test_fuzz_files.py": {
        "a damaged `config.json`": "test_configurations",
        "a damaged `spec.json`": "test_specs",
        "a spec that asks for more than there is memory": "test_a_spec_that_asks_for_more_than_there_is_or_any_has",
    },
    "tests/train/test_trust.py": {
        "a stored run that names a module or a program": "test_evaluating_asks_first_and_runs_nothing",
    },
    "tests/torchwm_compat/test_trust.py": {
        "the same in a `.pt` of torchwm, or the YAML beside it": "test_a_stored_configuration_asks_first",
    },
    "tests/test_files.py": {
        "a file of a run that is a pipe, a device or far too large": (
            "test_devices_pipes_folders_and_odd_names_are_refused_at_once"
        ),
    },
    "tests/train/test_telemetry.py": {
        "an observation key such as `../../x`": "test_pictures_of_odd_keys_stay_in_their_folder_and_apart",
    },
    "tests/deploy/test_pretrained.py": {
        "training in the folder of a saved agent": "test_a_run_begins_with_it_but_does_not_go_on_in_it",
        "saving an agent where something else lies": "test_it_replaces_an_agent_and_nothing_else",
        "an agent on a hub that cannot be reached, or refuses": "test_a_hub_that_cannot_be_reached_or_refuses",
    },
    "tests/deploy/test_agent.py": {
        "nan, inf or None given to a loaded agent": "test_nothing_that_is_not_finite_is_remembered",
        "an observation that is not what the run was trained on": (
            "test_a_wrong_observation_says_what_was_expected_and_leaves_no_trace"
        ),
    },
}


@pytest.mark.parametrize("row", ROWS)
def test_a_command_says_what_is_wrong(row, capsys, tmp_path):
    words, expected = ROWS[row]
    errors = fails(capsys, *words, *(["--logdir", str(tmp_path / "run")] if words[0] == "train" else []))
    for text in expected:
        assert text in errors


def test_the_table_in_the_docs_and_the_tests_agree():
    text = (ROOT / "docs" / "errors.md").read_text()
    table = text[text.index("| bad input |") :].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]
    rows = [name for name, *what in cells if what != [""]]  # the others are headings
    assert len(rows) == len(set(rows)) and set(rows) == set(ROWS).union(*TESTED.values())


@pytest.mark.parametrize("file", TESTED)
def test_the_tests_of_rows_exist(file):
    there = {node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)}
    assert set(TESTED[file].values()) <= there


def test_a_missing_extra_names_the_pip_line(monkeypatch):
    from jaxdreamer.envs.registry import make_env

    monkeypatch.setitem(sys.modules, "pygame", None)
    env = make_env(EnvConfig(obs="pixels"))
    with pytest.raises(MissingExtra, match=r"pip install 'jaxdreamer\[classic\]'"):
        env.reset(0)


def test_an_unsupported_space_names_its_key():
    import gymnasium

    env = CountingEnv()
    env.observation_space = gymnasium.spaces.Dict(
        {"pos": gymnasium.spaces.Box(-1, 1, (2,)), "says": gymnasium.spaces.Sequence(gymnasium.spaces.Discrete(5))}
    )
    with pytest.raises(SpaceError, match=r"says.*Sequence"):
        wrap(env)
