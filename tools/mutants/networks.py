"""Mistakes in raysde/networks/."""

from tools.mutants.mutant import Mutant

DIFFUSERS = "tests/networks/test_diffusers.py"
EFFICIENCY = "tests/networks/test_efficiency.py"
FAMILIES = "tests/networks/test_families.py"
NETWORKS_AND_TEXT = "tests/networks/test_networks.py tests/networks/test_external.py tests/networks/test_layers.py tests/conditioning/test_text.py"

MUTANTS = [
    Mutant("each block compiled by itself", "raysde.networks.compile:compile_blocks", "recompile_limit=VARIANTS", "recompile_limit=VARIANTS, isolate_recompiles=True", EFFICIENCY),
    Mutant("torch's own limit of variants", "raysde.networks.compile:VARIANTS", "VARIANTS = 64", "VARIANTS = 2", EFFICIENCY),
    Mutant("the captions' mask dropped", "raysde.networks.diffusers:ConditionedUNet.forward", "encoder_attention_mask=real", "encoder_attention_mask=None", DIFFUSERS + " -k 'padding'"),
    Mutant("the variance for the mean", "raysde.networks.diffusers:keep_mean", "output[0][:, :channels]", "output[0][:, -channels:]", DIFFUSERS + " -k 'variance'"),
    Mutant("class 0 for none", "raysde.networks.diffusers:Transformer.forward", "torch.full((len(x),), self.classes,", "torch.full((len(x),), 0,", DIFFUSERS + " -k 'one_class'"),
    Mutant("a projection without conditions", "raysde.networks.diffusers:ConditionedUNet.forward", "pooled if self.projects else None", "0.0 * pooled if self.projects else None", DIFFUSERS + " -k 'projection'"),
    Mutant("sigma divided by twice", "raysde.networks.diffusers_contract:agree_preconditioning", "    if contract.divides:", "    if contract.centres and contract.divides:", DIFFUSERS + " -k 'named'"),
    Mutant("modulation's shift for its scale", "raysde.networks.dit:Block.forward", "shift1, scale1, gate1,", "scale1, shift1, gate1,", FAMILIES),
    Mutant("rows for columns", "raysde.networks.dit:position_embedding", "for count in (columns, rows)", "for count in (rows, columns)", FAMILIES),
    Mutant("a caption's padding read", "raysde.networks.dit:CrossAttention.forward", "attend_in_heads(self.query(tokens), key, value, self.heads, mask)", "attend_in_heads(self.query(tokens), key, value, self.heads)", FAMILIES),
    Mutant("Fourier features without 2 pi", "raysde.networks.layers:Fourier.forward", "angles = 2.0 * math.pi * to_full_precision(", "angles = to_full_precision(", FAMILIES),
    Mutant("attention that is not scaled", "raysde.networks.layers:attend_step_by_step", " / math.sqrt(query.shape[-1])", "", NETWORKS_AND_TEXT),
    Mutant("a mask that hides what is real", "raysde.networks.layers:attend_step_by_step", "masked_fill(~attn_mask", "masked_fill(attn_mask", NETWORKS_AND_TEXT),
    Mutant("a doubled image that is smoothed", "raysde.networks.layers:ResidualBlock.forward", 'mode="nearest"', 'mode="bilinear"', NETWORKS_AND_TEXT),
    Mutant("a halved image of every other pixel", "raysde.networks.layers:ResidualBlock.forward", "h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)", "h, x = h[..., ::2, ::2], x[..., ::2, ::2]", NETWORKS_AND_TEXT),
    Mutant("dropout drawn anew when recomputed", "raysde.networks.layers:recompute_block", "use_reentrant=False)", "use_reentrant=False, preserve_rng_state=False)", EFFICIENCY),
    Mutant("checkpointing that keeps everything", "raysde.networks.layers:recompute_block", "    if not torch.is_grad_enabled():\n        return block(*inputs)", "    return block(*inputs)", EFFICIENCY),
    Mutant("the image shown after the skip is kept", "raysde.networks.ncsnpp:Down.forward", "            if self.shown is not None:\n                h, pyramid = self.shown(h, pyramid)\n            skips.append(h)", '            skips.append(h)\n            if self.make_input_pyramid is not None:\n                h, pyramid = self.make_input_pyramid(h, pyramid)', FAMILIES),
    Mutant("attention in every block on the way up", "raysde.networks.ncsnpp:NCSNpp.build_up", "attends = block == self.size.blocks and ", "attends = ", FAMILIES),
    Mutant("queries as loud as the rest", "raysde.networks.ncsnpp:NCSNpp.attention", "gain=QUIET**0.5", "gain=1.0", FAMILIES),
    Mutant("sinusoids of log sigma", "raysde.networks.ncsnpp:NCSNppConfig.time_input", 'return "log_sigma" if self.embedding == "fourier" else "999t"', 'return "log_sigma"', FAMILIES),
    Mutant("a preset without its neighbours", "raysde.networks.presets:fill_in_preset", "{did_you_mean(str(name), PRESETS)}", "", "tests/config/test_loading.py -k 'mistakes'"),
    Mutant("the residual output not rescaled", "raysde.networks.pyramids:OutputResidual.forward", "h = (self.grow(pyramid) + h) * self.rescale", "h = self.grow(pyramid) + h", FAMILIES),
    Mutant("features beside the image, the wrong way round", "raysde.networks.pyramids:InputSkip.forward", "torch.cat([shown, h], dim=1)", "torch.cat([h, shown], dim=1)", FAMILIES),
    Mutant("zeros between pixels not made up for", "raysde.networks.resampling:FirDouble.__init__", "super().__init__(gain=4.0)", "super().__init__(gain=1.0)", FAMILIES),
    Mutant("a learned doubling's bias inside the filter", "raysde.networks.resampling:FirConvDouble.forward", "return F.conv2d(h, self.depthwise(h), self.bias, padding=1, groups=h.shape[1])", "return F.conv2d(h + self.bias[:, None, None], self.depthwise(h), padding=1, groups=h.shape[1])", FAMILIES),
    Mutant("patches with rows and columns exchanged", "raysde.networks.unet:UNet.forward", "F.pixel_unshuffle(x, self.size.patch)", "F.pixel_unshuffle(x.mT, self.size.patch).mT", NETWORKS_AND_TEXT),
    Mutant("attention to captions that never come", "raysde.networks.unet:UNet.stage", "attends and self.context is not None", "attends", NETWORKS_AND_TEXT),
    Mutant("as many blocks up as down", "raysde.networks.unet:UNet.build_up", "self.size.depths[level] + 1", "self.size.depths[level]", NETWORKS_AND_TEXT),
    Mutant("the blocks of the first level everywhere", "raysde.networks.unet:UNet.build_down", "range(self.size.depths[level]):", "range(self.size.depths[0]):", NETWORKS_AND_TEXT),
    Mutant("a patch that no size must fit", "raysde.networks.unet:UNetConfig.check_size", "self.patch * 2 ** (len", "2 ** (len", "tests/images/test_sizes.py -k 'allows'"),
]  # fmt: skip
