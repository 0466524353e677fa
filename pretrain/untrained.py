#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The untrained twin of a pretraining: the encoder that its configuration describes, with random weights.

python pretrain/untrained.py FOLDER CONFIG --seed 1 [KEY=VALUE ...]
python pretrain/untrained.py FOLDER CONFIG --seed 1 --data MANIFESTS model.frontend=log_mel [KEY=VALUE ...]

CONFIG is a file in pretrain/configs, KEY=VALUE as for fairseq-hydra-train. FOLDER becomes a portable folder; the
weights are those of `headrace export CHECKPOINT FOLDER --untrained SEED` of any checkpoint of that pretraining.
log_mel normalises by statistics of the corpus: MANIFESTS is what the pretraining has as task.data, and the statistics
are then those of the pretraining.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.utils import merge_with_parent
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

PRETRAIN = Path(__file__).resolve().parent
sys.path[:0] = [str(PRETRAIN), str(PRETRAIN.parent)]

from headrace import EncoderConfig, checkpoint  # noqa: E402
from headrace.export import provenance_of_untrained, untrained  # noqa: E402
from headrace_fairseq.config import HeadraceHubertConfig, HeadraceWav2Vec2Config, encoder_config  # noqa: E402
from headrace_fairseq.mel_statistics import measure  # noqa: E402
from headrace_pretraining.shape import CONFIGS  # noqa: E402

MODELS = {"headrace_wav2vec2": HeadraceWav2Vec2Config, "headrace_hubert": HeadraceHubertConfig}


def config_of(name: str, overrides: list[str]) -> tuple[EncoderConfig, str, int]:
    """The encoder of a configuration, composed as fairseq-hydra-train composes it; its training split, its seed.

    Raises:
        ValueError: there is no such configuration, an override does not fit, or a value is not built.
    """
    if not (CONFIGS / f"{name}.yaml").is_file():
        known = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.yaml")))
        raise ValueError(f"CONFIG: there is no {name!r} in pretrain/configs; there are {known}")
    ConfigStore.instance().store(name=name, node=FairseqConfig)
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.1"):
            cfg = compose(name, overrides)
        if OmegaConf.is_missing(cfg.task, "label_rate"):  # says nothing of the encoder
            cfg.task.label_rate = 50.0
        encoder = encoder_config(merge_with_parent(MODELS[cfg.model._name](), cfg.model))
        return encoder, cfg.dataset.train_subset, cfg.common.seed
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(f"{name}: {str(error).splitlines()[0]}") from None


def main(arguments: list[str] | None = None) -> int:
    """0 when it worked, 2 with one line when it could not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--seed", type=int, default=1, help="of the weights (default %(default)s)")
    parser.add_argument("--data", type=Path, metavar="MANIFESTS", help="for log_mel: the folder of train.tsv")
    options = parser.parse_intermixed_args(arguments)
    try:
        config, split, seed = config_of(options.config, options.overrides)
        provenance = {**provenance_of_untrained(options.seed), "configuration": options.config}
        encoder = untrained(config, options.seed)
        if config.frontend == "log_mel":
            if options.data is None:
                raise ValueError(
                    "--data: expected the folder of manifests that the pretraining has as task.data, got none: "
                    "frontend=log_mel normalises by statistics of the corpus."
                )
            measure(encoder, options.data, split, seed)
        checkpoint.save(encoder, options.folder, provenance)
    except (ValueError, OSError) as error:
        print(f"untrained.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
