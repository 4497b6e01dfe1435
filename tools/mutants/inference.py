"""Mistakes in raysde/inference/."""

from tools.mutants.mutant import Mutant

ATTRIBUTES = "tests/conditioning/test_attributes.py"
BULK = "tests/inference/test_bulk.py"
EDIT = "tests/inference/test_edit.py"
GUIDANCE = "tests/inference/test_guidance.py"
MODEL = "tests/inference/test_model.py"
PROMPT_FILE = "tests/inference/test_prompt_file.py"
SAMPLES = "tests/inference/test_samples.py"

MUTANTS = [
    Mutant("second images of the first batch for all", "raysde.inference.second_images:second_planes", "images[rows].to(device_of(model))", "images[: rows.stop - rows.start].to(device_of(model))", "tests/conditioning/test_column.py -k 'sampling_takes'"),
    Mutant("second images of any number of channels", "raysde.inference.second_images:second_planes", "if images.shape != wanted or", "if images.shape[2:] != wanted[2:] or", "tests/conditioning/test_column.py -k 'that_do_not_fit_are'"),
    Mutant("guidance away from the same image", "raysde.inference.guidance:Guidance.score", "torch.zeros_like(plain.encoded.image)", "plain.encoded.image", "tests/conditioning/test_images.py -k 'leads_away'"),
    Mutant("numbers of a batch those of the first", "raysde.inference.sample:draw_batches", "own = None if values is None else values[rows]", "own = None if values is None else values[: rows.stop - rows.start]", ATTRIBUTES + " -k 'prompt_file'"),
    Mutant("unusual numbers unnoticed", "raysde.inference.conditions:warn_outside", "not attribute.contains(value)", "value == math.inf", ATTRIBUTES + " -k 'impossible'"),
    Mutant("known pixels drawn anew", "raysde.inference.image_conditions:inpaint_with_condition", "torch.where(known.cpu(), kept, drawn.images)", "drawn.images", "tests/conditioning/test_images.py -k 'inpainting_takes'"),
    Mutant("more noise than the model knows", "raysde.inference.image_conditions:upscale_with_condition", "0.0 <= level <= condition.noise", "0.0 <= level", "tests/conditioning/test_images.py -k 'upscaling_takes'"),
    Mutant("every part's images drawn as the first", "raysde.inference.bulk:Bulk.sample", "            first=first,", "            first=0,", BULK + " -k 'raysde_sample'"),
    Mutant("prompts of a file counted from each part's start", "raysde.inference.bulk:Bulk.sample", "rows, asked = slice(first, first + count), self.requests", "rows, asked = slice(0, count), self.requests", BULK + " -k 'raysde_sample'"),
    Mutant("parts that cut batches", "raysde.inference.bulk:Bulk.parts", "self.batch * max(1, self.images_per_part // self.batch)", "self.images_per_part", BULK + " -k 'raysde_sample'"),
    Mutant("the command's seed for every row", "raysde.inference.bulk:Bulk.seeds", "self.seed if each is None else each", "self.seed", BULK + " -k 'of_its_own'"),
    Mutant("the command's negative for every row", "raysde.inference.bulk:Bulk.negatives", "other if each is None else each", "other", BULK + " -k 'of_its_own'"),
    Mutant("all parts drawn again", "raysde.inference.bulk:draw_all", "if part not in done]", "if True]", BULK + " -k 'again'"),
    Mutant("images of other settings kept", "raysde.inference.bulk:begin_bulk", "if found.get(key) != wanted.get(key):", "if False:", BULK + " -k 'its_key'"),
    Mutant("files of others taken over", "raysde.inference.bulk:begin_bulk", "if not all(is_partial(each.base_name) for each in found):", "if False:", BULK + " -k 'left_alone'"),
    Mutant("a temporary file for somebody's", "raysde.inference.bulk:begin_bulk", "if not all(is_partial(each.base_name) for each in found):", "if found:", BULK + " -k 'plan_is_written'"),
    Mutant("all copies of a prompt at its end", "raysde.inference.edit:interpolate_conditions", "torch.where(at == 0.0, own, (at < 1.0) | other)", "torch.ones_like((at < 1.0) | other)", EDIT + " -k 'between'"),
    Mutant("edits that forget the model's settings", "raysde.inference.edit:edit", "share=strength, **resolve_drawing(model.spec, drawing))", "share=strength, **resolve_settings({}, drawing, False, usual=model.spec.default_solver))", EDIT + " -k 'own_settings'"),
    Mutant("prompts joined with a jump", "raysde.inference.edit:interpolate_conditions", "tokens.repeat_interleave(length // len(tokens), dim=0) for tokens in (a, b)", "torch.cat([tokens, tokens[-1:].expand(length - len(tokens), -1)]) for tokens in (a, b)", EDIT + " -k 'unequal'"),
    Mutant("restoring that is not led away", "raysde.inference.edit:draw_restored", "resolve_settings({}, drawing, False,", 'resolve_settings({}, {**drawing, "negative": None}, False,', EDIT + " -k 'led_away_is_led'"),
    Mutant("restoring by everybody's default", "raysde.inference.edit:draw_restored", "usual=spec.default_solver, resample=resample)", 'usual="heun", resample=resample)', "tests/models/test_sampling_defaults.py -k 'of_its_time'"),
    Mutant("levels taken for floats in the range", "raysde.inference.edit:check_range", "if not (low - room <= least and most <= high + room):", "if False:", MODEL + " -k 'fit_are_named'"),
    Mutant("guidance from the strong side", "raysde.inference.guidance:extrapolate_rows", "guided = weak + scale * (strong[rows] - weak)", "guided = strong[rows] + scale * (strong[rows] - weak)", GUIDANCE),
    Mutant("an interval in log-SNR", "raysde.inference.guidance:guided_rows", "noise = torch.exp(-0.5 * sde.log_snr(t))", "noise = torch.exp(-sde.log_snr(t))", GUIDANCE),
    Mutant("an interval turned over", "raysde.inference.guidance:guided_rows", "(noise > interval[0]) & (noise <= interval[1])", "(noise <= interval[0]) | (noise > interval[1])", GUIDANCE),
    Mutant("a guide that leads once too often", "raysde.inference.guidance:TwiceGuided.score", "alpha=self.scale - 1.0", "alpha=self.scale", GUIDANCE + " -k 'add_up'"),
    Mutant("away from the guide by what is guided", "raysde.inference.guidance:TwiceGuided.score", "strong[rows] - weak, alpha", "guided[rows] - weak, alpha", GUIDANCE + " -k 'add_up'"),
    Mutant("a guide that leads everywhere", "raysde.inference.guidance:TwiceGuided.score", "rows = guided_rows(self.guided.model.sde, t, self.scale, self.interval)", "rows = guided_rows(self.guided.model.sde, t, self.scale, None)", GUIDANCE + " -k 'add_up'"),
    Mutant("a second scale without a guide", "raysde.inference.guidance:Guidance.__post_init__", "if self.autoguidance is not None and self.guide is None:", "if False:", GUIDANCE + " -k 'does_not_fit'"),
    Mutant("an empty file taken for an image", "raysde.inference.image_files:is_complete_png", " if info.size}", "}", BULK + " -k 'again'"),
    Mutant("a file for a whole one", "raysde.inference.image_files:is_complete_parquet", "return bool(opened.metadata.num_rows == count)", "return True", BULK + " -k 'fewer_rows'"),
    Mutant("said before it is so", "raysde.inference.image_files:write_png", '    write_bytes(child_path(place, "metadata.jsonl"), lines.encode())\n', "", BULK + " -k 'folders or again'"),
    Mutant("tolerances that go nowhere", "raysde.inference.flow:_prepare_flow", 'return conditional_score(model, prompts, labels, count, guidance, attributes), {"rtol": rtol, "atol": atol}', 'return conditional_score(model, prompts, labels, count, guidance, attributes), {"rtol": 1e-5, "atol": 1e-5}', MODEL + " -k 'reaches_it or cost'"),
    Mutant("floats that are clipped", "raysde.inference.pixels:to_pixels", "else x0.to(dtype)", "else x0.clamp(*pixel_range(spec)).to(dtype)", MODEL + " -k 'float_images'"),
    Mutant("floats taken for levels", "raysde.inference.pixels:to_floats", "if images.dtype == torch.uint8 else moved", "if True else moved", MODEL + " -k 'float_images'"),
    Mutant("any label below the last", "raysde.inference.prompt_file:Requests.fit", "not 0 <= label < classes:", "not label < classes:", PROMPT_FILE + " -k 'cannot_draw'"),
    Mutant("blank cells taken for text", "raysde.inference.prompt_file:is_absent", " or (isinstance(value, str) and not value.strip())", "", PROMPT_FILE),
    Mutant("the prompts alone make the hash", "raysde.inference.prompt_file:Requests.sha256", "[self.count, self.prompts, self.labels, self.seeds, self.negatives]", "[self.count, self.prompts]", PROMPT_FILE + " -k 'hash'"),
    Mutant("lines that end at any separator", "raysde.inference.prompt_file:read_columns", 'lines.removesuffix("\\n").split("\\n")', "lines.splitlines()", PROMPT_FILE + " -k 'lines'"),
    Mutant("the first seed for every image", "raysde.inference.sample:draw_batches", "zip(seeds[rows], range(", "zip(seeds[:1] * (rows.stop - start), range(", BULK + " -k 'of_its_own'"),
    Mutant("letters for prompts", "raysde.inference.conditions:count_images", "if isinstance(values, str) or not", "if not", EDIT + " -k 'letters'"),
    Mutant("a start that every batch has", "raysde.inference.sample:prepare_start", "start[rows].to(device", "start[: rows.stop - rows.start].to(device", MODEL + " -k 'begin_anywhere'"),
    Mutant("rows counted from 0", "raysde.inference.prompt_file:parse_values", "row {row + 1}", "row {row}", PROMPT_FILE + " -k 'one_sentence'"),
    Mutant("the first image's prompt in every file", "raysde.inference.samples:Drawn.metadata", "one = value[index or 0]", "one = value[0]", SAMPLES + " -k 'drawn_again'"),
    Mutant("images numbered from 0 in every file", "raysde.inference.samples:Drawn.metadata", "else self.first + index", "else index", SAMPLES + " -k 'drawn_again'"),
    Mutant("defaults left to whoever reads the file", "raysde.inference.samples:make_samples", "{\"model\": weights_hash(model), **settings, **read}", "{\"model\": weights_hash(model), **settings}", SAMPLES + " -k 'command_says'"),
    Mutant("a path's rows under the wrong prompts", "raysde.inference.samples:DrawnPath.strip", "for _ in range(2 * points)]", "for _ in range(points)] * 2", "tests/sampling/test_path.py -k 'ends_in_its_image'"),
    Mutant("a path's headings from the data's end", "raysde.inference.samples:DrawnPath.strip", "for each in self.log_snr.tolist()]", "for each in self.log_snr.tolist()[::-1]]", SAMPLES + " -k 'log_snr'"),
    Mutant("every file of a part described as its first", "raysde.inference.bulk:Bulk.draw", "drawn.metadata(index)", "drawn.metadata(0)", BULK + " -k 'drawn_with'"),
    Mutant("files that are not counted", "raysde.inference.samples:Drawn.save", "names, progress, metadata)", "names, None, metadata)", "tests/commands/test_edit.py -k 'in_sight'"),
]  # fmt: skip
