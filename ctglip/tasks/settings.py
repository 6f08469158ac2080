"""How a model is fine-tuned: one file of settings, kept beside the result as ``config.resolved.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator

from ctglip.config import RootSettings, Settings
from ctglip.data.augment import AugmentSettings
from ctglip.store.mask_classes import Undrawn
from ctglip.tasks.report_settings import ReportTaskSettings
from ctglip.training.optim import OptimSettings
from ctglip.training.trainer import LoopSettings

TuningMode = Literal["probe", "head", "lora", "full"]
ALL = "all"
SCRATCH = "scratch"


class ColumnSettings(Settings):
    """What a column of the label table means, where its name does not say it.

    Attributes:
        organs: the organs that it is read from; ``[all]`` takes every organ that the model has learned.
        abnormality: name in the dictionary, for the head's start from text.
        classes: the values of a multi-class column as they are written, in order; none: the column holds 0 and 1.
    """

    organs: tuple[str, ...] = ()
    abnormality: str | None = None
    classes: tuple[str, ...] = ()

    @field_validator("classes")
    @classmethod
    def _several(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) == 1 or len(set(value)) != len(value):
            raise ValueError("a multi-class column needs at least two different classes")
        return value


class HeadSettings(Settings):
    """What sits on the organs' features.

    Attributes:
        start: of the modes that train more than a probe: ``text`` reads the diagnosis embedding, and the weights of a
            known abnormality start as its zero-shot direction; ``zero`` reads the raw features, all weights start at
            zero.
        hidden: width of the attention gate of columns that are read from several organs.
        dropout: of the features.
    """

    start: Literal["text", "zero"] = "text"
    hidden: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class LossSettings(Settings):
    """What is minimised over the known labels.

    Attributes:
        balance: rare answers count more: both answers of a column, and all classes of one, weigh the same in total.
        most: the largest such weight.
    """

    balance: bool = True
    most: float = Field(default=20.0, ge=1)

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        return {} if self.balance else {"most": "balance is false"}


class FitSettings(Settings):
    """How long and on what.

    Attributes:
        epochs: at most so many over the training studies.
        patience: epochs without a better validation before it ends; 0 never ends early.
        batch: studies of a step.
        rank: of the low-rank updates (``lora``).
        checkpoint_every: epochs between checkpoints, of runs that read images.
        encode: crops encoded at a time where nothing is learned.
        keep_gb: memory for images that were read, where the encoder is trained.
        threads: threads that cut crops.
        device: ``auto`` takes a GPU where there is one.
    """

    epochs: int = Field(default=200, ge=1)
    patience: int = Field(default=30, ge=0)
    batch: int = Field(default=64, ge=1)
    rank: int = Field(default=4, ge=1)
    checkpoint_every: int = Field(default=1, ge=1)
    encode: int = Field(default=64, ge=1)
    keep_gb: float = Field(default=4.0, ge=0)
    threads: int = Field(default=2, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def loop(self, steps: int) -> LoopSettings:
        """The trainer's settings, where an epoch has so many steps: a validation an epoch, the best weights kept."""
        return LoopSettings(
            steps=self.epochs * steps,
            log_every=steps,
            checkpoint_every=self.checkpoint_every * steps,
            keep=1,
            validate_every=steps,
            release="best",
            patience=self.patience,
            trackers=(),
        )


class EvalSettings(Settings):
    """How results are compared.

    Attributes:
        seed: of the bootstrap.
        draws: bootstrap draws of patients.
        min_positives: a column with fewer positives, or fewer negatives, in the test split is not compared.
    """

    seed: int = 0
    draws: int = Field(default=1000, ge=10)
    min_positives: int = Field(default=3, ge=1)


