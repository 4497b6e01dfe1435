"""Published network sizes by name; other keys of the recipe override those of the preset.

Sources: score_sde's configurations (Song et al. 2021, appendix H); Peebles and Xie 2023, arXiv 2212.09748, table 1.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from raysde.io.near import did_you_mean
from raysde.networks.dit import DiTConfig
from raysde.networks.ncsnpp import NCSNppConfig

PRESETS: dict[str, NCSNppConfig | DiTConfig] = {
    "ddpmpp_cifar10": NCSNppConfig(),
    "ddpmpp_deep_cifar10": NCSNppConfig(blocks=8),
    "ncsnpp_cifar10": NCSNppConfig(fir=True, progressive_input="residual", embedding="fourier"),
    "ncsnpp_deep_cifar10": NCSNppConfig(blocks=8, fir=True, progressive_input="residual", embedding="fourier"),
    "ncsnpp_ffhq256": NCSNppConfig(
        multipliers=(1, 1, 2, 2, 2, 2, 2),
        blocks=2,
        dropout=0.0,
        fir=True,
        progressive="output_skip",
        progressive_input="input_skip",
        embedding="fourier",
    ),
    "dit_s_2": DiTConfig(channels=384, blocks=12, heads=6, patch=2),
    "dit_b_2": DiTConfig(channels=768, blocks=12, heads=12, patch=2),
    "dit_l_2": DiTConfig(channels=1024, blocks=24, heads=16, patch=2),
    "dit_xl_2": DiTConfig(channels=1152, blocks=28, heads=16, patch=2),
}
PRESET_SCHEMA: dict[str, Any] = {
    "enum": [*PRESETS],
    "default": None,
    "description": "name of a published size, which sets kind and all keys; other keys of the network override it",
}
"""JSON schema of the key ``preset``, which is not a field of any network."""


def fill_in_preset(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return a network's keys, completed from its ``preset`` if it names one.

    Raises:
        ValueError: if there is no such preset, or the keys have another ``kind``.
    """
    own = {key: value for key, value in keys.items() if key != "preset"}
    name = keys.get("preset")
    if name is None:
        return own
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}{did_you_mean(str(name), PRESETS)}")
    preset = asdict(PRESETS[name])
    if own.get("kind", preset["kind"]) != preset["kind"]:
        raise ValueError(
            f"preset {name} is of kind {preset['kind']}, got kind {own['kind']}"
            "; leave the kind out, or choose another preset"
        )
    return {**preset, **own}
