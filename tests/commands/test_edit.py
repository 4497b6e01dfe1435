"""The commands `raysde edit` and `raysde sample --guidance-interval ...`: their output files, and one-line errors."""

import struct
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import tqdm
from PIL import Image

from raysde.checkpoints import checkpoint
from raysde.cli import build_parser, main
from raysde.commands.edit import open_images
from raysde.commands.model_options import show_progress_bar
from raysde.images.files import open_file, open_mask
from raysde.images.tensors import to_pil
from raysde.inference.edit_files import average_channels
from tests.support.checkpoints import write_model
from tests.support.command_line import refused
from tests.support.full_disk import small_files
from tests.support.grids import enlarge, inked, locate_rows
from tests.support.models import CAPTIONS
from tests.support.pictures import open_image

FAST = ["--solver", "unipc", "--steps", "2"]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "captions": write_model(folder / "captions"),
        "colour": write_model(folder / "colour", image=(3, 8, 8), text=None),
        "plain": write_model(folder / "plain", text=None),
    }


def picture(path: Path, channels: int, height: int = 8, width: int = 8, seed: int = 0) -> str:
    values = torch.randint(0, 256, (channels, height, width), generator=torch.Generator().manual_seed(seed))
    to_pil(values.to(torch.uint8)).save(path)
    return str(path)


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    mask = torch.zeros(1, 8, 8, dtype=torch.uint8)
    mask[:, :, :4] = 255
    to_pil(mask).save(tmp_path / "mask.png")
    return {
        "grey": picture(tmp_path / "grey.png", 1),
        "other": picture(tmp_path / "other.png", 1, seed=1),
        "rgb": picture(tmp_path / "rgb.png", 3),
        "small": picture(tmp_path / "small.png", 3, 4, 4),
        "mask": str(tmp_path / "mask.png"),
        "out": str(tmp_path / "out"),
    }


def results(files, *expected: str) -> list[torch.Tensor]:
    """Return the written images, after checking that there are no others."""
    names = sorted(path.name for path in Path(files["out"]).iterdir())
    assert names == [*expected, "sheet.png"]
    return [open_image(Path(files["out"]) / name) for name in expected]


def test_inpainting_writes_results_beside_their_inputs(models, files):
    inputs = ["--image", files["grey"], files["other"]]
    arguments = ["edit", models["captions"], *inputs, "--mask", files["mask"], "--prompt", CAPTIONS[2], "-n", "2"]
    assert main([*arguments, *FAST, "--out", files["out"]]) == 0
    made = results(files, *(f"image-00{index}.png" for index in range(4)))
    for index, image in enumerate(made):
        given = open_image(files["grey"] if index < 2 else files["other"])
        assert torch.equal(image[:, :, :4], given[:, :, :4])
        assert not torch.equal(image[:, :, 4:], given[:, :, 4:])
    assert not torch.equal(made[0], made[1])
    # two rows of an input and two results, under the name of the file and the prompt of both results
    given = [open_image(files[name]) for name in ("grey", "other")]
    for image in given:
        image[:, :, 4:] = 128
    cells = enlarge(torch.stack([given[0], *made[:2], given[1], *made[2:]]), 12)
    with Image.open(Path(files["out"]) / "sheet.png") as sheet:
        above = locate_rows(sheet, cells, 3)
        metadata = [sheet.info]
    assert all(inked(each, 1, 96) == [True] and (each[:, 98:] < 100).any() for each in above)
    metadata += [Image.open(Path(files["out"]) / f"image-00{index}.png").info for index in range(4)]
    assert {(each["Software"], each["prompt"], each["seed"], each["method"]) for each in metadata} == {
        ("raysde", CAPTIONS[2], "0", "moment_matching")
    }
    assert [each.get("image") for each in metadata] == [None, "grey.png", "grey.png", "other.png", "other.png"]
    assert [each.get("number") for each in metadata] == [None, "0", "1", "2", "3"]


