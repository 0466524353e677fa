# SPDX-License-Identifier: Apache-2.0
"""Every way that an upstream is had: -k a folder or a file, a URL, torch.hub, a shared folder, s3prl's registry."""

import argparse
import io
import runpy
import shutil
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from headrace_upstream import hubconf
from headrace_upstream.expert import EncoderUpstream
from headrace_upstream.register import register

WAVS = [torch.linspace(-1, 1, 3000).sin(), torch.linspace(0, 9, 1234).cos()]


@pytest.fixture
def same(encoder):
    """Asserts that an upstream computes what the encoder does."""
    expected = EncoderUpstream(encoder)(WAVS)["last_hidden_state"]

    def check(upstream):
        torch.testing.assert_close(upstream(WAVS)["last_hidden_state"], expected)
        assert not upstream.training

    return check


@pytest.fixture(params=["fairseq .pt", "zip", "tar.gz", "tar of the folder's parent"])
def url(request, folder, fairseq_file, tmp_path):
    """A file:// URL of the encoder in each form that headrace_url takes."""
    packed = str(tmp_path / "packed")
    makers = {
        "fairseq .pt": lambda: shutil.copy(fairseq_file, packed + ".pt"),
        "zip": lambda: shutil.make_archive(packed, "zip", folder),
        "tar.gz": lambda: shutil.make_archive(packed, "gztar", folder),
        "tar of the folder's parent": lambda: shutil.make_archive(packed, "tar", folder.parent, folder.name),
    }
    return "file://" + makers[request.param]()


@pytest.mark.parametrize("form", ["folder", "fairseq_file"])
def test_headrace_local_takes_a_folder_or_a_fairseq_checkpoint(form, request, same):
    same(hubconf.headrace_local(str(request.getfixturevalue(form))))


def test_headrace_url_takes_a_checkpoint_or_a_packed_folder(url, cache, same):
    same(hubconf.headrace_url(url))
    assert [path.is_dir() for path in cache.iterdir()] == [True], "the cache holds the one entry, and nothing half-done"


def test_headrace_url_downloads_once_unless_asked_again(url, cache, same):
    hubconf.headrace_url(url)
    original = url.removeprefix("file://")
    shutil.move(original, original + ".moved")
    same(hubconf.headrace_url(url))
    with pytest.raises(OSError, match="could not be downloaded"):
        hubconf.headrace_url(url, refresh=True)
    same(hubconf.headrace_url(url))
    shutil.move(original + ".moved", original)
    same(hubconf.headrace_url(url, refresh=True))
    assert len(list(cache.iterdir())) == 1


def test_headrace_url_forgets_what_cannot_be_loaded(url, cache, same):
    path = Path(url.removeprefix("file://"))
    whole = path.read_bytes()
    for damaged in (b"<html>not found</html>", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"packed\."):
            hubconf.headrace_url(url)
        assert not list(cache.iterdir())
    path.write_bytes(whole)
    same(hubconf.headrace_url(url))


def test_headrace_url_keeps_a_good_download_when_a_model_configuration_is_refused(url, cache, same):
    with pytest.raises(ValueError, match=r"model_config \(-g\) must be left out"):
        hubconf.headrace_url(url, model_config="config.yaml")
    assert not cache.exists(), "nothing was downloaded for nothing"
    hubconf.headrace_url(url)
    original = url.removeprefix("file://")
    shutil.move(original, original + ".moved")
    with pytest.raises(ValueError, match=r"model_config \(-g\) must be left out"):
        hubconf.headrace_url(url, model_config="config.yaml", refresh=True)
    same(hubconf.headrace_url(url))


@pytest.mark.parametrize("ckpt", [None, "exp/llsa", "C:/llsa"])
def test_headrace_url_wants_a_url(ckpt, cache):
    with pytest.raises(ValueError, match=r"must be a URL.*headrace_local"):
        hubconf.headrace_url(ckpt)


def member(name, **fields):
    info = tarfile.TarInfo(name)
    for field, value in {"size": 4, **fields}.items():
        setattr(info, field, value)
    return info


