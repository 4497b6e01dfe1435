"""The JSON description of a score model, and building the model from it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError

from raysde.conditioning.conditioner import Conditioner
from raysde.conditioning.external import ExternalText, OwnEncoder
from raysde.conditioning.images import ColumnCondition, InpaintCondition, UpscaleCondition, planes_of
from raysde.conditioning.text import (
    PretrainedText,
    ScratchText,
    TextEncoder,
    Tokenizer,
    scratch_encoder,
    train_tokenizer,
)
from raysde.data.attributes import Attribute
from raysde.images.sizes import Size, format_size
from raysde.io.invalid import first_mistake
from raysde.io.own_code import External
from raysde.models.autoencoder import LatentSpec
from raysde.models.external_sde import ExternalSDE
from raysde.models.method_fields import SolverName
from raysde.models.sampling_defaults import check_settings
from raysde.models.score import ScoreModel
from raysde.networks import AnyNetwork, DiffusersConfig, NetworkConfig
from raysde.networks.diffusers_contract import agree_preconditioning
from raysde.networks.presets import PRESET_SCHEMA, fill_in_preset
from raysde.networks.uncertainty import Uncertainty
from raysde.rng import INITIAL, key
from raysde.sampling.solvers.default import FIRST
from raysde.sde import SDE, AnySDE
from raysde.sde.parameterisation import Preconditioning, Target

SDEField = Annotated[AnySDE | ExternalSDE, Field(discriminator="kind")]
NetworkField = Annotated[
    AnyNetwork,
    Field(discriminator="kind", json_schema_extra={"properties": {"preset": PRESET_SCHEMA}}),
    BeforeValidator(lambda node: fill_in_preset(node) if isinstance(node, Mapping) else node),
]
GenerationField = Annotated[dict[str, Any], AfterValidator(check_settings)]
ImageConditionField = Annotated[UpscaleCondition | InpaintCondition | ColumnCondition, Field(discriminator="kind")]
ModelText = Annotated[ScratchText | PretrainedText | ExternalText, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The description of a model: everything except its weights.

    Attributes:
        image: shape (channels, height, width) of the model's data.
        data_range: the float values of black and white.
        data_std: standard deviation of a pixel in that range.
        sde, network, target, text: see their modules; text is None for a model without captions.
        classes: number of class labels, 0 for none.
        class_names: names of the labels in the order of their numbers; empty if unknown.
        preconditioning: scaling of the network's inputs and output.
        uncertainty: True if the loss's log-variance over log-SNR is learned beside the network.
        latent: latent space of a latent model, whose latents have shape ``image``; None for a pixel model.
        generation: the model's default sampling settings, see :mod:`raysde.models.sampling_defaults`; may be empty.
        attributes: numeric attributes that the model takes, with their range in the training data.
        image_condition: task of which the model takes images as conditions; None without one.
        default_solver: solver if neither ``generation`` nor a call names one. Descriptions that predate this field keep
            the solver of that time; new ones store :data:`raysde.sampling.solvers.default.DEFAULT`.

    Raises:
        ValueError: if ``class_names`` are not ``classes`` different names, or the image condition does not fit.
    """

    image: tuple[int, int, int]
    data_range: tuple[float, float]
    data_std: float
    sde: SDEField
    network: NetworkField
    target: Target
    text: ModelText | None
    classes: int
    preconditioning: Preconditioning = field(default_factory=Preconditioning)
    uncertainty: bool = False
    latent: LatentSpec | None = None
    generation: GenerationField = field(default_factory=dict, hash=False)
    class_names: tuple[str, ...] = ()
    default_solver: SolverName = FIRST
    attributes: tuple[Attribute, ...] = ()
    image_condition: ImageConditionField | None = None

    def __post_init__(self) -> None:
        if self.image_condition is not None:
            self.image_condition.check_image(self.image)
        if self.class_names and not self.classes == len(self.class_names) == len(set(self.class_names)):
            raise ValueError(f"class_names must be {self.classes} different names, got {len(self.class_names)}")

    def shape_of(self, size: Size | None) -> tuple[int, int, int]:
        """Return the shape (channels, height, width) of the model's data for images of a size.

        Args:
            size: (height, width) of the images in pixels; None for the model's own.

        Raises:
            ValueError: if the network, or the autoencoder of a latent model, does not take such images.
        """
        if size is None:
            return self.image
        height, width = size
        if self.latent is not None:
            factor = self.fold
            if height % factor or width % factor:
                raise ValueError(f"size {height}x{width}: the autoencoder takes sides that are multiples of {factor}")
            height, width = height // factor, width // factor
        try:
            self.network.check_size(height, width)
        except ValueError as error:
            if self.latent is None:
                raise
            raise ValueError(f"size {format_size(size)} has latents of {height}x{width}; their {error}") from None
        return (self.image[0], height, width)

    @property
    def process(self) -> SDE:
        """The SDE; a user-written one is imported."""
        return self.sde.build() if isinstance(self.sde, ExternalSDE) else self.sde

    @property
    def conditional(self) -> bool:
        """True if the model takes captions, labels or numeric attributes."""
        return self.text is not None or self.classes > 0 or bool(self.attributes)

    @property
    def planes(self) -> int:
        """Number of planes of the image condition, 0 without one."""
        return planes_of(self.image_condition, self.image, self.fold)

    @property
    def fold(self) -> int:
        """Side in pixels of the block that a latent stands for; 1 for a model of pixels."""
        return 1 if self.latent is None else self.latent.pixels[1] // self.latent.shape[1]

    @property
    def network_image(self) -> tuple[int, int, int]:
        """Shape (channels, height, width) of the network's input: images, and planes of the image condition."""
        return (self.image[0] + self.planes, *self.image[1:])

    def dump(self) -> dict[str, Any]:
        """Return JSON values from which :meth:`parse` makes an equal object."""
        content: dict[str, Any] = TypeAdapter(ModelSpec).dump_python(self, mode="json")
        unset = (("class_names", ()), ("default_solver", FIRST), ("attributes", ()), ("image_condition", None))
        for name, first in unset:
            if getattr(self, name) == first:  # models that predate the field keep their hash
                del content[name]
        return content

    @classmethod
    def parse(cls, content: Any) -> Self:
        """Return the description that :meth:`dump` wrote.

        Raises:
            ValueError: if the content does not describe a model.
        """
        try:
            return TypeAdapter(cls).validate_python(content)
        except ValidationError as error:
            where, said = first_mistake(error)
            raise ValueError(f"the model's description is invalid at {where}: {said}") from error


