"""Mistakes in raysde/conditioning/."""

from tools.mutants.mutant import Mutant

ATTRIBUTES = "tests/conditioning/test_attributes.py"
GUIDANCE = "tests/inference/test_guidance.py"
COLUMN = "tests/conditioning/test_column.py"
IMAGES = "tests/conditioning/test_images.py"
JOBS = "tests/precompute/test_jobs.py"
NETWORKS = "tests/networks/test_networks.py"
PRETRAINED = "tests/conditioning/test_pretrained.py"
TEXT = "tests/conditioning/test_text.py"

MUTANTS = [
    Mutant("unknown numbers as the middle of the range", "raysde.conditioning.numbers:NumberEmbedding.forward", "return torch.where(known[:, None], vectors, self.unknown.to(vectors.dtype))", "return vectors", ATTRIBUTES + " -k 'unknown_numbers'"),
    Mutant("numbers that are not scaled", "raysde.conditioning.numbers:NumberEmbedding.forward", "(values.float() - self.middle) / self.radius", "values.float() - self.middle", ATTRIBUTES + " -k 'sines'"),
    Mutant("a gradient of NaN", "raysde.conditioning.numbers:NumberEmbedding.forward", "torch.where(known, (values.float() - self.middle) / self.radius, 0.0)", "((values.float() - self.middle) / self.radius)", ATTRIBUTES + " -k 'unknown_numbers'"),
    Mutant("numbers that are never dropped with the rest", "raysde.conditioning.conditioner:Condition.drop_rows", "torch.where(drop[:, None], null.attributes, self.attributes)", "self.attributes", ATTRIBUTES + " -k 'add_to_the_class'"),
    Mutant("the last number in the place of all", "raysde.conditioning.conditioner:Conditioner.forward", "numbers if pooled is None else pooled + numbers", "numbers", ATTRIBUTES + " -k 'add_to_the_class'"),
    Mutant("an image that is never dropped with the rest", "raysde.conditioning.conditioner:Condition.drop_rows", "torch.where(drop[:, None, None, None], 0.0, self.image)", "self.image", IMAGES + " -k 'joins_the_other'"),
    Mutant("a noise level that is no condition", "raysde.conditioning.images:UpscaleCondition.draw", "return self.given(small + level[:, None, None, None] * eps, level)", "return self.given(small + level[:, None, None, None] * eps, 0.0 * level)", IMAGES + " -k 'smaller_copy'"),
    Mutant("every second pixel for the mean of blocks", "raysde.conditioning.images:UpscaleCondition.draw", "F.avg_pool2d(x0, self.factor)", "x0[:, :, :: self.factor, :: self.factor]", IMAGES + " -k 'smaller_copy'"),
    Mutant("holes that never touch the far border", "raysde.conditioning.images:InpaintCondition._in_hole", "side - length + 1", "side - length", IMAGES + " -k 'hole_is'"),
    Mutant("the hole shown and the rest hidden", "raysde.conditioning.images:InpaintCondition.given", "torch.where(known, images, 0.0)", "torch.where(known, 0.0, images)", IMAGES + " -k 'hole_is'"),
    Mutant("an image that is dropped where it should be kept", "raysde.conditioning.images:draw_planes", ">= condition.dropout", "< condition.dropout", IMAGES + " -k 'dropped_planes'"),
    Mutant("second images cut into stripes for latents", "raysde.conditioning.images:ColumnCondition.given", "F.pixel_unshuffle(images, fold)", "F.interpolate(images, size=tuple(size)).repeat(1, fold**2, 1, 1)", COLUMN + " -k 'planes_are'"),
    Mutant("second images that are never known to be there", "raysde.conditioning.images:ColumnCondition.given", "torch.ones_like(planes[:, :1])", "torch.zeros_like(planes[:, :1])", COLUMN + " -k 'planes_are'"),
    Mutant("the caption kept where it is dropped, dropped where kept", "raysde.conditioning.conditioner:Condition.drop_rows", "torch.where(drop[:, None], _fit_width(null.ids, self.ids.shape[1]), self.ids)", "torch.where(drop[:, None], self.ids, _fit_width(null.ids, self.ids.shape[1]))", NETWORKS + " -k 'dropped'"),
    Mutant("a dropped caption's own mask", "raysde.conditioning.conditioner:Condition.drop_rows", "torch.where(drop[:, None], mask, self.mask)", "self.mask", NETWORKS + " -k 'dropped'"),
    Mutant("a dropped image's own class", "raysde.conditioning.conditioner:Condition.drop_rows", "torch.where(drop, null.labels, self.labels)", "self.labels", NETWORKS + " -k 'dropped'"),
    Mutant("precomputed vectors that are never dropped", "raysde.conditioning.conditioner:Condition.drop_rows", "torch.where(drop[:, None, None], nothing, self.context)", "self.context", JOBS + " -k 'dropped_rows'"),
    Mutant("the first class for no class", "raysde.conditioning.conditioner:Conditioner.forward", "condition.labels % (self.classes + 1)", "condition.labels.clamp(min=0)", GUIDANCE + " -k 'tilted'"),
    Mutant("the class in the caption's place", "raysde.conditioning.conditioner:Conditioner.forward", "pooled + classes", "classes", NETWORKS + " -k 'add_up'"),
    Mutant("conditions joined the wrong way round", "raysde.conditioning.conditioner:Encoded.join_rows", "torch.cat([a, b])", "torch.cat([b, a])", GUIDANCE + " -k 'longer_negative'"),
    Mutant("labels out of range", "raysde.conditioning.conditioner:Conditioner.condition", "int(numbers.max()) < self.classes)", "int(numbers.max()) <= self.classes)", NETWORKS + " -k 'labels_reach'"),
    Mutant("vectors in the type they are stored in", "raysde.conditioning.conditioner:Conditioner._context", "return condition.context.to(next(encoder.parameters()).dtype)", "return condition.context", JOBS + " -k 'half_precision_trains'"),
    Mutant("padding that attends", "raysde.conditioning.conditioner:Encoded.pad_tokens", "F.pad(self.mask, more)", "F.pad(self.mask, more, value=True)", GUIDANCE),
    Mutant("embeddings with their padding", "raysde.conditioning.embedder:Embedder._encode_captions", "[vectors[:count] for vectors, count in", "[vectors for vectors, _ in", JOBS + " -k 'encoders_own'"),
    Mutant("embeddings in the order they were made", "raysde.conditioning.embedder:Embedder.__call__", "return [known[caption] for caption in captions]", "return [known[caption] for caption in sorted(captions)]", JOBS + " -k 'encoders_own'"),
    Mutant("encoders of other tokenizers for the same", "raysde.conditioning.embedder:encoder_hash", "tokenizer=True", "tokenizer=False", JOBS + " -k 'another_tokenizer'"),
    Mutant("RoBERTa's positions from 0", "raysde.conditioning.pretrained:_count_positions", "0 if table.padding_idx is None else table.padding_idx + 1", "0", PRETRAINED + " -k 'all_positions'"),
    Mutant("one position unused", "raysde.conditioning.pretrained:check_pretrained", "text.max_tokens > positions", "text.max_tokens >= positions", PRETRAINED + " -k 'all_positions'"),
    Mutant("weights drawn at random unnoticed", "raysde.conditioning.pretrained:check_complete", 'if not name.startswith("pooler.")', 'if name.startswith("pooler.")', PRETRAINED + " -k 'lacks_weights'"),
    Mutant("layers passed over", "raysde.conditioning.pretrained:check_complete", "if _strip_layer_number(name) in own", "if name in own", PRETRAINED + " -k 'none_of_the_encoder'"),
    Mutant("a tokenizer's own code", "raysde.conditioning.pretrained:check_no_code", ', ("tokenizer_config.json", get_tokenizer_config)):', ",):", PRETRAINED + " -k 'pickles_and_code'"),
    Mutant("prompts of other weights", "raysde.conditioning.prompt_cache:Prompts.__call__", "if weights != self.weights or any(each.requires_grad for each in parameters):", "if not self.weights:", PRETRAINED + " -k 'other_weights'"),
    Mutant("a fused optimiser unnoticed", "raysde.conditioning.prompt_cache:Prompts.__call__", " or any(each.requires_grad for each in parameters)", "", PRETRAINED + " -k 'other_weights'"),
    Mutant("loaded weights unnoticed", "raysde.conditioning.prompt_cache:Prompts.__call__", "(each.device, each.dtype, each._version) for", "(each.device, each.dtype, 0) for", PRETRAINED + " -k 'other_weights'"),
    Mutant("the prompt asked for last forgotten first", "raysde.conditioning.prompt_cache:Prompts._vectors", "self.known.pop(prompt, None)", "self.known.get(prompt)", PRETRAINED + " -k 'only_the_last'"),
    Mutant("a prompt's vectors with its padding's", "raysde.conditioning.prompt_cache:Prompts._vectors", "self.encoder(ids, mask)[mask]", "self.encoder(ids, mask)[0]", PRETRAINED + " -k 'depend_on_nothing'"),
    Mutant("prompts padded in front", "raysde.conditioning.prompt_cache:Prompts.__call__", "(0, 0, 0, length - len(found[prompt]))", "(0, 0, length - len(found[prompt]), 0)", PRETRAINED + " -k 'depend_on_nothing'"),
    Mutant("prompts encoded beside each other", "raysde.conditioning.prompt_cache:Prompts._vectors", "for value in self.tokenizer([prompt]))", "for value in self.tokenizer([prompt, *self.known][:2]))", PRETRAINED + " -k 'depend_on_nothing'"),
    Mutant("padding taken for a token", "raysde.conditioning.text:Tokenizer.__call__", "mask = torch.arange(length)[None, :] < lengths[:, None]", "mask = torch.arange(length)[None, :] <= lengths[:, None]", TEXT + " -k 'mask_marks'"),
    Mutant("captions encoded without their mask", "raysde.conditioning.text:TextEncoder.forward", "attention_mask=mask.to(torch.int64)", "attention_mask=torch.ones_like(ids)", PRETRAINED + " -k 'vectors_do_not'"),
    Mutant("the beginning's vector for CLIP's end", "raysde.conditioning.text:TextEncoder.pool_tokens", "last = mask.sum(dim=1) - 1", "last = mask.sum(dim=1) * 0", PRETRAINED + " -k 'summed_up'"),
    Mutant("the end of the padding for CLIP's end", "raysde.conditioning.text:TextEncoder.pool_tokens", "last = mask.sum(dim=1) - 1", "last = mask.sum(dim=1).amax().expand(len(mask)) - 1", PRETRAINED + " -k 'summed_up'"),
    Mutant("CLIP's tokens averaged", "raysde.conditioning.text:ENDS", 'ENDS = ("clip_text_model",)', 'ENDS = ("clip",)', PRETRAINED + " -k 'summed_up'"),
    Mutant("a mean of tokens and padding", "raysde.conditioning.text:TextEncoder.pool_tokens", "weight = mask.to(vectors.dtype)[:, :, None]", "weight = torch.ones_like(vectors[:, :, :1])", PRETRAINED + " -k 'summed_up'"),
    Mutant("a sum of tokens", "raysde.conditioning.text:TextEncoder.pool_tokens", "(vectors * weight).sum(dim=1) / weight.sum(dim=1)", "(vectors * weight).sum(dim=1)", PRETRAINED + " -k 'summed_up'"),
    Mutant("captions cut one token late", "raysde.conditioning.text:Tokenizer.encode", "truncation=True, max_length=self.max_tokens)", "truncation=True, max_length=self.max_tokens + 1)", TEXT + " -k 'cut_at'"),
    Mutant("captions cut with their end", "raysde.conditioning.text:Tokenizer.encode", 'self.tokenizer(caption, truncation=True, max_length=self.max_tokens)["input_ids"] or', 'self.tokenizer(caption)["input_ids"][: self.max_tokens] or', TEXT + " -k 'cut_at'"),
    Mutant("rows padded beyond the limit", "raysde.conditioning.text:Tokenizer.padded_length", "return min(self.max_tokens, -(-tokens // 8) * 8)", "return -(-tokens // 8) * 8", TEXT + " -k 'cut_at'"),
    Mutant("no token at all for an empty caption", "raysde.conditioning.text:Tokenizer.encode", " or [self.pad]", "", PRETRAINED + " -k 'nothing_of_an_empty'"),
    Mutant("a prompt of just the limit named", "raysde.conditioning.text:Tokenizer.warn_if_cut", "<= self.max_tokens:", "< self.max_tokens:", PRETRAINED + " -k 'just_the_limit'"),
    Mutant("a prompt named each time", "raysde.conditioning.text:Tokenizer.warn_if_cut", "        self.named.add(prompt)\n", "", PRETRAINED + " -k 'named_once'"),
    Mutant("captions of just the limit counted as cut", "raysde.conditioning.text:Tokenizer.warn_of_cut", "length > self.max_tokens for", "length >= self.max_tokens for", PRETRAINED + " -k 'how_many_captions'"),
    Mutant("words of equal frequency as they come", "raysde.conditioning.text:word_pieces", "key=lambda word: (-words[word], word)", "key=lambda word: -words[word]", TEXT + " -k 'vocabulary'"),
    Mutant("the rarest words first", "raysde.conditioning.text:word_pieces", "key=lambda word: (-words[word], word)", "key=lambda word: (words[word], word)", TEXT + " -k 'vocabulary'"),
    Mutant("words that cannot be spelled", "raysde.conditioning.text:word_pieces", '[*SPECIAL, *characters, *(f"##{character}" for character in characters)]', "[*SPECIAL, *characters]", TEXT + " -k 'vocabulary'"),
    Mutant("captions that begin with their end", "raysde.conditioning.text:train_tokenizer", 'BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))', 'BertProcessing(("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"]))', TEXT + " -k 'cut_at'"),
    Mutant("a frozen encoder with dropout", "raysde.conditioning.text:TextEncoder.train", "super().train(mode and self.trainable)", "super().train(mode)", TEXT + " -k 'frozen_or_trained'"),
    Mutant("a frozen encoder that is trained", "raysde.conditioning.text:TextEncoder.__init__", "encoder.requires_grad_(trainable)", "encoder.requires_grad_(True)", TEXT + " -k 'frozen_or_trained'"),
]  # fmt: skip
