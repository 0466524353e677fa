# SPDX-License-Identifier: Apache-2.0
import re

import pytest

from headrace_downstream.corpora import HERE
from headrace_downstream.settings import content_digest, read_config, settle


def at(config, path):
    for key in path.split("."):
        config = config[key]
    return config


# SUPERB as s3prl 0.4.18 runs it
SUPERB = {
    "asr": {
        "runner.total_steps": 200000,
        "runner.gradient_clipping": 1,
        "runner.gradient_accumulate_steps": 1,
        "runner.eval_step": 2000,
        "runner.eval_dataloaders": ["dev-clean"],
        "optimizer.torch_optim_name": "Adam",
        "optimizer.lr": 1e-4,
        "specaug.time_warp_window": 5,
        "specaug.num_time_mask": 2,
        "specaug.time_mask_width_range": [0, 40],
        "specaug.num_freq_mask": 4,
        "specaug.freq_mask_width_range": [0, 50],
        "downstream_expert.datarc.train": ["train-clean-100"],
        "downstream_expert.datarc.dev-clean": ["dev-clean"],
        "downstream_expert.datarc.test-clean": ["test-clean"],
        "downstream_expert.datarc.batch_size": 32,
        "downstream_expert.datarc.eval_batch_size": 1,
        "downstream_expert.datarc.zero_infinity": True,
        "downstream_expert.datarc.decoder_args.beam": 5,
        "downstream_expert.datarc.decoder_args.lm_weight": 2,
        "downstream_expert.datarc.decoder_args.word_score": -1,
        "downstream_expert.modelrc.project_dim": 1024,
        "downstream_expert.modelrc.RNNs.module": "LSTM",
        "downstream_expert.modelrc.RNNs.bidirection": True,
        "downstream_expert.modelrc.RNNs.dim": [1024, 1024],
        "downstream_expert.modelrc.RNNs.dropout": [0.2, 0.2],
        "downstream_expert.modelrc.RNNs.layer_norm": [False, False],
        "downstream_expert.modelrc.RNNs.proj": [False, False],
        "downstream_expert.modelrc.RNNs.sample_rate": [1, 1],
        "downstream_expert.modelrc.RNNs.total_rate": -1,
    },
    "emotion": {
        "runner.total_steps": 30000,
        "runner.gradient_clipping": 1,
        "runner.gradient_accumulate_steps": 8,
        "runner.eval_step": 1000,
        "optimizer.torch_optim_name": "Adam",
        "optimizer.lr": 1e-4,
        "downstream_expert.datarc.train_batch_size": 4,
        "downstream_expert.datarc.valid_ratio": 0.2,
        "downstream_expert.modelrc.projector_dim": 256,
        "downstream_expert.modelrc.select": "UtteranceLevel",
        "downstream_expert.modelrc.UtteranceLevel.pooling": "MeanPooling",
    },
}


@pytest.mark.parametrize(("task", "path"), [(task, path) for task, rows in SUPERB.items() for path in rows])
def test_the_default_configurations_are_superbs(task, path):
    assert at(read_config(HERE / task / "config.yaml"), path) == SUPERB[task][path]


def test_superbs_dictionary_has_28_symbols_in_s3prls_order():
    lines = (HERE / "asr" / "char.dict").read_text().splitlines()
    assert "".join(line.split()[0] for line in lines) == "|ETAONIHSRDLUMCWFGYPBVK'XJQZ"


@pytest.mark.parametrize("name", ["config_causal.yaml", "config_causal_tiny.yaml"])
def test_a_causal_head_differs_from_its_base_in_its_direction_only(name):
    causal = read_config(HERE / "asr" / name)
    base = read_config(HERE / "asr" / name.replace("causal_", "").replace("_causal", ""))
    rnns = causal["downstream_expert"]["modelrc"]["RNNs"]
    assert rnns["bidirection"] is False
    rnns["bidirection"] = True
    assert causal == base


@pytest.mark.parametrize(
    "path", sorted(HERE.glob("*/config*.yaml")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_every_configuration_keeps_a_whole_checkpoint_while_the_next_is_written(path):
    runner = read_config(path)["runner"]
    assert runner["max_keep"] >= 2
    assert runner["total_steps"] % runner["save_step"] == 0  # so that the last checkpoint is of the last step


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (None, "no such file; the ones here are .*config_tiny"),
        ("- a", "expected a mapping"),
        ("a: [", "not YAML"),
    ],
    ids=["missing", "a-list", "broken"],
)
def test_a_configuration_that_is_none_is_refused_in_one_line(tmp_path, text, line):
    if text is not None:
        (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=line) as refused:
        read_config(tmp_path / "c.yaml")
    assert "\n" not in str(refused.value)


def test_the_readme_shows_a_configuration_for_splits_of_other_names(tmp_path):
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```", readme, re.M | re.S)
    (tmp_path / "downstream").symlink_to(HERE)  # it stands in the checkout's root
    (tmp_path / "mine.yaml").write_text(block)
    config = read_config(tmp_path / "mine.yaml")
    datarc = config["downstream_expert"]["datarc"]
    assert [datarc[key] for key in ("train", "dev-clean", "test-clean")] == [["A"], ["B"], ["C"]]
    superb = read_config(HERE / "asr" / "config.yaml")
    assert datarc.keys() == superb["downstream_expert"]["datarc"].keys()
    assert config["optimizer"] == superb["optimizer"]


def test_a_folder_goes_on_with_its_own_settings_only(tmp_path):
    settle(tmp_path, {"upstream": "fbank", "config": {"optimizer": {"lr": 0.1}}})
    settle(tmp_path, {"upstream": "fbank", "config": {"optimizer": {"lr": 0.1}}})
    with pytest.raises(ValueError, match=r"started with config.optimizer.lr = 0.1, now 0.2 \(1 settings differ\)"):
        settle(tmp_path, {"upstream": "fbank", "config": {"optimizer": {"lr": 0.2}}})


def test_a_checkpoint_is_known_by_its_content(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_bytes(b"one")
    first = content_digest(str(folder))
    (folder / "weights").write_bytes(b"two")
    assert content_digest(str(folder)) != first
    assert content_digest(None) is None
    assert content_digest("https://example.org/model") == "https://example.org/model"
