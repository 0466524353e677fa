# SPDX-License-Identifier: Apache-2.0
"""Label files as fairseq reads them, with a note beside each that says what they were made of.

<split>_<rank>_<nshard>.km        a line of cluster numbers for each utterance of a part
<split>_<rank>_<nshard>.km.note   SHA-256 of the manifest's rows, features, SHA-256 of the clusters; only the last where
                                  fairseq dumped the features. join_parts asks for it; a part of fairseq's has none
<split>.km                        all parts
<split>.km.json                   the note: manifest, k-means model, rate (headrace_fairseq/labels.py asks for it)
dict.km.txt                       "number 1" for each cluster
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from headrace.checkpoint.files import written_whole
from headrace_labels.audio import read_audio
from headrace_labels.clusters import Clusters
from headrace_labels.features import Features
from headrace_labels.note import Note, write_note
from headrace_labels.shards import Manifest, Shard


def write_part(utterances: Iterable[np.ndarray], clusters: Clusters, path: Path, made_of: str | None = None) -> None:
    """Label the frames [T, dim] of each utterance; the file appears whole, with a note beside it.

    Args:
        made_of: of which manifest and features the frames are (``FeatureFile.made_of``); None where nobody knows.
    """
    _begin_part(path, " ".join(filter(None, [made_of, clusters.digest])) + "\n")
    with written_whole(path) as partial, partial.open("w", encoding="utf-8") as file:
        for frames in utterances:
            file.write(_line(frames, clusters))


def label_audio(manifest: Manifest, shard: Shard, features: Features, clusters: Clusters, folder: Path) -> None:
    """Label a part of a manifest straight from its audio; returns at once where the labels are.

    Killed, the same call goes on after the last whole line, unless manifest, features or clusters are others.

    Raises:
        ValueError: audio that cannot be used; names the file.
        OSError: the disk is full; the same call goes on when there is room.
    """
    path, key = folder / f"{shard.stem}.km", f"{manifest.rows} {features.key} {clusters.digest}\n"
    begun = _begun(path)
    _begin_part(path, key)
    if path.is_file():
        print(f"{path} is there: nothing to do", flush=True)
        return
    indices, done = shard.indices(len(manifest)), _keep_whole_lines(begun)
    with begun.open("a", encoding="utf-8") as file:
        bar = tqdm(indices[done:], initial=done, total=len(indices), desc=f"labels of {shard.split}", unit="utterance")
        for index in bar:
            samples = read_audio(manifest.audio(index), manifest.num_samples[index])
            file.write(_line(features(samples), clusters))
            file.flush()
        os.fsync(file.fileno())
    os.replace(begun, path)


def _begin_part(path: Path, key: str) -> None:
    """Note what a part will be made of. Labels of anything else go first: a kill never leaves them beside this note."""
    note = _part_note(path)
    if note.is_file() and note.read_text() == key:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    _begun(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    with written_whole(note) as partial:
        partial.write_text(key)


def _begun(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


def _part_note(path: Path) -> Path:
    return path.with_name(f"{path.name}.note")


def _line(frames: np.ndarray, clusters: Clusters) -> str:
    labels, _ = clusters.nearest(torch.from_numpy(frames).to(clusters.centroids.device))
    return " ".join(map(str, labels.tolist())) + "\n"


def _keep_whole_lines(path: Path) -> int:
    """Cut off what a kill left of a line; the number of lines that stay."""
    if not path.is_file():
        return 0
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    os.truncate(path, len(whole))
    return whole.count(b"\n")


def join_parts(folder: Path, split: str, nshard: int, manifest: Manifest, note: Note) -> None:
    """Put the parts of a split into one file, and write its note and the dictionary.

    Parts without a note are joined too, and counted in what is printed: fairseq's dump_km_label.py writes none.

    Raises:
        ValueError: a part is missing, has another number of lines than its part of the manifest, or was labelled with
            another k-means model or for another manifest.
    """
    label, without_note = folder / f"{split}.km", 0
    with written_whole(label) as partial, partial.open("w", encoding="utf-8") as file:
        for rank in range(nshard):
            shard = Shard(split, nshard, rank)
            path, expected = folder / f"{shard.stem}.km", len(shard.indices(len(manifest)))
            if not path.is_file():
                raise ValueError(f"{path} is not there: part {rank} of {nshard} was not labelled; label it, then join.")
            without_note += not _is_noted(path, note)
            count = 0
            for line in _lines(path):
                file.write(line)
                count += 1
            if count != expected:
                raise ValueError(
                    f"{path} has {count} lines, its part of {manifest.path} has {expected}: it was made for another "
                    "manifest or cut short. Remove it and label the part again."
                )
    write_dictionary(folder / "dict.km.txt", note.num_clusters)
    write_note(label, note)
    told = f"; {without_note} of {nshard} parts without a note of their k-means model, taken as they are"
    print(f"{label}: {len(manifest)} utterances{told if without_note else ''}", flush=True)


def _is_noted(path: Path, note: Note) -> bool:
    """Whether a part has a note; it must then name the k-means model and, if it names one, the manifest of ``note``."""
    part_note = _part_note(path)
    if not part_note.is_file():
        return False
    made_of = part_note.read_text().split()
    wrong = None
    if made_of[-1:] != [note.kmeans]:
        wrong = "with another k-means model"
    elif len(made_of) > 1 and made_of[0] != note.manifest_rows:
        wrong = "for another manifest"
    if wrong:
        raise ValueError(
            f"{path} was labelled {wrong} than the one to join for, says {part_note.name}: its job failed or did not "
            "run since. Label the part again, then join."
        )
    return True


def write_dictionary(path: Path, num_clusters: int) -> None:
    """The clusters' names, which fairseq takes for words, each seen once."""
    with written_whole(path) as partial:
        partial.write_text("".join(f"{number} 1\n" for number in range(num_clusters)), encoding="utf-8")


def read_labels(path: Path) -> list[np.ndarray]:
    """The cluster numbers [T] int64 of each utterance."""
    return [np.array(line.split(), dtype=np.int64) for line in _lines(path)]


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        yield from file
