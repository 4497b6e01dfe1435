"""What a network of diffusers is told, what it does to its input and output by itself, and which models agree with it.

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
"""What a sinusoidal embedding with frequencies from 1 down to 1e-4 can tell apart; t itself it cannot."""


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What a network expects and gives.

    Attributes:
        times: the numbers that it can be told for t, as ``preconditioning.time`` names them.
        conditions: what it can be told beside them.
        divides: whether it divides its own output by the sigma that it is told, and so gives the score.
        centres: whether it makes 2 x - 1 of its input itself, for data in [0, 1].
    """

    times: tuple[TimeInput, ...]
    conditions: tuple[ConditionKinds, ...]
    divides: bool = False
    centres: bool = False

    def choose_time_input(self, sde: SDE) -> TimeInput:
        """What it is told of t unless the recipe says otherwise."""
        return sde.network_time if sde.network_time in self.times else self.times[0]


def contract_of(network: DiffusersConfig) -> Contract:
    """The contract of a network.

    Raises:
        ValueError: naming a key of its configuration for which there is none.
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
            raise ValueError(f"network.config.{key}: raysde gives UNet2DConditionModel no such condition")
    embedding, projection = config.get("time_embedding_type", "positional"), config.get("class_embed_type")
    if projection not in (None, "projection", "simple_projection"):
        raise ValueError(
            f"network.config.class_embed_type={projection}: UNet2DConditionModel takes projection or simple_projection"
        )
    if embedding not in ("positional", "fourier"):
        raise ValueError(
            f"network.config.time_embedding_type={embedding}: UNet2DConditionModel takes positional or fourier"
        )
    # its Fourier features have frequencies about 1, unlike UNet2DModel's take no logarithm, and it never divides
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
    """The preconditioning with the time that suits the network, where it names none.

    Raises:
        ValueError: if the network would be told or asked for something that its contract does not have.
    """
    contract, name = contract_of(network), network.architecture
    given = ("nothing", "labels", "captions", "captions and labels")[2 * captions + labels]
    if given not in contract.conditions:
        both = name == "UNet2DConditionModel" and captions and labels
        hint = ", and both with network.config.class_embed_type=simple_projection" if both else ""
        raise ValueError(f"{name} is told {' or '.join(contract.conditions)}{hint}; the model has {given} to tell")
    time = preconditioning.time or contract.choose_time_input(sde)
    if time not in contract.times:
        raise ValueError(f"preconditioning.time={time}: this {name} is told {' or '.join(contract.times)}")
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
