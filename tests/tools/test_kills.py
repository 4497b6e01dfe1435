"""The schedule of kills: a case that misses its target is no success, and every leftover is reported."""

import sys
from types import SimpleNamespace

import pytest

from tools import kills


@pytest.mark.parametrize(
    ("fates", "wrong", "status", "tries"),
    [
        (["killed"], [], 0, 1),
        (["missed", "killed"], [], 0, 2),
        (["missed", "missed"], [], 1, 2),
        (["missed"], ["other weights"], 1, 1),
        (["killed"], ["other weights"], 1, 1),
    ],
)
def test_a_case_that_hits_nothing_is_tried_once_more_and_is_no_success(monkeypatch, fates, wrong, status, tries):
    """The second attempt comes at an earlier moment."""
    tried = []

    def run_case(case, *given):
        tried.append(case.when)
        return fates[len(tried) - 1], wrong, 1.0

    monkeypatch.setattr(kills, "run_case", run_case)
    monkeypatch.setattr(kills, "undisturbed", lambda *given: SimpleNamespace(close=lambda keep: None))
    monkeypatch.setattr(sys, "argv", ["kills.py", "--count", "8", "--only", "1"])
    with pytest.raises(SystemExit) as ended:
        kills.main()
    assert (ended.value.code, len(tried)) == (status, tries)
    assert tried == sorted(tried, reverse=True)
    assert len(set(tried)) == tries


def test_what_is_left_behind_is_of_another_kind_than_the_twins(tmp_path):
    """Steps, process ids, hashes and random suffixes may differ between two runs that leave the same kinds of files."""
    trials = [SimpleNamespace(run=tmp_path / name / "run", folder=tmp_path / name) for name in ("one", "other")]
    left = [
        (["step_000000015/ema.safetensors", "identity.json"], ["pymp-jql4wcvq", "torchinductor_root", "tmp1a_bc2de"]),
        (["step_000000020/ema.safetensors", "identity.json"], ["pymp-0a1b2c3d", "torchinductor_root", "tmp9z8y7x6w"]),
    ]
    for trial, (files, names) in zip(trials, left, strict=True):
        for path in [*(trial.run / file for file in files), *(trial.folder / "tmp" / name / "x" for name in names)]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    one, twin = trials
    assert kills.run_files(one) == kills.run_files(twin)
    assert kills.temporary_files(one) == kills.temporary_files(twin)
    (one.run / "step_000000010").mkdir()
    (one.run / "unsent-0123456789abcdef0123456789abcdef").touch()
    (one.folder / "tmp" / "raysde-small-0123456789abcdef").mkdir()
    assert sorted((kills.run_files(one) - kills.run_files(twin)).elements()) == ["step_#", "unsent-#"]
    assert list(kills.temporary_files(one) - kills.temporary_files(twin)) == ["raysde-small-#"]


def test_a_third_of_the_cases_of_every_kind_has_two_workers():
    """Any 24 cases in a row have three of each kind, one of them with two workers."""
    cases = kills.schedule(96, 0)
    for start in range(0, 96, 24):
        block = [case for case in cases[start : start + 24] if case.workers == 2]
        assert sorted(case.kind for case in block) == sorted(kills.KINDS)
