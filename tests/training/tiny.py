"""A small store whose findings are plain to see: fat livers are dark, large spleens are large, cysts are dark spots."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from ctglip.ct.recipe import CtRecipe
from ctglip.ct.standardize import standardize
from ctglip.cxr.recipe import CXR_MAX, CxrRecipe
from ctglip.data.cxr import CxrDataSettings
from ctglip.data.studies import StudyDataset
from ctglip.reports.parser import ReportParser
from ctglip.store.format import StoreInfo
from ctglip.store.splits import SplitSettings, assign_splits
from ctglip.store.study import StudyRecord, write_study
from ctglip.store.tables import Store, compact, create_store
from ctglip.types import LabelMap, LesionAnnotation, Region, Report, Scan, Standardized
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs

ORGANS = load_organs()
RECIPE = CtRecipe(spacing_mm=(6.0, 6.0, 6.0), crop_to_body=False)
_SAYS = {
    "liver:hepatic_steatosis": (
        ("Diffuse fatty infiltration of the liver.", "Hepatic steatosis is present."),
        ("The liver is unremarkable.", "No hepatic steatosis."),
    ),
    "spleen:splenomegaly": (
        ("The spleen is enlarged.", "There is splenomegaly."),
        ("The spleen is unremarkable.", "The spleen is normal in size."),
    ),
    "kidney_left:renal_cyst": (
        ("There is a cyst in the left kidney.", "Simple renal cyst on the left."),
        ("The left kidney is unremarkable.", "No cyst in the left kidney."),
    ),
}


def tiny_study(rng: np.random.Generator) -> tuple[Scan, LabelMap, str, dict[str, int]]:
    """A scan of 20^3 voxels of 6 mm with three box-shaped organs, its labels, report and truth."""
    truth = {name: int(rng.random() < 0.5) for name in _SAYS}
    hu = np.full((20, 20, 20), -90, dtype=np.float32)
    labels = np.zeros(hu.shape, dtype=np.uint8)
    liver = (slice(11, 18), slice(6, 15), slice(8, 16))
    reach = 6 if truth["spleen:splenomegaly"] else 4
    spleen = (slice(2, 2 + reach), slice(4, 4 + reach), slice(11, 11 + reach))
    kidney = (slice(3, 9), slice(12, 17), slice(2, 9))
    for name, instance, value in (("liver", liver, 60), ("spleen", spleen, 50), ("kidney_left", kidney, 35)):
        labels[instance] = ORGANS[name].label or 0
        hu[instance] = value + rng.normal(0, 3)
    if truth["liver:hepatic_steatosis"]:
        hu[liver] = 0 + rng.normal(0, 5)
    if truth["kidney_left:renal_cyst"]:
        at = rng.integers(0, 3, 3)
        hu[4 + at[0] : 6 + at[0], 13 + at[1] : 15 + at[1], 3 + at[2] : 6 + at[2]] = -60
    image = np.rint(hu + rng.normal(0, 5, hu.shape)).astype(np.int16)
    affine = np.diag([6.0, 6.0, 6.0, 1.0])
    said = [lines[0 if truth[name] else 1] for name, lines in _SAYS.items()]
    report = " ".join(lines[int(rng.integers(2))] for lines in said)
    return Scan(image, affine), LabelMap(labels, affine), f"FINDINGS: {report}", truth


def drawn_cyst(scan: Scan, labels: LabelMap) -> tuple[tuple[LesionAnnotation, ...], tuple[np.ndarray, ...]]:
    """The cyst of a left kidney as a drawn lesion and its layer: its dark voxels."""
    inside = (labels.labels == ORGANS["kidney_left"].label) & (scan.hu < -20)
    edges = [np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    box = tuple(int(edge) for span in edges for edge in (span[0], span[-1] + 1))
    return (LesionAnnotation("kidney_left", "renal_cyst", "cyst", box, 0, 1),), (inside.astype(np.uint8),)


def write_tiny_store(
    path: Path, studies: int, seed: int = 0, drawn: bool = False, masks: bool = True
) -> tuple[Store, Path]:
    """A store of tiny studies (each of its own patient) and the label table of what is true of them.

    Args:
        drawn: cysts are drawn.
        masks: organs are known.
    """
    abnormalities = load_abnormalities()
    dictionaries = {"organs": ORGANS.hash, "abnormalities": abnormalities.hash}
    info = StoreInfo(
        recipe=RECIPE.model_dump(mode="json"),
        recipe_hash=RECIPE.hash,
        dictionaries=dictionaries,
        labels=ORGANS.label_names(),
    )
    store = create_store(path, info)
    rng, parser, rows = np.random.default_rng(seed), ReportParser(), []
    for number in range(studies):
        scan, labels, report, truth = tiny_study(rng)
        standardized = standardize(scan, labels if masks else None, RECIPE, ORGANS)
        findings = parser.parse(report)
        name = f"s{number:03d}"
        record = StudyRecord(name, f"p{number:03d}", standardized, name, RECIPE.hash, findings=findings)
        if drawn and truth["kidney_left:renal_cyst"]:
            lesions, layers = drawn_cyst(scan, labels)
            record = replace(record, lesions=lesions, lesion_layers=layers)
        write_study(path, record)
        rows.append({"study_id": name, **truth})
    compact(store)
    assign_splits(store, SplitSettings(fractions=(0.6, 0.2, 0.2)))
    table = path.parent / f"{path.name}_truth.csv"
    pl.DataFrame(rows).write_csv(table)
    return Store.open(path), table


CXR_SAYS = {
    "heart:cardiomegaly": (
        (("The heart is enlarged.", "The cardiac silhouette is enlarged."), "Cardiomegaly."),
        (("The heart is normal in size.", "The heart size is normal."), "Normal heart."),
    ),
    "lung_right:consolidation": (
        (
            ("There is consolidation in the right lung.", "Right lung consolidation."),
            "Right lung consolidation.",
        ),
        (("The right lung is clear.", "No consolidation in the right lung."), "Clear lungs."),
    ),
}


def tiny_radiograph(rng: np.random.Generator) -> tuple[np.ndarray, tuple[Region, ...], Report, dict[str, int]]:
    """A radiograph of 64 x 64 pixels with two dark lungs and a heart that may be wide, its boxes, report and truth."""
    truth = {name: int(rng.random() < 0.5) for name in CXR_SAYS}
    radiograph = np.full((64, 64), 2000.0)
    radiograph[8:52, 6:28] = radiograph[8:52, 36:58] = 800
    wide = 8 if truth["heart:cardiomegaly"] else 0
    radiograph[28:54, 26 - wide : 38 + wide] = 2600
    if truth["lung_right:consolidation"]:
        row, column = rng.integers(10, 18), rng.integers(7, 12)
        radiograph[row : row + 10, column : column + 8] = 2000
    radiograph += rng.normal(0, 60, radiograph.shape)
    boxes = (
        Region("cardiac_silhouette", 28, 54, 26 - wide, 38 + wide),
        Region("right_lung", 8, 52, 6, 28),
        Region("left_lung", 8, 52, 36, 58),
    )
    said = [lines[1 - truth[name]] for name, lines in CXR_SAYS.items()]
    findings = " ".join(lines[int(rng.integers(2))] for lines, _ in said)
    missing = rng.random()
    report = Report(
        None if missing < 0.15 else findings, None if missing > 0.85 else " ".join(brief for _, brief in said)
    )
    return np.clip(radiograph, 0, CXR_MAX).astype(np.uint16), boxes, report, truth


def write_tiny_radiographs(path: Path, radiographs: int, seed: int = 0) -> tuple[Store, Path]:
    """A store of tiny radiographs, some without findings or without an impression, and what is true of them."""
    recipe = CxrRecipe(size=64)
    info = StoreInfo(modality="cxr", recipe=recipe.model_dump(mode="json"), recipe_hash=recipe.hash)
    store = create_store(path, info)
    rng, parser, rows = np.random.default_rng(seed), ReportParser(), []
    for number in range(radiographs):
        radiograph, boxes, report, truth = tiny_radiograph(rng)
        name = f"f{number:03d}"
        record = StudyRecord(
            name, f"p{number:03d}", Standardized(radiograph, None, np.eye(4), regions=boxes), name, recipe.hash,
            report=report, findings=parser.parse(report), row={"modality": "cxr", "view": "pa"},
        )  # fmt: skip
        write_study(path, record)
        rows.append({"study_id": name, **truth})
    compact(store)
    assign_splits(store, SplitSettings(fractions=(0.6, 0.2, 0.2)))
    table = path.parent / f"{path.name}_truth.csv"
    pl.DataFrame(rows).write_csv(table)
    return Store.open(path), table


def radiographs_of(store: Store, split: str, settings: CxrDataSettings, **more: Any) -> StudyDataset:
    """Radiographs with their reports."""
    return StudyDataset(store, split, ORGANS, load_abnormalities(), settings, **{"texts": "reports", **more})


def write_word_bert(folder: Path, words: int = 400, also: Iterable[str] = ()) -> Path:
    """A one-layer random BERT that gives every common word of the dictionaries, and those of some texts ``also``, an
    embedding of its own; all others share one."""
    from collections import Counter

    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    abnormalities = load_abnormalities()
    texts = [text for entry in abnormalities.abnormalities.values() for text in (*entry.positive, *entry.negative)]
    texts += [line for both in _SAYS.values() for lines in both for line in lines]
    texts += [line for both in CXR_SAYS.values() for lines, brief in both for line in (*lines, brief)]
    counts = Counter(word.strip(".,;{}").lower() for text in texts for word in text.split())
    listed = [word for word, _ in counts.most_common(words)] + ["liver", "spleen", "kidney", "left", "right"]
    listed += [word.lower() for text in also for word in text.split()]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys((*special, *listed)))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return folder
