"""Checkpoints explain themselves, are verified, and hold no pickle."""

import json
import os
import shutil
from pathlib import Path
from random import Random

import pytest
import torch

from raysde.checkpoints import checkpoint, description, storage
from raysde.checkpoints.retention import Retention
from raysde.cli import main
from raysde.config import loading
from raysde.runs.local import train_here
from raysde.runs.run import open_run
from tests.support.checkpoints import description_of, write_model
from tests.support.encoders import text_encoder
from tests.support.training import same_tensors, small_recipe


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """Return a run of three steps: its state and its last checkpoint."""
    storage = tmp_path_factory.mktemp("runs")
    tree = small_recipe(digits, storage, train__length__steps=3, train__lr=3e-2, checkpoint_every=1)
    state = train_here(open_run(loading.parse_recipe(tree)), None)
    return state, storage / "small" / checkpoint.checkpoint_name(3)


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained[1], tmp_path / "step_000000003"))


def test_the_folder_is_enough(trained, folder):
    """A model loaded from the folder alone has the averaged model's score, bit for bit."""
    state, _ = trained
    model = checkpoint.load_model(folder)
    prompts = ["a handwritten zero", "the digit one", ""]
    x, t = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.2, 0.5, 0.9])
    with torch.no_grad(), state.ema.swap_weights():
        live = state.model.eval()
        expected = live.score(x, t, live.conditioner(live.conditioner.condition(prompts, None, 3)))
        got = model.conditioned(prompts, None, 3, 1.0).score(x, t)
    assert torch.equal(got, expected)


def test_a_loaded_model_neither_drops_nor_learns(folder):
    model = checkpoint.load_model(folder).score_model
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_an_export_samples_alike_and_cannot_be_resumed(trained, folder, tmp_path):
    checkpoint.export_checkpoint(folder, tmp_path / "export")
    one, two = (
        checkpoint.load_model(path).sample(prompts=["two"] * 2, steps=3).images
        for path in (folder, tmp_path / "export")
    )
    assert torch.equal(one, two)
    assert not (tmp_path / "export" / "optimizer.safetensors").exists()
    with pytest.raises(ValueError, match=r"without weights\.safetensors"):
        checkpoint.restore_state(trained[0], tmp_path / "export")


def test_an_export_leaves_out_what_a_registry_wrote_beside_the_model(folder, tmp_path):
    """MLflow's MLmodel and registered_model_meta describe the downloaded version, not its copy."""
    shutil.copytree(folder, tmp_path / "downloaded")
    for name in ("MLmodel", "registered_model_meta"):
        (tmp_path / "downloaded" / name).write_text("model_name: digits")
    for name in ("downloaded", "plain"):
        checkpoint.export_checkpoint(folder if name == "plain" else tmp_path / name, tmp_path / f"{name}-export")
    one, other = ({path.name for path in (tmp_path / f"{name}-export").iterdir()} for name in ("downloaded", "plain"))
    assert one == other


def test_only_safetensors_json_and_text(folder):
    kinds = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert kinds <= {".safetensors", ".json", ".txt"}


def rewrite(folder, **changes):
    with description_of(folder) as content:
        content.update(changes)


MALFORMED = [b"", b"null", b"[]", b"7", b'"x"', b"{}", b"\xff\xfe", b"\x00" * 512, b"[" * 100_000, b'{"format": 2, "format": 2}',
             b'{"format": 2}', b"9" * 5000]  # fmt: skip
MISSHAPEN = [
    ("state", None, "state is not a mapping"),
    ("state", {}, "state.step"),
    ("state", {"step": "3"}, "state.step"),
    ("state", {"step": -1}, "state.step"),
    ("state", {"step": True}, "state.step"),
    ("state", {"step": 1.5}, "state.step"),
    ("files", ["ema.safetensors"], "files is not a mapping"),
    ("files", {"ema.safetensors": 5}, "a value of files is not a hash"),
    ("bytes", [3], "sizes is not a mapping"),
    ("bytes", {"ema.safetensors": None}, "a value of bytes is not a size"),
    ("recipe", "small", "recipe is not a mapping"),
    ("data", 3, "data is not a mapping"),
    ("versions", None, "versions is not a mapping"),
    ("model", None, "invalid"),
    ("model", [1, 2], "invalid"),
    ("model", {"sde": 3}, "invalid"),
]