def test_the_other_edits(models, files):
    tool = ["edit", models["colour"], *FAST, "--out", files["out"]]
    assert main([*tool, "--image", files["grey"], "--colorise", "--method", "replacement", "--resample", "1",
                 "--solver", "ancestral"]) == 0  # fmt: skip
    coloured = results(files, "image-000.png")[0]
    assert coloured.shape == (3, 8, 8)
    assert main([*tool, "--image", files["small"], "--upscale", "2"]) == 0
    assert results(files, "image-000.png")[0].shape == (3, 8, 8)
    assert main([*tool, "--image", files["rgb"], "--strength", "0"]) == 0
    assert torch.equal(results(files, "image-000.png")[0], open_image(files["rgb"]))
    assert main([*tool, "--image", files["rgb"], "--strength", "0.5"]) == 0
    assert not torch.equal(results(files, "image-000.png")[0], open_image(files["rgb"]))


def test_a_repeated_option_adds_images(models, files):
    """Every --image counts, in the order given; the last one alone would be edited without a word."""
    tool = ["edit", models["colour"], *FAST, "--out", files["out"], "--strength", "0"]
    assert main([*tool, "--image", files["rgb"], "--image", files["rgb"], files["rgb"]]) == 0
    assert len(results(files, *(f"image-00{number}.png" for number in range(3)))) == 3


def test_older_pictures_in_the_folder_are_reported(models, files, capsys):
    """The command names pictures that are replaced, and pictures that stay beside the new ones."""
    tool = ["edit", models["colour"], *FAST, "--out", files["out"], "--image", files["rgb"], "--strength", "0"]
    for count, said in ((2, ""), (2, "which are replaced"), (1, "of which 1 stays beside the new ones (image-001.png")):
        assert main([*tool, "-n", str(count)]) == 0
        err = capsys.readouterr().err
        assert (said in err) if said else ("earlier drawing" not in err)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("sample", "image-001.png"), ("sample", "grid.png"), ("sample", "path.png"), ("edit", "image-001.png"),
        ("edit", "sheet.png"), ("edit", "image-000.png"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "words"])
def test_somebodys_picture_is_not_written_over(models, files, tmp_path, capsys, monkeypatch, command, name, kind):
    """Refused before a model is read, and no byte is changed. Beside the names that are written, anything may lie."""
    mine = tmp_path / "out" / name
    mine.parent.mkdir()
    (tmp_path / "out/image-1999.png").write_text("words")
    if kind == "words":
        mine.write_text(kind)
    else:
        Image.new("RGB", (8, 8), "red").save(mine, format=kind)
    before = mine.read_bytes()
    task = ["--path", "2"] if command == "sample" else ["--image", files["rgb"], "--strength", "0"]
    monkeypatch.setattr("raysde.registry.load", None)
    asked = [command, models["colour"], *FAST, *task, "-n", "2", "--out", files["out"]]
    said = refused(capsys, *asked)
    assert all(word in said for word in (f"--out {files['out']}: {name} exists", "move it away or name another"))
    assert mine.read_bytes() == before
    monkeypatch.undo()
    mine.unlink()
    assert main(asked) == 0
    assert main(asked) == 0
    assert (tmp_path / "out/image-1999.png").read_text() == "words"


@pytest.mark.parametrize("command", ["sample", "edit"])
def test_a_place_that_is_no_folder_is_refused_before_anything_is_drawn(models, files, capsys, monkeypatch, command):
    Path(files["out"]).write_text("words")
    task = [] if command == "sample" else ["--image", files["rgb"], "--strength", "0"]
    monkeypatch.setattr("raysde.registry.load", None)
    for out in (files["out"], f"{files['out']}/below"):
        said = refused(capsys, command, models["colour"], *FAST, *task, "--out", out)
        assert f"--out {out}: {files['out']} is a file; name another folder" in said
    assert Path(files["out"]).read_text() == "words"