@pytest.mark.parametrize(
    "members",
    [
        pytest.param([member("../../../escaped")], id="a name that climbs"),
        pytest.param([member("/headrace-escaped")], id="an absolute name"),
        pytest.param(
            [member("up", type=tarfile.SYMTYPE, linkname="../../..", size=0), member("up/escaped")], id="a link"
        ),
    ],
)
def test_an_archive_that_climbs_out_of_its_folder_is_refused(members, tmp_path, cache):
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as archive:
        for each in members:
            archive.addfile(each, io.BytesIO(b"evil"[: each.size]))
    with pytest.raises(ValueError, match="damaged archive"):
        hubconf.headrace_url(f"file://{path}")
    assert not list(tmp_path.rglob("escaped"))
    assert not Path("/headrace-escaped").exists()


@pytest.mark.parametrize("folders", [[], ["a", "b"]], ids=["none", "two"])
def test_an_archive_without_exactly_one_portable_folder_is_refused(folders, folder, tmp_path, cache):
    (tmp_path / "pack").mkdir()
    for name in folders:
        shutil.copytree(folder, tmp_path / "pack" / name)
    archive = shutil.make_archive(str(tmp_path / "packed"), "tar", tmp_path / "pack")
    with pytest.raises(ValueError, match=f"got {len(folders)} files named config.json"):
        hubconf.headrace_url(f"file://{archive}")
    assert not list(cache.iterdir())


def test_torch_hub_loads_from_the_checkout(repository, folder, same):
    same(torch.hub.load(str(repository), "headrace_local", ckpt=str(folder), source="local"))


def test_the_checkout_offers_every_entry_to_torch_hub(repository):
    public = runpy.run_path(str(repository / "hubconf.py"))
    assert {name: public[name] for name in public["__all__"]} == hubconf.ENTRIES


def test_torch_hub_loads_a_portable_folder_by_itself(folder, same):
    same(torch.hub.load(str(folder), "headrace_local", source="local"))


@pytest.mark.s3prl
def test_register_puts_every_entry_on_s3prls_hub(s3prl_module):
    hub = s3prl_module("s3prl.hub")
    register()
    register()
    assert {name: getattr(hub, name) for name in hubconf.ENTRIES} == hubconf.ENTRIES
    assert set(hubconf.ENTRIES) <= set(hub.options())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ModuleNotFoundError("no s3prl", name="s3prl"), r"pip install '\.\[s3prl\]' in headrace's checkout"),
        (OSError("libc10_cuda.so"), "libc10_cuda.so.*torchaudio < 2.9.*compat.install"),
    ],
    ids=["not installed", "torchaudio does not load"],
)
def test_register_says_why_s3prl_does_not_import(monkeypatch, error, reason):
    def fail(name):
        raise error

    monkeypatch.setattr("headrace_upstream.register.importlib.import_module", fail)
    with pytest.raises(ImportError, match=reason):
        register()


def runner_upstream(s3prl_module, **options):
    """The upstream as s3prl's runner builds it from the options of run_downstream."""
    runner_class = s3prl_module("s3prl.downstream.runner").Runner
    defaults = {"upstream": "headrace_local", "upstream_ckpt": None, "upstream_model_name": "model.pt", "device": "cpu"}
    unset = dict.fromkeys(["upstream_model_config", "upstream_refresh", "upstream_trainable", "upstream_revision"])
    runner = runner_class.__new__(runner_class)
    runner.args, runner.init_ckpt = argparse.Namespace(**{**defaults, **unset, **options}), {}
    return runner._get_upstream().model


@pytest.mark.s3prl
@pytest.mark.parametrize("form", ["folder", "fairseq_file"])
def test_the_runner_builds_headrace_local(form, request, s3prl_module, same):
    s3prl_module("s3prl.hub")
    register()
    same(runner_upstream(s3prl_module, upstream_ckpt=str(request.getfixturevalue(form))))


@pytest.mark.s3prl
def test_the_runner_builds_headrace_url(url, s3prl_module, cache, same):
    s3prl_module("s3prl.hub")
    register()
    same(runner_upstream(s3prl_module, upstream="headrace_url", upstream_ckpt=url, upstream_refresh=True))


@pytest.mark.s3prl
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the runner leaves requirements.txt open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_runner_builds_a_folder_shared_on_the_model_hub(folder, s3prl_module, monkeypatch, same):
    """run_downstream --hub huggingface: the snapshot's own expert.py is imported."""
    s3prl_module("s3prl.downstream.runner")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **kwargs: str(folder))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "expert", raising=False)
    same(runner_upstream(s3prl_module, upstream="team/llsa-small", from_hf_hub=True))
    sys.modules.pop("expert")