def flip_byte(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("harm", "culprit"),
    [
        (lambda f: flip_byte(f / "ema.safetensors"), "ema.safetensors.*sha256"),
        (lambda f: (f / "ema.safetensors").unlink(), "lacks ema.safetensors"),
        (lambda f: (f / "weights.safetensors").write_bytes(b""), "weights.safetensors in checkpoint .* has 0 bytes"),
        (lambda f: os.truncate(f / "ema.safetensors", 99), "ema.safetensors .* has 99 bytes instead of"),
        (lambda f: (f / "checkpoint.json").unlink(), "holds no checkpoint.json"),
        (lambda f: (f / "checkpoint.json").write_text("{"), "not valid JSON"),
        (lambda f: rewrite(f, format=9), "has format 9; this version of raysde reads only format 2"),
        (lambda f: rewrite(f, model={"sde": {"kind": "vp"}}), "description is invalid"),
        (lambda f: rewrite(f, files={"../../etc/passwd": "0"}), "outside itself"),
        (lambda f: rewrite(f, files={"/etc/passwd": "0"}), "outside itself"),
        *((lambda f, text=text: (f / "checkpoint.json").write_bytes(text), "checkpoint.json") for text in MALFORMED),
        *((lambda f, key=key, value=value: rewrite(f, **{key: value}), culprit) for key, value, culprit in MISSHAPEN),
    ],
)
def test_damage_is_named(folder, harm, culprit):
    """Any damage by a disk, a copy or an editor gives one sentence, and the checkpoint is not whole.

    A file of the right size is compared with its hash when it is read.
    """
    harm(folder)
    with pytest.raises(ValueError, match=culprit):
        checkpoint.load_model(folder)
    assert checkpoint.is_complete_checkpoint(folder) == ("sha256" in culprit and "ema" in culprit)


@pytest.mark.parametrize("seed", range(20))
def test_no_change_of_the_description_passes(folder, seed):
    """Any change of a digit, a letter or a cut at any place changes the hash."""
    path = folder / "checkpoint.json"
    random, text = Random(seed), path.read_text()
    for _ in range(40):
        place = random.randrange(len(text))
        harmed = random.choice([text[:place], text[:place] + chr(33 + random.randrange(94)) + text[place + 1 :]])
        path.write_text(harmed)
        try:
            same = json.loads(harmed) == json.loads(text)
        except ValueError:
            same = False
        assert checkpoint.is_complete_checkpoint(folder) == same


def test_only_what_is_read_is_compared(trained, folder):
    """Damaged optimizer state prevents resuming but not sampling."""
    flip_byte(folder / "optimizer.safetensors")
    assert checkpoint.load_model(folder).spec == checkpoint.read_description(folder).spec
    with pytest.raises(ValueError, match=r"optimizer\.safetensors in checkpoint .* sha256"):
        checkpoint.restore_state(trained[0], folder)