class SegmentationTaskSettings(Settings):
    """A head that segments one thing on radiographs; its truth is what the store has drawn.

    Attributes:
        target: an organ of the dictionary (its pixels and those of its parts in the store's masks); a drawn finding
            (``pneumothorax``), where only boxes are known as its boxes; or a region with boxes (``lung_opacity``).
        undrawn: what a radiograph without any drawn finding means: ``empty``: it has none; ``leave_out``: nobody
            looked.
        head: ``unet``: from the encoder's levels, with skips. ``setr``: from its tokens, progressively enlarged.
            ``upernet``: from its levels, pooled at four sizes (arXiv 1807.10221).
        width: channels of the U-Net's finest step, of SETR's first (halved at each step), or of UPerNet.
        auxiliary: weight of the same loss on a second answer, from the last but one level alone (UPerNet).
        loss: ``focal_dice``: the focal loss minus the logarithm of the soft Dice; ``ce``: cross entropy.
        focal: weight of the focal loss beside the logarithm of the soft Dice.
        gamma: of the focal loss.
        threshold: probability from which on a pixel belongs to it.
        score: the Dice that is compared: ``dice_all``, ``dice_pos`` or ``mdice``, see ``tasks.segmentation``; all are
            told.
    """

    target: str = "lungs"
    undrawn: Undrawn = "empty"
    head: Literal["unet", "setr", "upernet"] = "unet"
    width: int = Field(default=64, ge=8)
    auxiliary: float = Field(default=0.0, ge=0)
    loss: Literal["focal_dice", "ce"] = "focal_dice"
    focal: float = Field(default=10.0, ge=0)
    gamma: float = Field(default=2.0, ge=0)
    threshold: float = Field(default=0.5, gt=0, lt=1)
    score: Literal["dice_all", "dice_pos", "mdice"] = "dice_all"

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        found = {} if self.head == "upernet" else {"auxiliary": f"head is {self.head}"}
        return found | (dict.fromkeys(("focal", "gamma"), "loss is ce") if self.loss == "ce" else {})


