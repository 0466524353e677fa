# SPDX-License-Identifier: Apache-2.0
"""The library runs with torch, numpy, soundfile and safetensors alone."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

THE_FOUR = ("torch", "numpy", "soundfile", "safetensors")
USE = """
import sys, torch, headrace
import headrace.cli

config = headrace.EncoderConfig(
    mixer="llsa", look_ahead=2, look_back=6, num_layers=2, embed_dim=16, ffn_dim=32, num_heads=2,
    conv_layers=[[16, 10, 5], [16, 8, 8], [16, 8, 8]],
)
torch.manual_seed(0)
encoder = headrace.SpeechEncoder(config).eval()
waveforms = torch.randn(2, 8000)
num_samples = torch.tensor([8000, 5000])
with torch.no_grad():
    before = encoder(waveforms, num_samples)
headrace.checkpoint.save(encoder, sys.argv[1], provenance={"objective": "none"})
with torch.no_grad():
    after = headrace.load(sys.argv[1])(waveforms, num_samples)
assert len(before.hidden_states) == 3 and before.hidden_states[-1].isfinite().all()
assert all(torch.equal(a, b) for a, b in zip(before.hidden_states, after.hidden_states))
print("the library runs alone")
"""


def distributions_needed_by(names: tuple[str, ...]) -> dict[str, importlib.metadata.Distribution]:
    """The named distributions and all that they declare to need, by normalised name."""
    needed: dict[str, importlib.metadata.Distribution] = {}
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in needed:
            continue
        needed[name] = importlib.metadata.distribution(name)
        requirements = map(Requirement, needed[name].requires or [])
        waiting += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return needed


def link_distributions(folder: Path, names: tuple[str, ...]) -> None:
    """Make ``folder`` a site-packages that holds only the named distributions and what they need."""
    for distribution in distributions_needed_by(names).values():
        for top in {Path(file).parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            link = folder / top
            if not link.exists():
                link.symlink_to(Path(distribution.locate_file(top)).resolve())


@pytest.fixture
def site_of_the_four(tmp_path, repository) -> Path:
    site = tmp_path / "site"
    site.mkdir()
    link_distributions(site, THE_FOUR)
    (site / "headrace").symlink_to(repository / "headrace")
    return site


def run_alone(site: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that sees the standard library and ``site``, and nothing else."""
    start = f"import sys; sys.path.append({str(site)!r})\n"
    command = [sys.executable, "-I", "-S", "-W", "error", "-c", start + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_imports_runs_saves_and_loads_with_the_four_alone(site_of_the_four, tmp_path):
    done = run_alone(site_of_the_four, USE, str(tmp_path / "portable"))
    assert (done.returncode, done.stdout) == (0, "the library runs alone\n"), done.stderr
    assert (tmp_path / "portable" / "model.safetensors").is_file()


@pytest.mark.parametrize("package", ["fairseq", "s3prl", "hydra", "omegaconf", "transformers", "tqdm", "yaml"])
def test_the_rest_is_really_out_of_sight(site_of_the_four, package):
    done = run_alone(site_of_the_four, f"import {package}")
    assert f"No module named '{package}'" in done.stderr


@pytest.mark.slow
def test_the_wheel_runs_in_a_fresh_environment_with_the_four_alone(tmp_path, repository):
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    pins = re.findall(r"^([\w.-]+)(==\S+)", (repository / "requirements.lock").read_text(), re.M)
    lines = {re.sub(r"[-_.]+", "-", name).lower(): name + version for name, version in pins}
    wanted = [lines[name] for name in distributions_needed_by(THE_FOUR)]
    pip = [environment / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, *wanted], check=True)
    wheels = tmp_path / "wheels"
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", wheels]
    subprocess.run([*build, repository], check=True)
    subprocess.run([*pip, *wheels.glob("headrace-*.whl")], check=True)
    python = [environment / "bin" / "python", "-I", "-c", USE, tmp_path / "portable"]
    done = subprocess.run(python, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (0, "the library runs alone\n"), done.stderr
