"""Mistakes in raysde/images/."""

from tools.mutants.mutant import Mutant

COLOUR = "tests/images/test_colour.py"
GEOMETRY = "tests/images/test_geometry.py"
CAPTIONS = "tests/images/test_captions.py"
OPEN = "tests/images/test_open.py"
PNG = "tests/images/test_png.py"
PERCEPTUAL = "tests/images/test_perceptual.py"

MUTANTS = [
    Mutant("noise sets bits", "raysde.images.perceptual:_hash_window", "> FAINT * WHOLE**2", "> 0.0", PERCEPTUAL + " -k 'bits or brightness'"),
    Mutant("windows turned over", "raysde.images.perceptual:window_hashes", "_cosines(rows), _cosines(columns)", "_cosines(columns), _cosines(rows)", PERCEPTUAL + " -k 'window'"),
    Mutant("one direction of a pair", "raysde.images.perceptual:measure_distances", "np.minimum(_align(small, large, limit), _align(large, small, limit))", "_align(small, large, limit)", PERCEPTUAL + " -k 'order'"),
    Mutant("a negative that fits", "raysde.images.perceptual:_residuals", "np.maximum((one * two).sum(axis=1), 0.0)", "(one * two).sum(axis=1)", PERCEPTUAL + " -k 'equal_pictures'"),
    Mutant("pairs given up at the limit", "raysde.images.perceptual:_align", "best <= limit * HOPEFUL[step]", "best <= limit", PERCEPTUAL + " -k 'limit'"),
    Mutant("a JPEG's shape compared the wrong way", "raysde.images.codec:decode_image", "        check_shape((height, width), out)", "        check_shape((width, height), out)", "tests/data/dataset/test_reader.py -k 'decode'"),
    Mutant("any depth of a PNG", "raysde.images.codec:decode_image", "if (depth, colour) != (8, GREY if channels == 1 else RGB):", "if colour != (GREY if channels == 1 else RGB):", "tests/images/test_codec.py -k 'shards_kind'"),
    Mutant("long sides for many pixels", "raysde.images.codec:check_pixels", "if width * height > MAX_PIXELS:", "if max(width, height) > MAX_PIXELS:", OPEN + " -k 'bombs'"),
    Mutant("a JPEG too long for its decoder", "raysde.images.codec:MAX_JPEG", "MAX_JPEG = 65_500", "MAX_JPEG = 65_535", "tests/data/ingest/test_convert.py -k 'jpeg'"),
    Mutant("sRGB profiles applied", "raysde.images.colour:NEAR", "NEAR = 2", "NEAR = -1", COLOUR + " -k 'no_bit'"),
    Mutant("steep greys interpolated", "raysde.images.colour:build_transform", "flags |= ImageCms.Flags.NOOPTIMIZE", "pass", COLOUR + " -k 'grey_profiles'"),
    Mutant("the profile above PNG's codes", "raysde.images.colour:_find_png_profile", 'if kind == b"cICP":', 'if kind == b"none":', COLOUR + " -k 'cicp'"),
    Mutant("a box larger than the picture", "raysde.images.geometry:placed_box", "unit = min(width / cols, height / rows) * scale", "unit = max(width / cols, height / rows) * scale", GEOMETRY + " -k 'boxes'"),
    Mutant("the short side for the long one", "raysde.images.geometry:fit_picture", 'tightest = max if fit == "short" else min', "tightest = max", GEOMETRY + " -k 'proportions'"),
    Mutant("height and width swapped", "raysde.images.geometry:resize_box", "picture.resize((shape[1], shape[0])", "picture.resize((shape[0], shape[1])", GEOMETRY + " -k 'border or proportions'"),
    Mutant("padding below alone", "raysde.images.geometry:fit_picture", "(rows - height) // 2))", "0))", GEOMETRY + " -k 'padding'"),
    Mutant("buckets of the ratios' squares", "raysde.images.geometry:bucket_shapes", "(side(size / ratio**0.5), side(size * ratio**0.5))", "(side(size / ratio), side(size * ratio))", GEOMETRY + " -k 'buckets'"),
    Mutant("the nearest bucket on its side", "raysde.images.geometry:nearest_bucket", "ratio = size[0] / size[1]", "ratio = size[1] / size[0]", GEOMETRY + " -k 'bucket'"),
    Mutant("the lower bits of sixteen", "raysde.images.levels:convert_to_eight_bits", "astype(np.uint16) >> (4 if largest == 4095 else 8))", "astype(np.uint16) & 255)", OPEN + " -k 'sixteen'"),
    Mutant("transparency decided by the upper bits", "raysde.images.levels:_read_transparent_png", "np.where(values == clear, 0, 255)", "np.where(values >> 8 == clear >> 8, 0, 255)", OPEN + " -k 'sixteen'"),
    Mutant("twelve bits as sixteen", "raysde.images.levels:convert_to_eight_bits", "4 if largest == 4095 else 8", "8", OPEN + " -k 'twelve'"),
    Mutant("the transparent grey at eight bits", "raysde.images.levels:_read_transparent_png", "* 255 // most", "", OPEN + " -k 'few_bits'"),
    Mutant("the wrong way of EXIF's two quarter turns", "raysde.images.open:TURNS", "6: Image.Transpose.ROTATE_270", "6: Image.Transpose.ROTATE_90", OPEN + " -k 'upright'"),
    Mutant("white under what is transparent", "raysde.images.open:_flatten_transparency", "(background,) * len(picture.mode)", "(255,) * len(picture.mode)", OPEN + " -k 'transparen'"),
    Mutant("a photograph on its side kept as it is", "raysde.images.open:is_plain", "return same and upright and kind", "return same and kind", OPEN + " -k 'upright'"),
    Mutant("a palette taken for its colours", "raysde.images.open:is_plain", "same = opened.mode == picture.mode and opened.size", "same = opened.size", OPEN + " -k 'plain'"),
    Mutant("an animation kept as it is", "raysde.images.open:is_plain", ' and getattr(opened, "n_frames", 1) == 1', "", OPEN + " -k 'animation'"),
    Mutant("a profile passed over", "raysde.images.open:_convert_to_srgb", "picture = result", "pass", COLOUR + " -k 'matrix_profiles'"),
    Mutant("a file with a profile kept as it is", "raysde.images.open:is_plain", "kind and srgb and getattr", "kind and getattr", COLOUR + " -k 'matrix_profiles or twice'"),
    Mutant("colour made grey without a word", "raysde.images.open:_convert_channels", 'changes.add("grey")', "pass", "tests/data/ingest/test_probe.py -k 'made_grey'"),
    Mutant("width before height", "raysde.images.sizes:read_size", "return sides[0], sides[-1]", "return sides[-1], sides[0]", "tests/images/test_sizes.py"),
    Mutant("captions over the images", "raysde.images.tensors:make_grid", "sum(heights[: number + 1])", "sum(heights[:number])", CAPTIONS + " -k 'touch_none'"),
    Mutant("headings between the first captions and their images", "raysde.images.tensors:make_grid", "draw_captions(picture, columns_said, first, width, gap)", "draw_captions(picture, columns_said, tops[0], width, gap)", CAPTIONS + " -k 'above_everything'"),
    Mutant("captions from the left end", "raysde.images.captions:draw_captions", "gap + caption.column * (width + gap)", "gap", CAPTIONS + " -k 'touch_none'"),
    Mutant("a heading for what changed", "raysde.images.captions:arrange_captions", "groupby(row if row != above else [])", "groupby(row if start == 0 else [])", CAPTIONS + " -k 'touch_none'"),
    Mutant("captions of another height above each row", "raysde.images.captions:arrange_captions", "[: len(row)]", "", CAPTIONS + " -k 'touch_none'"),
    Mutant("words cut anywhere", "raysde.images.captions:fit_text", "end = cut if cut > 0 else end", "pass", CAPTIONS + " -k 'beginning'"),
    Mutant("lines as long as they like", "raysde.images.captions:fit_text", "font, rest = open_font(size), select_drawable(text)", "font, rest = open_font(size // 2), select_drawable(text)", CAPTIONS + " -k 'beginning or own_image'"),
    Mutant("letters of one size", "raysde.images.captions:letter_size", "max(SMALLEST, width // 16)", "SMALLEST", CAPTIONS + " -k 'grows'"),
    Mutant("text without a word of its lack", "raysde.images.captions:select_drawable", "if drawable else MISSING", "if drawable else ''", CAPTIONS + " -k 'box'"),
    Mutant("Hebrew from left to right", "raysde.images.captions:is_drawable", "not in RIGHT_TO_LEFT", "not in ()", CAPTIONS + " -k 'box or the_font_has'"),
    Mutant("pictures of nobody", "raysde.images.png:png_metadata", '{"Software": SOFTWARE, **values}', "values", PNG),
    Mutant("values as Python writes them", "raysde.images.png:png_metadata", "json.dumps(value, ensure_ascii=False, default=_to_plain)", "str(value)", PNG),
    Mutant("a grid without its place", "raysde.images.tensors:save_picture", '    with name_place_of_write("a picture", path):', "    if True:", "tests/io/test_filesystems.py -k 'full_disk'"),
]  # fmt: skip