class CtSegmentationTaskSettings(Settings):
    """What is segmented on scans, and how.

    Attributes:
        targets: the classes, numbered from 1 in this order: organs of the dictionary, whose voxels the store's masks
            draw, and findings that the cohort has drawn (``lesions.parquet``): an abnormality, ``organ:abnormality``,
            or what their maker calls them. A later one lies on an earlier one.
        undrawn: what a study without any drawn finding means: ``empty``: it has none; ``leave_out``: nobody looked.
        spacing_mm: of the voxels that the network sees; none: the spacing that the model reads whole scans at, or that
            of the store.
        patch: voxels of a patch; none: as many as the model's input has.
        patches: of each scan in a step.
        foreground: share of the patches whose middle lies in a target (each of a scan's targets as often as the
            others); the other patches lie anywhere.
        width: channels of the decoder at full resolution; they double with each coarser step, up to 320.
        supervision: coarser steps of the decoder that the loss looks at too, each half as much as the finer one.
        dice, ce: weights of the Dice loss and of the cross entropy.
        overlap: of neighbouring windows, where a whole scan is segmented; their answers are weighed by a Gaussian.
        windows: windows of a whole scan that are looked at together.
        val_scans: scans of the validation split that are segmented after each epoch, at most.
        tolerance_mm: distance up to which surfaces agree (NSD).
        lesion_iou: intersection over union from which a drawn finding counts as found (lesion F1).
        shift_hu, noise_hu: standard deviations of a shift of all HU of a training patch, and of noise on each voxel.
    """

    targets: tuple[str, ...] = ("liver", "spleen", "kidneys")
    undrawn: Undrawn = "empty"
    spacing_mm: tuple[float, float, float] | None = None
    patch: tuple[int, int, int] | None = None
    patches: int = Field(default=2, ge=1)
    foreground: float = Field(default=0.5, ge=0, le=1)
    width: int = Field(default=32, ge=8, multiple_of=8)
    supervision: int = Field(default=2, ge=0, le=4)
    dice: float = Field(default=1.0, ge=0)
    ce: float = Field(default=1.0, ge=0)
    overlap: float = Field(default=0.5, ge=0, lt=1)
    windows: int = Field(default=4, ge=1)
    val_scans: int = Field(default=20, ge=1)
    tolerance_mm: float = Field(default=2.0, gt=0)
    lesion_iou: float = Field(default=0.1, gt=0, lt=1)
    shift_hu: float = Field(default=10.0, ge=0)
    noise_hu: float = Field(default=5.0, ge=0)

    @field_validator("spacing_mm", "patch")
    @classmethod
    def _positive(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and min(value) <= 0:
            raise ValueError("sizes are above 0")
        return value


class FinetuneConfig(RootSettings):
    """One fine-tuning, as far as all tasks share it; each task has a class of its own (``CONFIGS``).

    Attributes:
        task: what is learned: ``classification``: columns of a label table; ``segmentation``: an organ or a drawn
            finding on radiographs; ``ct_segmentation``: organs and drawn findings on scans; ``report``: the passages of
            reports.
        mode: ``probe``: one linear layer on frozen features. ``head``: the diagnosis head and the linear layer on
            frozen features. ``lora``: also low-rank updates of the encoder. ``full``: everything.
        baselines: other initializations with the same labels and seeds: ``scratch`` (random weights, always trained in
            full), a run or model folder, or of scans ``NAME=WEIGHTS`` of an encoder (``tasks.starts``).
        fractions: shares of the training patients whose labels are used; smaller subsets lie within larger ones. The
            validation split is kept whole.
        seeds: each is a subset of patients, a random start of what is new, and an order of batches.
        scratch_optim, scratch_fit: ``optim`` and ``fit`` of random weights.
        optim: ``layer_decay`` gives lower layers of the encoder lower rates (``lora``, ``full``).
    """

    kind: Literal["finetune"] = "finetune"
    task: str = "classification"
    mode: TuningMode = "probe"
    baselines: tuple[str, ...] = ()
    fractions: tuple[float, ...] = (1.0,)
    seeds: tuple[int, ...] = (0,)
    optim: OptimSettings = OptimSettings(lr=0.003, warmup=0, weight_decay=0.01)
    fit: FitSettings = FitSettings()
    scratch_optim: OptimSettings = OptimSettings(lr=0.001, warmup=20, weight_decay=0.05)
    scratch_fit: FitSettings = FitSettings(epochs=40, patience=10, batch=8)
    evaluate: EvalSettings = EvalSettings()

    @classmethod
    def variant(cls, tree: Any) -> type[Self]:
        """The class of a task's settings."""
        task = tree.get("task", "classification") if isinstance(tree, dict) else ""
        return CONFIGS.get(task, cls) if cls is FinetuneConfig else cls  # pyright: ignore[reportReturnType]

    @classmethod
    def model_json_schema(cls, *arguments: Any, **more: Any) -> dict[str, Any]:
        """The schema of all tasks, or of one."""
        if cls is FinetuneConfig:
            return {"oneOf": [one.model_json_schema(*arguments, **more) for one in CONFIGS.values()]}
        return super().model_json_schema(*arguments, **more)

    @property
    def trains_encoder(self) -> bool:
        """Of some initialization the image encoder is trained."""
        return self.mode in ("lora", "full") or SCRATCH in self.baselines

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        found: dict[str, str] = {}
        found |= dict.fromkeys(("scratch_fit.rank", "scratch_fit.encode"), "random weights are trained in full")
        if self.mode != "lora":
            found["fit.rank"] = f"mode is {self.mode}"
        if self.mode in ("lora", "full"):
            found["fit.encode"] = f"mode is {self.mode}, and nothing is frozen"
        if self.mode in ("probe", "head"):
            found["optim.layer_decay"] = f"mode is {self.mode}, and the encoder is not trained"
        return found

    @field_validator("fractions")
    @classmethod
    def _shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or any(not 0 < share <= 1 for share in value):
            raise ValueError("fractions are shares above 0 and up to 1")
        return tuple(sorted(set(value)))

    @field_validator("seeds")
    @classmethod
    def _some(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("seeds must be different numbers, at least one")
        return value


class OrganTaskConfig(FinetuneConfig):
    """What tasks that read organs share.

    Attributes:
        read: ``organs``: each organ is read. ``whole``: one feature of the whole radiograph stands for all; so it does
            for all models of radiographs that find no organs. For models of radiographs alone.
        augment: of crops and scans where the encoder is trained; radiographs are augmented as in their pretraining, but
            never mirrored.
    """

    read: Literal["organs", "whole"] = "organs"
    augment: AugmentSettings = AugmentSettings()

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        found = {**super().unread(), "augment.mirror": "a label of a left organ stays one of a left organ"}
        if not self.trains_encoder:
            found |= {f"augment.{name}": "no encoder is trained" for name in AugmentSettings.model_fields}
        return found


class ClassificationConfig(OrganTaskConfig):
    """Columns of a label table; with ``read: whole`` each is read from the whole radiograph, whatever it is about.

    Attributes:
        columns: what columns mean whose name does not say it.
        ignore: columns that are left alone.
    """

    task: Literal["classification"] = "classification"  # pyright: ignore[reportIncompatibleVariableOverride]
    columns: dict[str, ColumnSettings] = Field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    head: HeadSettings = HeadSettings()
    loss: LossSettings = LossSettings()

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        return {**super().unread(), **({"head.start": "mode is probe"} if self.mode == "probe" else {})}


class ReportConfig(OrganTaskConfig):
    """A report, organ by organ: ``probe`` trains what writes on a frozen encoder, the others the encoder too.

    Attributes:
        report: what is written, and from what.
    """

    task: Literal["report"] = "report"  # pyright: ignore[reportIncompatibleVariableOverride]
    mode: Literal["probe", "lora", "full"] = "probe"  # pyright: ignore[reportIncompatibleVariableOverride]
    report: ReportTaskSettings = ReportTaskSettings()

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        return {**super().unread(), "evaluate.min_positives": "reports have no columns"}


class MaskTaskConfig(FinetuneConfig):
    """What tasks that learn from masks share."""

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        unused = {"fit.encode": "encoders are not run ahead", "evaluate.min_positives": "masks have no positives"}
        return {**super().unread(), **unused}


class SegmentationConfig(MaskTaskConfig):
    """An organ or a drawn finding on radiographs: ``probe`` trains a head on a frozen encoder.

    Attributes:
        segmentation: what is segmented, and how.
    """

    task: Literal["segmentation"] = "segmentation"  # pyright: ignore[reportIncompatibleVariableOverride]
    mode: Literal["probe", "full"] = "probe"  # pyright: ignore[reportIncompatibleVariableOverride]
    segmentation: SegmentationTaskSettings = SegmentationTaskSettings()


class CtSegmentationConfig(MaskTaskConfig):
    """Organs and drawn findings on scans: ``probe`` trains a decoder on a frozen encoder.

    Attributes:
        segmentation: what is segmented, and how.
    """

    task: Literal["ct_segmentation"] = "ct_segmentation"  # pyright: ignore[reportIncompatibleVariableOverride]
    mode: Literal["probe", "full"] = "full"  # pyright: ignore[reportIncompatibleVariableOverride]
    segmentation: CtSegmentationTaskSettings = CtSegmentationTaskSettings()


CONFIGS: dict[str, type[FinetuneConfig]] = {
    "classification": ClassificationConfig,
    "segmentation": SegmentationConfig,
    "ct_segmentation": CtSegmentationConfig,
    "report": ReportConfig,
}
"""Settings by the name of the task; those of a task that is not here are ``FinetuneConfig``'s alone."""