def fresh_model(spec: ModelSpec, captions: Iterable[str], seed: int) -> ScoreModel:
    """Return a model with weights drawn from ``seed``; ``captions`` train a scratch encoder's tokenizer.

    Raises:
        ValueError: if a text encoder cannot be loaded, or the settings of the network do not fit the images.
    """
    torch.manual_seed(key(seed, INITIAL))
    tokenizer: Tokenizer | None = None
    encoder: TextEncoder | None = None
    if isinstance(spec.text, ScratchText):
        learned = train_tokenizer(captions, spec.text.vocabulary)
        tokenizer = Tokenizer(learned, spec.text.max_tokens)
        encoder = scratch_encoder(spec.text, len(learned))
    elif isinstance(spec.text, PretrainedText):
        from raysde.conditioning.pretrained import pretrained_encoder, pretrained_tokenizer  # loads transformers

        tokenizer = Tokenizer(pretrained_tokenizer(spec.text.path), spec.text.max_tokens)
        encoder = pretrained_encoder(spec.text)
    elif isinstance(spec.text, ExternalText):
        tokenizer, encoder = spec.text.build()
    return assemble_model(spec, tokenizer, encoder)


def empty_model(spec: ModelSpec, text_folder: Path, *, allow_code: bool) -> ScoreModel:
    """Return a model with the described architecture, whose weights are still to be loaded.

    Args:
        text_folder: folder of the tokenizer and the text encoder's architecture, written by :func:`save_text`.
        allow_code: True to import code that the description names.

    Raises:
        ValueError: if it names code that is not allowed.
    """
    check_code(spec, allow_code=allow_code)
    if spec.text is None:
        return assemble_model(spec, None, None)
    if isinstance(spec.text, ExternalText):
        return assemble_model(spec, *spec.text.build())
    from raysde.conditioning.pretrained import build_empty_encoder, pretrained_tokenizer  # loads transformers

    trainable = isinstance(spec.text, ScratchText) or spec.text.trainable
    tokenizer = Tokenizer(pretrained_tokenizer(str(text_folder)), spec.text.max_tokens)
    return assemble_model(spec, tokenizer, build_empty_encoder(text_folder, trainable=trainable))


def check_code(spec: ModelSpec, *, allow_code: bool) -> None:
    """Raise ValueError if a checkpoint's description names code to import and ``allow_code`` is False."""
    for part in (spec.sde, spec.network, spec.text):
        if isinstance(part, External) and not allow_code:
            raise ValueError(
                f"the checkpoint names code to import, {part.factory!r}; "
                "pass allow_code=True (--allow-code) if you trust it"
            )


def assemble_model(spec: ModelSpec, tokenizer: Tokenizer | None, encoder: TextEncoder | None) -> ScoreModel:
    """Return the model of a description with the given tokenizer and text encoder.

    Raises:
        ValueError: if the settings of the network do not fit the images.
    """
    ranges = [(each.low, each.high) for each in spec.attributes]
    conditioner = Conditioner(tokenizer, encoder, spec.classes, ranges=ranges)
    context = conditioner.width if spec.text is not None else None
    outside = complete_preconditioning(spec)
    config: NetworkConfig = spec.network
    network = config.build(spec.network_image, conditioner.width, context)
    uncertainty = Uncertainty() if spec.uncertainty else None
    own = spec.network if isinstance(spec.network, External) else None
    return ScoreModel(
        network, conditioner, spec.process, spec.target, spec.data_std, outside, uncertainty, own, spec.planes
    )


def complete_preconditioning(spec: ModelSpec) -> Preconditioning:
    """Return the description's preconditioning with the time input filled in.

    A network of diffusers chooses it by its contract, any other network where neither the description nor the SDE does.

    Raises:
        ValueError: if the description violates the contract of a network of diffusers.
    """
    if isinstance(spec.network, DiffusersConfig):
        return agree_preconditioning(
            spec.network,
            spec.preconditioning,
            sde=spec.process,
            target=spec.target,
            data_range=spec.data_range,
            captions=spec.text is not None,
            labels=spec.classes > 0 or bool(spec.attributes),
        )
    if spec.preconditioning.time is None and spec.process.network_time == "t":
        return replace(spec.preconditioning, time=spec.network.time_input)
    return spec.preconditioning


def save_text(model: ScoreModel, folder: Path) -> None:
    """Write the tokenizer and the text encoder's architecture as JSON and text, if the model takes captions.

    Nothing is written for a user-written encoder, whose architecture is its code.
    """
    conditioner = model.conditioner
    if conditioner.tokenizer is None or conditioner.encoder is None or isinstance(conditioner.encoder, OwnEncoder):
        return
    folder.mkdir(parents=True, exist_ok=True)
    conditioner.tokenizer.save(folder)
    conditioner.encoder.encoder.config.save_pretrained(str(folder))  # type: ignore[operator, union-attr]