def test_nothing_is_said_to_be_replaced_by_a_command_that_is_refused(models, files, capsys):
    asked = ["edit", models["colour"], *FAST, "--strength", "0", "--out", files["out"], "--image"]
    assert main([*asked, files["rgb"]]) == 0
    capsys.readouterr()
    assert "replaced" not in refused(capsys, *asked, files["small"])


def test_a_bar_counts_the_units_that_are_done(monkeypatch):
    """The counts of a task are of all units so far, also when some are skipped or the total grows."""
    bars = []

    class Kept(tqdm.tqdm):
        def __init__(self, **settings):
            super().__init__(**settings)
            bars.append(self)

    monkeypatch.setattr(tqdm, "tqdm", Kept)
    with show_progress_bar("drawing", "step") as progress:
        for done, total in ((1, 4), (3, 4), (4, 8), (8, 8)):
            progress(done, total)
            assert (bars[0].n, bars[0].total) == (done, total)


def test_many_images_are_drawn_and_written_in_sight(models, tmp_path, monkeypatch, capsys):
    """A note says how more images than a batch are sampled; progress bars count the steps of all batches, and the
    files."""
    counted = {}

    @contextmanager
    def bar(what: str, unit: str):
        yield lambda done, total: counted.setdefault((what, unit), []).append((done, total))

    monkeypatch.setattr("raysde.commands.model_options.show_progress_bar", bar)
    monkeypatch.setattr("raysde.commands.sample.show_progress_bar", bar)
    asked = ["sample", models["plain"], *FAST, "--batch-size", "2", "--out", str(tmp_path / "out"), "-n"]
    assert main([*asked, "2"]) == 0
    assert "drawing" not in capsys.readouterr().err
    counted.clear()
    assert main([*asked, "5"]) == 0
    said = "sampling 5 images, 2 at a time; with --prompts-file each finished part is kept"
    assert said in capsys.readouterr().err.splitlines()
    assert counted["writing", "image"] == [(done, 5) for done in range(1, 6)]
    steps = counted["drawing", "step"]
    assert steps == [(done, 6) for done in range(steps[0][0], 7)]


def test_there_is_an_image_for_each_prompt_and_label(tmp_path):
    """There are as many images as the longer list has entries; the shorter list repeats."""
    both = write_model(tmp_path / "both", classes=3)
    for number, (prompts, labels, count) in enumerate([(2, 0, 2), (0, 3, 3), (1, 3, 3), (2, 1, 2), (3, 3, 3)]):
        asked = [word for prompt in CAPTIONS[:prompts] for word in ("--prompt", prompt)]
        asked += [word for label in "012"[:labels] for word in ("--label", label)]
        out = tmp_path / str(number)
        assert main(["sample", both, *FAST, *asked, "--out", str(out)]) == 0
        assert len(list(out.glob("image-*.png"))) == count, asked


def test_a_grey_image_is_one_of_three_equal_channels_to_a_colour_model(models, files, tmp_path):
    """As at ingest, the result is that of the same picture saved as RGB."""
    Image.open(files["grey"]).convert("RGB").save(tmp_path / "equal.png")
    found = []
    for name, path in (("grey", files["grey"]), ("rgb", str(tmp_path / "equal.png"))):
        out = tmp_path / name
        assert main(["edit", models["colour"], "--image", path, "--strength", "0.5", "--out", str(out), *FAST]) == 0
        found.append(open_image(out / "image-000.png"))
    assert found[0].shape == (3, 8, 8)
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("name", "role"), [("image-001.png", "--image"), ("sheet.png", "--image"), ("image-000.png", "--mask")]
)
def test_an_input_is_not_written_over(models, files, tmp_path, capsys, name, role):
    mine = tmp_path / "mine" / name
    mine.parent.mkdir()
    mine.write_bytes(Path(files["mask"]).read_bytes())
    given = ["--image", files["grey"], str(mine)] if role == "--image" else ["--image", files["grey"]]
    task = ["--mask", str(mine)] if role == "--mask" else ["--strength", "0.5"]
    said = refused(capsys, "edit", models["captions"], *given, *task, "--out", str(mine.parent), *FAST)
    assert f"a result would be written over {mine}; name another folder" in said
    assert mine.read_bytes() == Path(files["mask"]).read_bytes()
    assert [path.name for path in mine.parent.iterdir()] == [name]


