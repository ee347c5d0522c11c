"""Mistakes on the command line: one message, no traceback, before any work."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from research.config import experiments, overrides
from research.errors import USAGE_ERROR, UserError

ROOT = pathlib.Path(__file__).parents[3]
PROGRAM = """
from research.config import command_line
from research.errors import UserError

def define_flags():
    command_line.define_config()

def main(given):
    seed = given.config.train.seed
    if seed == 7:
        raise UserError("seven is not allowed")
    if seed == 8:
        raise OSError(28, "No space left on device")
    if seed == 9:
        raise RuntimeError("a bug")
    print("seed", seed, "rate", given.config.optimizer.learning_rate)

command_line.run(main, define_flags)
"""


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


BASE = "--config=experiments/base.py"
MISTAKES = {
    "a mistyped field": (
        [BASE, "--config.optimizer.learning_rat=1"],
        "config.optimizer has no field 'learning_rat'. Did you mean learning_rate",
    ),
    "a field of another section": (
        [BASE, "--config.train.tokenizer=1"],
        "There is config.data.tokenizer.",
    ),
    "a field of a value": (
        [BASE, "--config.train.seed.x=1"],
        "config.train.seed is a value, not a section",
    ),
    "a value of the wrong type": (
        [BASE, "--config.optimizer.learning_rate=fast"],
        "could not convert string to float: 'fast'",
    ),
    "a number that is not written as a whole one": (
        [BASE, "--config.train.num_train_steps=1e4"],
        "config.train.num_train_steps = 1e4: must be a whole number, such as 10000.",
    ),
    "a fraction of what is whole": (
        [BASE, "--config.train.num_train_steps", "1.5"],
        "config.train.num_train_steps = 1.5: must be a whole number.",
    ),
    "a value for a section": (
        [BASE, "--config.train=abc"],
        "config.train is a section: set a field of it, such as --config.train.batch_size=",
    ),
    "an element that is not there": (
        ["--config=experiments/masked_lm.py", "--config.objective.name[7]=x"],
        "config.objective.name has 1 elements: there is no [7].",
    ),
    "an argument that is no flag": ([BASE, "stray"], "unknown arguments: stray. All"),
    "a folder": (
        ["--config=experiments"],
        "experiments is a folder, no experiment. Available in experiments: bart_base",
    ),
    "an argument that is not taken": (
        [f"{BASE}:foo"],
        "takes nothing after a colon: --config=experiments/base.py.",
    ),
    "what experiments begin with": (
        ["--config=experiments/presets.py"],
        "has no get_config(), so it is no experiment. Available in experiments:",
    ),
    "an unknown flag": ([BASE, "--confg=1"], "Unknown command line flag 'confg'"),
    "an unknown experiment": (
        ["--config=experiments/sapnbert.py"],
        "there is no experiment 'experiments/sapnbert.py'. Did you mean spanbert",
    ),
    "a mistake of the user's": ([BASE, "--config.train.seed=7"], "seven is not"),
    "a flag file that is not there": (["--flagfile=none"], "No such file or directory"),
    "a full disk": ([BASE, "--config.train.seed=8"], "No space left on device"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_readable_message(mistake):
    arguments, words = MISTAKES[mistake]
    result = run(*arguments)
    assert result.returncode == USAGE_ERROR
    assert result.stderr.startswith("error: ")
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.strip().count("\n") == 0


def test_bugs_keep_their_traceback():
    result = run(BASE, "--config.train.seed=9")
    assert result.returncode != 0
    assert "RuntimeError: a bug" in result.stderr
    assert "Traceback" in result.stderr


def test_verbosity_shows_the_traceback_of_a_mistake():
    result = run(BASE, "--config.train.seed=7", "--verbosity=1")
    assert "Traceback" in result.stderr
    assert "error: seven is not allowed" in result.stderr


def test_overrides_arrive(tmp_path):
    more = tmp_path / "flags"
    more.write_text("--config=masked_lm\n--config.train.seed=3\n")
    result = run(f"--flagfile={more}", "--config.optimizer.learning_rate=0.5")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "seed 3 rate 0.5\n"


def test_a_broken_experiment_is_named(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("def get_config():\n    return undefined\n")
    with pytest.raises(UserError, match="broken.py: NameError: name 'undefined'"):
        experiments.load_config(str(path))


def test_an_argument_after_a_colon_reaches_get_config(tmp_path):
    path = tmp_path / "with_argument.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(argument='none'):\n    return ConfigDict({'size': argument})\n"
    )
    assert experiments.load_config(f"{path}:small").size == "small"
    assert experiments.load_config(str(path)).size == "none"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "def get_config():\n    config = 1\n",
            "returned None, and must return a Config",
        ),
        (
            "def get_config(size):\n    return size\n",
            "needs an option: --config=.*:OPTION",
        ),
        ("get_config = 3\n", r"has no get_config\(\), so it is no experiment"),
    ],
)
def test_a_file_that_gives_no_config_is_refused(tmp_path, text, words):
    path = tmp_path / "experiment.py"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        experiments.load_config(str(path))


def test_what_experiments_begin_with_is_not_offered():
    with pytest.raises(UserError) as error:
        experiments.load_config("experiments/nothing.py")
    offered = str(error.value).partition("Available in")[2]
    assert "compare_small" in offered
    assert not {"base", "comparison_base", "presets"} & set(offered.split(", "))


def test_a_whole_section_may_be_given_as_a_dict():
    config = experiments.load_config("experiments/base.py")
    argv = ["program", "--config.train={'seed': 3}", "--config.train.seed=0x10"]
    assert overrides.problems(config, argv, "config") == []


def command(name: str, *arguments: str, cwd=ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", f"research{name}", *arguments],
        check=False,
        cwd=cwd,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
    )


def test_experiments_go_by_name_and_a_file_of_the_users_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = str(experiments.FOLDER / "masked_lm.py")
    for name in ("masked_lm", "masked_lm.py", "experiments/masked_lm.py"):
        assert experiments.resolve(name) == shipped
    assert experiments.resolve("compare_small:blimp").endswith("compare_small.py:blimp")
    assert experiments.resolve("nothing") == "nothing"
    own = tmp_path / "experiments" / "masked_lm.py"
    own.parent.mkdir()
    own.write_text("def get_config(): pass")
    for name in ("masked_lm", "experiments/masked_lm.py"):
        assert experiments.resolve(name) == "experiments/masked_lm.py"
    (tmp_path / "masked_lm.py").write_text("def get_config(): pass")
    assert experiments.resolve("masked_lm") == "masked_lm.py"
    (tmp_path / "causal_lm").mkdir()  # a workdir, perhaps
    assert experiments.resolve("causal_lm") == str(experiments.FOLDER / "causal_lm.py")


def test_folders_of_the_users_hide_none_of_ours(tmp_path):
    for name in ("models", "experiments"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "experiments/mine.py").write_text(
        '"""My own run."""\n'
        "from experiments import causal_lm\n"
        "def get_config():\n    return causal_lm.get_config()\n"
    )
    shown = command("", "preview", "--config=mine", "--print_config", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["model"]["architecture"] == "decoder"
    listed = command(".preview", "--list", cwd=tmp_path).stdout
    assert re.search(r"^  mine +My own run\.$", listed, re.MULTILINE)
    assert "  compare_small  " in listed
    refused = command(".preview", "--config=min", cwd=tmp_path)
    assert "Did you mean mine? Available in experiments: mine." in refused.stderr
    assert "bert_base" in refused.stderr


def test_the_index_names_every_command():
    entry_points = {p.stem for p in (ROOT / "research").glob("[a-z]*.py")} - {"errors"}
    for arguments in ((), ("--help",)):
        shown = command("", *arguments)
        assert shown.returncode == 0
        named = {
            line.split()[0] for line in shown.stdout.splitlines() if line[:2] == "  "
        }
        assert named == entry_points
    refused = command("", "pretrian")
    assert (
        refused.returncode == USAGE_ERROR and "Did you mean pretrain" in refused.stderr
    )


def test_flags_that_a_command_needs_are_named_together():
    result = command(".squad", "--config=experiments/squad.py")
    assert result.returncode == USAGE_ERROR
    assert (
        "error: give --config=squad, --checkpoint=WORKDIR_OF_A_RUN and "
        "--workdir=FOLDER_FOR_RESULTS." in result.stderr
    )


def test_a_command_lists_its_own_flags_and_none_of_others():
    result = command(".compare", "--help")
    assert result.returncode == 0
    assert "--config:" in result.stdout and "--workdir:" in result.stdout
    assert "profile_steps" not in result.stdout