def test_a_description_that_lists_sizes_has_a_hash_of_its_own(folder):
    """A description with sizes but no own hash is refused, since nothing would protect it."""
    content = json.loads((folder / "checkpoint.json").read_text())
    del content["sha256"]
    content["state"]["step"] = 4
    (folder / "checkpoint.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="lacks its own sha256"):
        checkpoint.read_description(folder)
    assert not checkpoint.is_complete_checkpoint(folder)


@pytest.mark.parametrize("size", ["bytes", "nothing"])
def test_a_checkpoint_from_before_sizes_were_listed(folder, size):
    """A checkpoint without sizes still loads, and its hashes decide if it is whole."""
    content = json.loads((folder / "checkpoint.json").read_text())
    for key in ("bytes", "sha256"):
        del content[key]
    (folder / "checkpoint.json").write_text(json.dumps(content, indent=1) + "\n")
    assert checkpoint.is_complete_checkpoint(folder)
    assert checkpoint.load_model(folder).sample(prompts=["two"], steps=2).images.shape == (1, 1, 8, 8)
    flip_byte(folder / "weights.safetensors") if size == "bytes" else os.truncate(folder / "weights.safetensors", 80)
    assert not checkpoint.is_complete_checkpoint(folder)


def test_whatever_lies_in_the_folder_the_newest_is_the_whole_one_of_the_highest_step(trained, tmp_path):
    """The whole checkpoint with the highest step number is newest; other folders, files and copies are ignored."""
    runs = Path(shutil.copytree(trained[1].parent, tmp_path / "runs"))
    for step in (999_999_999, 1_000_000_000):
        shutil.copytree(trained[1], runs / checkpoint.checkpoint_name(step))
        with description_of(runs / checkpoint.checkpoint_name(step)) as content:
            content["state"]["step"] = step
    shutil.copytree(trained[1], runs / "step_2000000000")
    shutil.copytree(runs / "step_1000000000", runs / "step_1000000000.copy")
    for name in ("step_3000000000", "step_final", "notes"):
        (runs / name).mkdir()
    (runs / "step_4000000000").touch()
    (runs / "step_5000000000").symlink_to(runs / "nowhere")
    said = []
    assert checkpoint.find_newest_checkpoint(runs, said.append).name == "step_1000000000"
    assert len(said) == 1
    assert "step_3000000000" in said[0]


@pytest.mark.parametrize("harm", ["folder", "nowhere", "itself", "memory", "refused", "tensors"])
def test_a_checkpoint_that_cannot_be_read_is_passed_over(trained, tmp_path, monkeypatch, harm):
    """An unreadable folder, broken link, failing disk, missing permission or damaged tensors are passed over alike."""
    runs = Path(shutil.copytree(trained[1].parent, tmp_path / "runs"))
    path = runs / checkpoint.checkpoint_name(3) / ("ema.safetensors" if harm == "tensors" else "checkpoint.json")
    if harm == "tensors":
        real_hash = description.remembered_hash

        def unread(file):
            if Path(file) == path:
                raise OSError(5, "Input/output error")
            return real_hash(file)

        monkeypatch.setattr(description, "remembered_hash", unread)
    else:
        path.unlink()
    if harm == "folder":
        path.mkdir()
    elif harm not in ("refused", "tensors"):
        # reading a process's memory at address 0 fails like a bad disk
        path.symlink_to({"nowhere": "nowhere", "itself": path}.get(harm, "/proc/self/mem"))
    if harm == "refused":
        real = description.read_complete_description

        def refusing(system, root):
            if root == str(path.parent):
                raise PermissionError(13, "Permission denied")
            return real(system, root)

        monkeypatch.setattr(description, "read_complete_description", refusing)
    for find in (
        checkpoint.find_newest_checkpoint,
        lambda folder, say: storage.fetch_newest_checkpoint(str(tmp_path), "runs", say),
    ):
        said = []
        assert find(runs, said.append) == runs / checkpoint.checkpoint_name(2)
        assert len(said) == 1
        assert said[0].startswith("passed over a damaged checkpoint: ")
        assert "step_000000003" in said[0]


def test_a_model_is_drawn_from_the_newest_checkpoint_whose_weights_are_right(trained, tmp_path, capsys):
    """`raysde sample RUN` says which checkpoint it passes over; damaged optimizer state, which it does not read, is no
    reason."""
    runs = Path(shutil.copytree(trained[1].parent, tmp_path / "small"))
    flip_byte(runs / checkpoint.checkpoint_name(3) / "ema.safetensors")
    flip_byte(runs / checkpoint.checkpoint_name(2) / "optimizer.safetensors")
    asked = ["sample", str(runs), "--prompt", "two", "-n", "1", "--steps", "2", "--out", str(tmp_path / "out")]
    assert main(asked) == 0
    said = capsys.readouterr().err
    assert "passed over a damaged checkpoint: ema.safetensors" in said
    assert "the newest whole one is step_000000002" in said


def test_nothing_whole_is_not_a_beginning(trained, tmp_path):
    """A run whose checkpoints are all damaged stops, and one without any starts."""
    runs = Path(shutil.copytree(trained[1].parent, tmp_path / "small"))
    for path in runs.glob("step_*"):
        os.truncate(path / "optimizer.safetensors", 40)
    for find in (
        lambda: checkpoint.find_newest_checkpoint(runs),
        lambda: storage.fetch_newest_checkpoint(str(tmp_path), "small"),
    ):
        with pytest.raises(ValueError, match=r"no checkpoint in .*small is whole: .*has 40 bytes.* another name"):
            find()
    assert checkpoint.find_newest_checkpoint(tmp_path) is None
    assert storage.fetch_newest_checkpoint(str(tmp_path), "other") is None


def test_a_run_goes_on_from_the_newest_checkpoint_whose_tensors_are_right(trained, digits, tmp_path, capsys):
    """A checkpoint with a wrong hash is reported, and the run ends with the weights of an undisturbed one."""
    shutil.copytree(trained[1].parent, tmp_path / "small")
    flip_byte(tmp_path / "small" / checkpoint.checkpoint_name(3) / "weights.safetensors")
    changes = {"train__lr": 3e-2, "checkpoint_every": 1, "train__length__steps": 3}
    state = train_here(open_run(loading.parse_recipe(small_recipe(digits, tmp_path, **changes))), None)
    said = capsys.readouterr().err
    assert "passed over" in said
    assert "the newest whole one is step_000000002" in said
    assert same_tensors(state.model.state_dict(), trained[0].model.state_dict())
    assert checkpoint.verify_checkpoint(tmp_path / "small" / checkpoint.checkpoint_name(3)).step == 3


@pytest.mark.parametrize("keep", [1, 2, 3, 9])
def test_only_the_newest_are_kept(tmp_path, keep):
    """The newest by step are kept, whatever the order of writing; nothing else in the folder is deleted."""
    steps = [1200, 7, 90, 1_000_000, 12]
    for age, step in enumerate(steps):
        write_model(tmp_path / checkpoint.checkpoint_name(step), step, text=None)
        os.utime(tmp_path / checkpoint.checkpoint_name(step), (1e9 + age, 1e9 + age))
    others = {"profiles", "notes.txt", ".step_000000100.partial"}
    (tmp_path / "profiles").mkdir()
    (tmp_path / ".step_000000100.partial").mkdir()
    (tmp_path / "notes.txt").touch()
    storage.prune_checkpoints(tmp_path, Retention(keep), max(steps))
    kept = [checkpoint.checkpoint_name(step) for step in sorted(steps)[-keep:]]
    assert {path.name for path in tmp_path.iterdir()} == {*kept, *others}


def test_the_newest_in_remote_storage_is_the_newest_whole_one(trained, tmp_path):
    """By URI and by path, the newest whole checkpoint by step is chosen, without damaged ones and files, as a complete
    copy."""
    runs = tmp_path / "runs" / "small"
    for step in (5, 30, 200):
        shutil.copytree(trained[1], runs / checkpoint.checkpoint_name(step))
        (runs / checkpoint.checkpoint_name(step) / "text" / "step").write_text(str(step))
        with description_of(runs / checkpoint.checkpoint_name(step)) as content:
            content["state"]["step"] = step
    (runs / checkpoint.checkpoint_name(200) / "ema.safetensors").unlink()
    (runs / checkpoint.checkpoint_name(900)).touch()
    (runs / "profiles").mkdir()
    for place in (str(tmp_path / "runs"), f"file://{tmp_path}/runs"):
        found = storage.fetch_newest_checkpoint(place, "small")
        assert found.name == checkpoint.checkpoint_name(30)
        assert (found / "text" / "step").read_text() == "30"
        assert checkpoint.is_complete_checkpoint(found)
        assert storage.fetch_newest_checkpoint(place, "other") is None


@pytest.mark.parametrize("change", ["missing", "more"])
def test_weights_that_the_model_lacks_or_does_not_get_are_named(trained, change):
    """A checkpoint of a larger network must not load as a smaller one."""
    model = trained[0].model
    tensors = dict(model.state_dict())
    first = next(name for name, _ in model.network.named_parameters())
    if change == "missing":
        del tensors[f"network.{first}"]
    else:
        tensors["network.further.weight"] = torch.zeros(2)
    with pytest.raises(ValueError, match="does not fit its model: 1 weights differ, such as network"):
        checkpoint._load_weights(model, tensors, Path("step"))


def test_code_is_not_imported_unasked(digits, tmp_path):
    network = {"kind": "external", "factory": "tests.support.models:Own"}
    tree = small_recipe(digits, tmp_path, train__length__steps=1, network=network, text=None)
    train_here(open_run(loading.parse_recipe(tree)), None)
    folder = checkpoint.find_newest_checkpoint(tmp_path / "small")
    with pytest.raises(ValueError, match=r"tests\.support\.models:Own.*allow_code"):
        checkpoint.load_model(folder)
    assert checkpoint.load_model(folder, allow_code=True).sample(n=2, steps=2).images.shape == (2, 1, 8, 8)


def test_tied_weights_survive(digits, tmp_path):
    """T5's embedding with two names is saved once, and a resumed run is bit-equal."""
    text = {"kind": "pretrained", "path": text_encoder(tmp_path / "t5", "t5"), "trainable": True, "max_tokens": 32}
    runs = {}
    for name, lengths in (("whole", (4,)), ("parts", (2, 4))):
        for length in lengths:
            tree = small_recipe(digits, tmp_path / name, train__length__steps=length, text=text)
            runs[name] = train_here(open_run(loading.parse_recipe(tree)), None)
    first, second = (runs[name].model.state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    model = checkpoint.load_model(checkpoint.find_newest_checkpoint(tmp_path / "whole" / "small"))
    assert model.sample(prompts=["two"], steps=2).images.shape == (1, 1, 8, 8)


def test_images_have_their_own_streams(folder):
    """Image i is the same alone and in a batch (to a grey level: kernels round differently), and seeds differ."""
    model = checkpoint.load_model(folder)
    prompts = ["a handwritten zero", "the digit one", "two"]
    for solver in ("heun", "euler_maruyama", "pc"):
        whole = model.sample(prompts=prompts, seed=5, solver=solver, steps=4, guidance=2.0)
        alone = model.sample(prompts=prompts[2:], seed=5, solver=solver, steps=4, guidance=2.0, first=2)
        apart = model.sample(prompts=prompts, seed=5, solver=solver, steps=4, guidance=2.0, batch_size=2)
        assert (whole.images[2].int() - alone.images[0].int()).abs().max() <= 1
        assert (whole.images.int() - apart.images.int()).abs().max() <= 1
        assert not torch.equal(whole.images, model.sample(prompts=prompts, seed=6, solver=solver, steps=4).images)


def test_what_a_model_cannot_do_is_named(folder, digits, tmp_path):
    model = checkpoint.load_model(folder)
    with pytest.raises(ValueError, match="one for each image"):
        model.sample(prompts=["two"], n=3)
    with pytest.raises(ValueError, match="no classes"):
        model.sample(labels=[1])
    tree = small_recipe(digits, tmp_path, train__length__steps=1, text=None)
    train_here(open_run(loading.parse_recipe(tree)), None)
    bare = checkpoint.load_model(checkpoint.find_newest_checkpoint(tmp_path / "small"))
    with pytest.raises(ValueError, match="no text encoder"):
        bare.sample(prompts=["two"])
    with pytest.raises(ValueError, match="unconditional"):
        bare.sample(n=1, guidance=2.0)


def test_saving_writes_pictures(folder, tmp_path):
    from PIL import Image

    drawn = checkpoint.load_model(folder).sample(prompts=["two"] * 3, steps=2)
    paths = drawn.save(tmp_path / "out")
    assert [path.name for path in paths] == ["image-000.png", "image-001.png", "image-002.png", "grid.png"]
    assert (torch.tensor(list(Image.open(paths[1]).getdata())).reshape(8, 8) == drawn.images[1, 0]).all()
