"""Contracts of the networks of diffusers: the inputs they take, their built-in scaling, and the models that fit.

Facts about diffusers 0.42: models/unets/unet_2d.py, models/unets/unet_2d_condition.py, models/embeddings.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from raysde.networks import DiffusersConfig
from raysde.sde import EDM, SDE, VE
from raysde.sde.parameterisation import Preconditioning, Target, TimeInput

ConditionKinds = Literal["nothing", "labels", "captions", "captions and labels"]
SINUSOIDS: tuple[TimeInput, ...] = ("999t", "step", "sigma", "log_sigma", "log_sigma/4")
"""Time inputs that a sinusoidal embedding with frequencies from 1 to 1e-4 resolves; t itself in [0, 1] is too small."""


@dataclass(frozen=True, kw_only=True)
class Contract:
    """The inputs that a network accepts and the scaling that it applies itself.

    Attributes:
        times: accepted time inputs, as values of ``preconditioning.time``.
        conditions: accepted conditions.
        divides: True if the network divides its output by its time input sigma, and so returns the score.
        centres: True if the network maps its input x to 2 x - 1, for data in [0, 1].
    """

    times: tuple[TimeInput, ...]
    conditions: tuple[ConditionKinds, ...]
    divides: bool = False
    centres: bool = False

    def choose_time_input(self, sde: SDE) -> TimeInput:
        """Return the time input to use unless the recipe sets one."""
        return sde.network_time if sde.network_time in self.times else self.times[0]


def contract_of(network: DiffusersConfig) -> Contract:
    """Return the contract of a network.

    Raises:
        ValueError: if no contract covers its configuration, naming the key.
    """
    return CONTRACTS[network.architecture](network.config)


def _unet_contract(config: Mapping[str, Any]) -> Contract:
    embedding, centres = config.get("time_embedding_type", "positional"), bool(config.get("center_input_sample"))
    anything: tuple[ConditionKinds, ...] = ("nothing", "labels", "captions", "captions and labels")
    if embedding == "positional":
        return Contract(times=SINUSOIDS, conditions=anything, centres=centres)
    if embedding == "fourier":
        return Contract(times=("sigma",), conditions=anything, divides=True, centres=centres)
    raise ValueError(
        f"network.config.time_embedding_type={embedding}: UNet2DModel takes positional or fourier here, "
        "which are defined between the steps of a discrete process"
    )


def _conditioned_unet_contract(config: Mapping[str, Any]) -> Contract:
    for key in ("encoder_hid_dim_type", "encoder_hid_dim", "addition_embed_type", "num_class_embeds"):
        if config.get(key) is not None:
            raise ValueError(f"network.config.{key}: raysde does not support this condition of UNet2DConditionModel")
    embedding, projection = config.get("time_embedding_type", "positional"), config.get("class_embed_type")
    if projection not in (None, "projection", "simple_projection"):
        raise ValueError(
            f"network.config.class_embed_type={projection}: UNet2DConditionModel takes projection or simple_projection"
        )
    if embedding not in ("positional", "fourier"):
        raise ValueError(
            f"network.config.time_embedding_type={embedding}: UNet2DConditionModel takes positional or fourier"
        )
    # unlike UNet2DModel it takes no logarithm before its Fourier features and never divides by sigma
    times: tuple[TimeInput, ...] = SINUSOIDS if embedding == "positional" else ("t", "log_sigma", "log_sigma/4")
    both: tuple[ConditionKinds, ...] = () if projection is None else ("captions and labels",)
    conditions: tuple[ConditionKinds, ...] = ("labels", "captions", *both)
    return Contract(times=times, conditions=conditions, centres=bool(config.get("center_input_sample")))


def _transformer_contract(config: Mapping[str, Any]) -> Contract:
    return Contract(times=SINUSOIDS, conditions=("nothing", "labels"))


CONTRACTS: dict[str, Callable[[Mapping[str, Any]], Contract]] = {
    "UNet2DModel": _unet_contract,
    "UNet2DConditionModel": _conditioned_unet_contract,
    "DiTTransformer2DModel": _transformer_contract,
}


def agree_preconditioning(
    network: DiffusersConfig,
    preconditioning: Preconditioning,
    *,
    sde: SDE,
    target: Target,
    data_range: tuple[float, float],
    captions: bool,
    labels: bool,
) -> Preconditioning:
    """Return the preconditioning with the network's time input where it sets none.

    Raises:
        ValueError: if the SDE, the target, the conditions or the preconditioning violate the network's contract.
    """
    contract, name = contract_of(network), network.architecture
    given = ("nothing", "labels", "captions", "captions and labels")[2 * captions + labels]
    if given not in contract.conditions:
        both = name == "UNet2DConditionModel" and captions and labels
        hint = ", and both with network.config.class_embed_type=simple_projection" if both else ""
        raise ValueError(f"{name} accepts {' or '.join(contract.conditions)}{hint}; the model has {given}")
    time = preconditioning.time or contract.choose_time_input(sde)
    if time not in contract.times:
        raise ValueError(f"preconditioning.time={time}: this {name} accepts {' or '.join(contract.times)}")
    if contract.divides:
        _check_divides(name, preconditioning, sde, target)
    if contract.centres and (preconditioning.input != "none" or tuple(data_range) != (0.0, 1.0)):
        raise ValueError(
            f"network.config.center_input_sample: this {name} centres data in [0, 1] itself; it needs "
            f"data.range=[0, 1] and preconditioning.input=none, got {list(data_range)} and {preconditioning.input}"
        )
    return replace(preconditioning, time=time)


def _check_divides(name: str, preconditioning: Preconditioning, sde: SDE, target: Target) -> None:
    if not isinstance(sde, VE | EDM):
        raise ValueError(
            f"network.config.time_embedding_type=fourier: this {name} divides its output by sigma, the score of "
            f"sde.kind ve or edm alone; take positional for {type(sde).__name__}"
        )
    if target != "score" or preconditioning.output != "none":
        raise ValueError(
            f"network.config.time_embedding_type=fourier: this {name} divides its output by sigma and gives the score; "
            f"it needs target=score and preconditioning.output=none, got {target} and {preconditioning.output}"
        )
