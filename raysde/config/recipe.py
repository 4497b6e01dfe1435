"""The recipe as an object: every key, its default, and the constraints between keys.

The same dotted paths serve the command line (``sde.beta_max=10``), MLflow's params and the checkpoint. The node of a
stateless object is the object itself: ``sde: {kind: ve, sigma_max: 20}`` is the VE object.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import to_jsonable_python

from raysde.conditioning.external import ExternalText
from raysde.conditioning.text import AutoText, PretrainedText, ScratchText
from raysde.config.data_sections import Attributes, Data, Latent
from raysde.config.former import rename_former_keys
from raysde.config.intervals import Interval
from raysde.config.measuring import Keep, Validation
from raysde.config.node import Node, PositiveInt
from raysde.config.sections import Name, Resources, Sampling, Seed, Tracking, Train
from raysde.evaluation.metric import known_direction
from raysde.io.near import did_you_mean
from raysde.models.external_sde import ExternalSDE
from raysde.models.spec import ImageConditionField, NetworkField, SDEField
from raysde.networks import UNetConfig
from raysde.sampling.method import Method
from raysde.sde import VP
from raysde.sde.parameterisation import Preconditioning, Target
from raysde.training.validation import METRICS

TextField = Annotated[ScratchText | PretrainedText | AutoText | ExternalText, Field(discriminator="kind")]


class RunConfig(Node):
    """A complete recipe."""

    name: Name = Field(description="the run's identity: submitting it again resumes it")
    seed: Seed = Field(0, description="seed of weights, data order, noise, times and condition dropout")
    storage: str = Field("~/raysde/runs", description="folder or URI for runs and checkpoints, reached by every worker")
    data: Data = Field(description="the training data")
    sde: SDEField = Field(VP(), description="the forward process: vp, sub_vp, ve, edm, flow, or external for your own")
    network: NetworkField = Field(
        UNetConfig(),
        description="the score network: unet, ncsnpp, dit, diffusers for one of its classes, or external for your own",
    )
    target: Target = Field("v", description="what the network predicts: noise, score, x0, v, flow or edm")
    preconditioning: Preconditioning = Field(
        Preconditioning(), description="scaling of the network's inputs and output"
    )
    text: TextField | None = Field(
        None,
        description="caption encoder: scratch, pretrained, external for your own, or auto, which takes the encoder "
        "that `raysde precompute` ran over the data and otherwise scratch; null for no captions",
    )
    class_conditional: bool = Field(False, description="train with the class label as a condition")
    attributes: Attributes = Field(Attributes(), description="numeric attributes of the images as conditions")
    image_condition: ImageConditionField | None = Field(
        None,
        description="image that the network takes as a condition: upscale for super-resolution, inpaint for images "
        "with a hole, column for the data set's second image, such as a depth map; null for none",
    )
    latent: Latent | None = Field(None, description="autoencoder whose latents are trained on; null for pixels")
    train: Train = Field(Train(), description="training loop")
    validation: Validation = Field(Validation(), description="loss on held-out rows, per bin of log-SNR")
    sampling: Sampling = Field(Sampling(), description="sample grids during training")
    resources: Resources = Field(Resources(), description="workers and their resources")
    tracking: Tracking = Field(Tracking(), description="MLflow")
    log_every: PositiveInt = Field(50, description="steps between metrics")
    checkpoint_every: Interval = Field(
        1000, description="steps between checkpoints, or a time such as 10min; 0 for one at the end"
    )
    keep: Keep = Field(Keep(), description="checkpoints that stay, and their ranking")
    publish: Literal["best", "last"] | None = Field(
        None,
        description="checkpoint that is registered: best (by keep.by) or last; null: best where validation runs",
    )

    @model_validator(mode="before")
    @classmethod
    def _current_names(cls, given: Any) -> Any:
        return rename_former_keys(given) if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _fits(self) -> Self:
        most = self.resources.most
        if self.train.microbatch is None and self.train.batch % most:
            raise ValueError(
                f"train.batch={self.train.batch} is not divisible by resources.workers={most}"
                "; change one of them, or set train.microbatch"
            )
        micro = self.microbatch
        if self.train.batch % micro:
            raise ValueError(
                f"train.batch={self.train.batch} is not divisible by train.microbatch={micro}; change one of them"
            )
        made = self.train.batch // micro
        if made < most or (isinstance(self.resources.workers, int) and made % most):
            raise ValueError(
                f"train.batch={self.train.batch} makes {made} microbatches of {micro}, "
                f"which resources.workers={most} cannot share equally; change train.batch or the number of workers"
            )
        if self.resources.strategy == "fsdp" and self.train.compile:
            raise ValueError("train.compile=true does not go with resources.strategy=fsdp; choose one of them")
        least = self.resources.workers if isinstance(self.resources.workers, int) else self.resources.workers[0]
        uneven = [workers for workers in range(least, most + 1) if made % workers]
        if self.resources.strategy == "fsdp" and uneven:
            raise ValueError(
                f"resources.strategy=fsdp needs equal shares: train.batch={self.train.batch} makes {made} microbatches "
                f"of {micro}, which {uneven[0]} workers cannot share equally"
                "; change train.batch or the number of workers"
            )
        if self.sampling.prompts and self.text is None:
            raise ValueError("sampling.prompts needs a caption encoder: set text, or remove the prompts")
        if self.sampling.labels and not self.class_conditional:
            raise ValueError("sampling.labels needs classes: set class_conditional, or remove the labels")
        for name, values in self.sampling.attributes.items():
            if name not in self.attributes.names:
                raise ValueError(
                    f"sampling.attributes needs {name!r} in attributes.names; add it, or remove the values"
                )
            if not values:
                raise ValueError(f"sampling.attributes has no value of {name!r}; give one or more, or remove the name")
        if self.train.text_lr is not None and not self.trains_text:
            raise ValueError("train.text_lr needs a text encoder that is trained: text.kind=scratch or text.trainable")
        if self.validation.rows == 0 and not self.ranks_by_quality:
            for key, given in {"validation.patience": self.validation.patience, **self._wants_best}.items():
                if given:
                    raise ValueError(f"{key} needs held-out rows: set validation.rows")
        self._check_ranking()
        if self.latent is not None:
            self._check_latent()
        if not isinstance(self.sde, ExternalSDE):  # the user's own code is not imported to read a recipe
            Method(**self.sampling.settings).check(self.sde)
        conditions = (self.text, self.class_conditional, self.attributes.names, self.image_condition)
        if self.sampling.guidance != 1.0 and not any(conditions):
            raise ValueError(
                "sampling.guidance needs captions or classes: set text or class_conditional (or attributes, or "
                "image_condition)"
            )
        self._check_guidance()
        return self

    def _check_guidance(self) -> None:
        """Check that a model that is drawn with guidance also trains without conditions."""
        for key, guidance in (
            ("sampling.guidance", self.sampling.guidance),
            ("validation.sampler.guidance", self.validation.sampler.get("guidance", 1.0)),
        ):
            if guidance != 1.0 and self.train.condition_dropout in (0.0, 1.0):
                raise ValueError(
                    f"{key} needs training with and without conditions: set a train.condition_dropout between 0 and 1"
                )

    @property
    def _wants_best(self) -> dict[str, bool]:
        """The keys that rank checkpoints, and True for those that are set."""
        return {"keep.best": bool(self.keep.best), "publish=best": self.publish == "best"}

    @property
    def ranks_all(self) -> bool:
        """True if every checkpoint of the schedule is measured at its step, so that it is ranked."""
        return any(self._wants_best.values())

    @property
    def ranks_by_quality(self) -> bool:
        """True if checkpoints are ranked by a metric of drawn images."""
        return self.keep.by in self.validation.quality_names

    def _check_ranking(self) -> None:
        """Check that the run reports the metric of ``keep.by``, and that a best checkpoint to register is kept."""
        known = (*METRICS, *self.validation.quality_names)
        if self.keep.by not in known:
            name = self.keep.by.removeprefix("val/")
            if name != self.keep.by and known_direction(name) is not None:
                raise ValueError(f"keep.by={self.keep.by} is not measured here; add {name} to validation.metrics")
            raise ValueError(
                f"keep.by={self.keep.by} is no metric of this run{did_you_mean(self.keep.by, known)}; it reports "
                f"{', '.join(name for name in known if '_snr_' not in name)}, and the losses per bin of log-SNR"
            )
        if self.keep.mode is None:
            raise ValueError(
                f"keep.by={self.keep.by}: it is not known if lower or higher is better; set keep.mode to min or max"
            )
        if self.publish == "best" and self.keep.best == 0:
            raise ValueError("publish=best needs a best checkpoint: set keep.best=1 or more, or leave it out")

    def _check_latent(self) -> None:
        """Check that no key changes pixels, since latents are precomputed from whole images."""
        data = self.data
        if self.image_condition is not None and self.image_condition.kind != "column":
            raise ValueError(
                f"image_condition.kind={self.image_condition.kind} works on pixels, which a recipe with latent.vae "
                "does not read; remove it"
            )
        pixels = {"flip": data.flip, "crop": data.crop != "center", "scale": data.scale != (1.0, 1.0)}
        for key, given in {**pixels, "sigma_max_rows": bool(data.sigma_max_rows)}.items():
            if given:
                also = f", or set latent.{'flip' if key == 'flip' else 'crops'}" if key in ("flip", "scale") else ""
                raise ValueError(
                    f"data.{key} works on pixels, which a recipe with latent.vae does not read; remove it{also}"
                )

    @property
    def microbatch(self) -> int:
        """The number of images in one forward pass."""
        return self.train.microbatch or self.train.batch // self.resources.most

    @property
    def trains_text(self) -> bool:
        """True if a text encoder is, or may be, trained with the network."""
        return self.text is not None and (not isinstance(self.text, PretrainedText) or self.text.trainable)

    @property
    def model_name(self) -> str:
        """The registered name of the model."""
        return self.tracking.register_as or self.name

    def flat(self) -> dict[str, Any]:
        """Return the recipe as dotted paths and JSON values, as stored in MLflow and the checkpoint."""
        return flatten(self.model_dump(mode="json"))

    def default(self, path: str) -> Any:
        """Return the default of a key as a JSON value, for recipes that are older than the key; None if it has none."""
        *parents, name = path.split(".")
        node: Any = self
        for parent in parents:
            node = getattr(node, parent, None)
        if isinstance(node, Keep):
            return getattr(Keep(), name, None)  # it completes its own defaults
        field = type(node).model_fields.get(name) if isinstance(node, Node) else None
        if field is None or field.is_required():
            return None
        return to_jsonable_python(field.get_default(call_default_factory=True))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one with dotted keys; lists stay whole."""
    result: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            result.update(flatten(value, f"{prefix}{key}."))
        else:
            result[f"{prefix}{key}"] = value
    return result
