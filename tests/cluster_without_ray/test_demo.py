"""The demo without its cluster."""

import time
from types import SimpleNamespace

import pytest

from raysde.cluster import demo
from raysde.io.errors import Interrupted


@pytest.mark.parametrize("cause", [KeyboardInterrupt(), SystemExit(15)])
def test_an_interrupted_demo_does_not_promise_to_go_on(tmp_path, monkeypatch, cause):
    """The same command deletes the checkpoints of an earlier demo; the cause decides the exit status."""

    def train(*_, **__):
        raise Interrupted("run 'digits' was interrupted; the same command goes on from step 260") from cause

    monkeypatch.setattr(demo, "ingest", lambda *_, **__: SimpleNamespace(rows=1797))
    monkeypatch.setattr(demo, "train_job", train)
    with pytest.raises(Interrupted, match=r"^the demo was interrupted; the same command starts it again$") as caught:
        demo.demo_job("digits", tmp_path / "demo", [], started=time.time())
    assert caught.value.__cause__ is cause