def test_greys_are_means_to_the_nearest_level():
    """Sums of three channels from 0 to 765 agree with exact division; thirds are never halves."""
    sums = torch.arange(766)
    image = torch.stack([sums.clamp(max=255), (sums - 255).clamp(0, 255), (sums - 510).clamp(0, 255)])[:, None]
    assert average_channels(image.to(torch.uint8))[0, 0].tolist() == [(2 * each + 3) // 6 for each in range(766)]


def test_sampling_is_guided_from_the_command_line(models, files, capsys):
    """Each option has the effect of the same argument in Python."""
    model = checkpoint.load_model(Path(models["captions"]))
    settings = {"solver": "unipc", "steps": 2, "prompts": [CAPTIONS[0]]}
    for given, wanted in (
        (["--guidance", "3", "--guidance-interval", "0.5", "3"], {"guidance": 3.0, "guidance_interval": (0.5, 3.0)}),
        (["--negative", "two"], {"guidance": 2.0, "negative": "two"}),
        (
            ["--autoguide", models["plain"]],
            {"guidance": 2.0, "autoguide": checkpoint.load_model(Path(models["plain"]))},
        ),
        (
            ["--autoguide", models["plain"], "--autoguidance", "1.5"],
            {"guidance": 2.0, "autoguide": checkpoint.load_model(Path(models["plain"])), "autoguidance": 1.5},
        ),
    ):
        assert main(["sample", models["captions"], "--prompt", CAPTIONS[0], *FAST, *given, "--out", files["out"]]) == 0
        found = open_image(Path(files["out"]) / "image-000.png")
        assert torch.equal(found, model.sample(**settings, **wanted).images[0])
        assert not torch.equal(found, model.sample(**settings, guidance=2.0).images[0])


@pytest.mark.parametrize(
    ("arguments", "culprits"),
    [
        (["captions", "--image", "grey", "--mask", "small"], ["mask", "4 x 4", "8 x 8"]),
        (["captions", "--image", "rgb", "--mask", "mask"], ["rgb.png is 8 x 8 and RGB", "8 x 8 and grey"]),
        (["colour", "--image", "rgb", "small", "--strength", "0.5"], ["small.png is 4 x 4", "8 x 8 and RGB"]),
        (["colour", "--image", "rgb", "--upscale", "2"], ["rgb.png is 8 x 8", "4 x 4 and RGB"]),
        (["colour", "--image", "rgb", "--upscale", "3"], ["--upscale 3", "8 x 8"]),
        (["captions", "--image", "grey", "--colorise"], ["draws grey images"]),
        (["captions", "--image", "grey", "--strength", "1.5"], ["--strength", "1.5"]),
        (["captions", "--image", "grey", "--strength", "0.5", "--noise", "3"], ["--noise", "--strength"]),
        (["captions", "--image", "nowhere.png", "--strength", "0.5"], ["nowhere.png"]),
        (["captions", "--image", "mask.txt", "--strength", "0.5"], ["mask.txt cannot be read as an image"]),
        (["captions", "--image", "grey", "--mask", "rgba.png"], ["rgba.png", "transparent", "white", "black"]),
        (["plain", "--image", "grey", "--strength", "0.5", "--prompt", "two"], ["no text encoder"]),
        (["plain", "--image", "grey", "--strength", "0.5", "--guidance", "2"], ["unconditional"]),
        (["captions", "--image", "grey", "--mask", "mask", "--resample", "2"], ["resample=2", "replacement"]),
        (["captions", "--image", "grey", "--mask", "mask", "-n", "0"], ["-n"]),
        (["captions", "--image", "grey", "--mask", "mask", "--solver", "magic"], ["solver"]),
        (["captions", "--image", "grey", "--mask", "mask", "--negative", "a", "--guidance", "1"], ["--negative"]),
        (["captions", "--image", "grey", "--mask", "mask", "--guidance-interval", "1", "2"], ["--guidance-interval"]),
        (["captions", "--image", "grey", "--strength", "0.5", "--autoguide", "colour"], ["autoguide", "image"]),
        (
            ["captions", "--image", "grey", "--strength", "0.5", "--autoguide", "captions", "--autoguidance", "1"],
            ["--autoguidance has no effect at 1"],
        ),
        (
            ["captions", "--image", "grey", "--strength", "0.5", "--autoguidance", "2"],
            ["--autoguidance", "--autoguide"],
        ),
    ],
)
def test_mistakes_are_one_sentence(capsys, models, files, tmp_path, arguments, culprits):
    (tmp_path / "mask.txt").write_text("no image")
    Image.new("RGBA", (8, 8)).save(tmp_path / "rgba.png")
    known = {**files, **models, **{name: str(tmp_path / name) for name in ("mask.txt", "rgba.png", "nowhere.png")}}
    said = refused(capsys, "edit", *(known.get(word, word) for word in arguments), "--out", files["out"])
    assert all(culprit in said for culprit in culprits), said
    assert not Path(files["out"]).exists()


def test_one_edit_at_a_time(capsys, models, files):
    for more in ([], ["--colorise", "--strength", "0.5"]):
        with pytest.raises(SystemExit) as ended:
            main(["edit", models["colour"], "--image", files["rgb"], *more])
        assert ended.value.code == 2


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args(["edit", "--help"])
    said = capsys.readouterr().out
    for word in ("--mask", "--colorise", "--upscale", "--strength", "white", "moment_matching", "sheet.png"):
        assert word in said


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_image_files_become_tensors(tmp_path, mode):
    """Palettes are resolved, and EXIF orientation is applied."""
    original = Image.new("RGB", (3, 2), "white")
    original.putpixel((2, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # EXIF asks for a quarter turn clockwise
    original.convert(mode).save(tmp_path / "a.png", exif=exif)
    found = open_file(str(tmp_path / "a.png"))[0]
    assert found.shape == (1 if mode in ("1", "L") else 3, 3, 2)
    if mode in ("P", "RGB"):
        assert found[:, 2, 1].tolist() == [255, 0, 0]


def saved(path: Path, picture: Image.Image, **options) -> str:
    picture.save(path, **options)
    return str(path)


def test_images_are_read_as_an_ingest_reads_them(tmp_path, capsys):
    """Deep, transparent, CMYK and animated files are read, with a note on each conversion."""
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    clear = np.zeros((8, 8, 4), dtype=np.uint8)
    clear[:, 4:] = (10, 20, 30, 255)
    red, blue = Image.new("RGB", (8, 8), (200, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 200))
    paths = [
        saved(tmp_path / "deep.png", Image.fromarray(deep)),
        saved(tmp_path / "clear.png", Image.fromarray(clear)),
        saved(tmp_path / "ink.tif", Image.new("CMYK", (8, 8), (255, 0, 0, 0))),
        saved(tmp_path / "moving.gif", red, save_all=True, append_images=[blue]),
        saved(tmp_path / "grey.png", Image.fromarray(clear[..., 3]).convert("LA")),
    ]
    grey, flat, cyan, first, alone = (image.permute(1, 2, 0).numpy() for _, image in open_images(paths))
    assert np.array_equal(grey[..., 0], deep >> 8)
    assert (flat[:, :4] == 255).all()
    assert (flat[:, 4:] == (10, 20, 30)).all()
    assert (cyan == (0, 255, 255)).all()
    assert (first == (200, 0, 0)).all()
    assert alone.shape == (8, 8, 1)
    said = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in said] == paths[1:4]
    for line, word in zip(said, ("white", "CMYK", "first"), strict=True):
        assert word in line


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5, 7, 10, 12, 99])
@pytest.mark.parametrize("tag", [0x0112, 0x8769, 0x010F])
def test_odd_exif_data_is_no_traceback(tmp_path, kind, tag):
    """An EXIF entry of the wrong type (orientation, pointer or text) is read, or refused in one line."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    exif.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"
    block = bytearray(exif.tobytes())
    order = ">" if b"MM" in block[:8] else "<"
    place = block.find(struct.pack(order + "H", tag), 6)
    assert place > 0
    block[place + 2 : place + 4] = struct.pack(order + "H", kind)
    path = tmp_path / "a.jpg"
    Image.new("RGB", (8, 4)).save(path, exif=bytes(block))
    said = reason(open_file, str(path))
    assert said == "" or (str(path) in said and "\n" not in said)


def reason(function, *arguments) -> str:
    """Return the message with which a function refuses its arguments, empty if it accepts them."""
    try:
        function(*arguments)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["empty.png", "cut.jpg", "words.png", "photo.heic", "folder"])
def test_bad_files_are_one_sentence(capsys, models, files, tmp_path, name):
    Image.new("RGB", (64, 64)).save(tmp_path / "whole.jpg")
    content = {"empty.png": b"", "cut.jpg": (tmp_path / "whole.jpg").read_bytes()[:400], "words.png": b"words",
               "photo.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"}  # fmt: skip
    if name == "folder":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_bytes(content[name])
    for more in (["--image", str(tmp_path / name), "--strength", "0.5"],
                 ["--image", files["grey"], "--mask", str(tmp_path / name)]):  # fmt: skip
        assert name in refused(capsys, "edit", models["captions"], *more, "--out", files["out"])


def test_masks_are_turned_upright_and_read_at_any_depth(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # EXIF asks for a quarter turn clockwise
    levels = np.zeros((4, 8), dtype=np.uint16)
    levels[:, :3] = 65535
    wanted = torch.from_numpy(np.rot90(levels > 0, -1).copy())
    for number, pixels in enumerate((levels, (levels >> 8).astype(np.uint8))):
        path = saved(tmp_path / f"{number}.png", Image.fromarray(pixels), exif=exif)
        assert torch.equal(open_mask(path, (8, 4)), wanted)
    opaque = saved(tmp_path / "opaque.png", Image.fromarray((levels >> 8).astype(np.uint8)).convert("RGBA"))
    assert torch.equal(open_mask(opaque, (4, 8)), torch.from_numpy(levels > 0))


@pytest.mark.parametrize(
    ("white", "dtype"), [(1, np.uint8), (127, np.uint8), (255, np.uint16), (1, np.uint16)], ids=str
)
def test_masks_that_would_keep_nothing_by_their_scale_are_refused(tmp_path, white, dtype):
    """Masks with values 0 and 1 as truth values, or 8-bit levels in a 16-bit file, would keep nothing."""
    known = np.arange(32).reshape(4, 8) % 3 == 0
    path = saved(tmp_path / "mask.png", Image.fromarray((known * white).astype(dtype)))
    assert "mask.png is dark everywhere and not black" in reason(open_mask, path, (4, 8))
    black = saved(tmp_path / "black.png", Image.new("L", (8, 4)))
    assert not open_mask(black, (4, 8)).any()


def test_masks_of_several_frames_are_refused(tmp_path):
    frames = [Image.new("L", (8, 4), level) for level in (0, 255)]
    path = saved(tmp_path / "mask.tif", frames[0], save_all=True, append_images=frames[1:])
    assert "mask.tif has several frames or pages" in reason(open_mask, path, (4, 8))


def test_a_full_disk_under_the_sheet_is_named(models, files, capsys):
    """Each result fits on the disk, and the sheet of all results does not."""
    command = ["edit", models["plain"], *FAST, "--image", files["grey"], "--strength", "1", "-n", "90"]
    with small_files():
        assert main([*command, "--out", files["out"]]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"raysde: a picture cannot be written to {files['out']}/sheet.png: ")
