"""Whole scans to embeddings of their organs. Each scan passes the encoder once, however many organs are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float

from ctglip.data.scans import ScanCut, ScanSettings, render_scans
from ctglip.inference.encoding import OrganEmbeddings
from ctglip.inference.heatmap import contributions, scaled
from ctglip.models.dual_encoder import DualEncoder
from ctglip.models.region_readers import Regions
from ctglip.types import OrganRegion
from ctglip.vocabulary.organs import OrganDictionary


def readable(cut: ScanCut, rows: Sequence[OrganRegion], model: DualEncoder, organs: OrganDictionary) -> list[bool]:
    """Whether each organ can be read from a scan: a model that pools by label maps needs a voxel of it on the grid."""
    if "labels" not in model.region_inputs:
        return [True] * len(rows)
    there = np.bincount(cut.labels.ravel(), minlength=256) > 0 if cut.labels is not None else np.zeros(256, bool)
    return [bool(there[list(organs.roi_labels(row.organ))].any()) for row in rows]


@torch.no_grad()
def encode_scan(
    model: DualEncoder,
    cut: ScanCut,
    rows: Sequence[OrganRegion],
    names: Sequence[str],
    settings: ScanSettings,
) -> OrganEmbeddings:
    """Embed some organs of one scan.

    A model of whole images alone has one vector for all organs of a scan: the scan's. Without a head
    for anatomy the vector that meets findings also meets the organs' names.

    Args:
        model: put into evaluation mode for the time, left as it was; one that reads whole scans.
        cut: the scan on the model's grid.
        rows: the organs; all ``readable``.
        names: the release's organs, in the order of the model's queries.
        settings: which windows.
    """
    was_training = model.training
    model.eval()
    features, diagnosis = _read(model, cut, rows, names, settings)
    anatomy = diagnosis if model.anatomy_head is None else model.anatomy(features)
    model.train(was_training)
    return OrganEmbeddings(*(value.float().cpu().numpy() for value in (features, anatomy, diagnosis)))


def scan_maps(
    model: DualEncoder,
    cut: ScanCut,
    rows: Sequence[OrganRegion],
    organs: OrganDictionary,
    names: Sequence[str],
    settings: ScanSettings,
    axes: Sequence[Float[np.ndarray, "p e"]],
) -> Iterator[Float[np.ndarray, "x y z"]]:
    """Heat maps of the answers about some organs of one scan, which passes the encoder once.

    Args:
        axes: for each organ the directions that its answers are measured along.
        Others as in ``encode_scan``.

    Yields:
        ``HeatMap.values`` on the cut's grid, organ by organ, axis by axis.
    """
    organ_axes = [(number, axis) for number, several in enumerate(axes) for axis in several]
    found = contributions(model, lambda: _read(model, cut, rows, names, settings)[1], organ_axes, cut.hu.shape)
    for (number, _), added in zip(organ_axes, found, strict=True):
        inside = None if cut.labels is None else np.isin(cut.labels, list(organs.roi_labels(rows[number].organ)))
        yield scaled(added, inside)


def _read(
    model: DualEncoder,
    cut: ScanCut,
    rows: Sequence[OrganRegion],
    names: Sequence[str],
    settings: ScanSettings,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of the organs, and the vectors that meet findings."""
    device = next(model.parameters()).device
    image = torch.from_numpy(render_scans(cut.hu, settings))[None].to(device)
    if model.region_reader is None:
        assert model.image_head is not None
        features = model.image_features(image).expand(len(rows), -1)
        return features, model.image_head(features)
    features = model(image, scan_regions(model, cut, rows, names))
    return features, model.diagnosis(features)


def scan_regions(model: DualEncoder, cut: ScanCut, rows: Sequence[OrganRegion], names: Sequence[str]) -> Regions:
    """Organs of one scan as the model's reader wants them; a volume that is not known is 0."""
    device = next(model.parameters()).device
    labels = boxes = None
    if "labels" in model.region_inputs:
        assert cut.labels is not None
        labels = torch.from_numpy(cut.labels)[None].to(device)
    if "boxes" in model.region_inputs:
        boxes = torch.from_numpy(cut.boxes(rows)).to(device)
    return Regions(
        size=torch.from_numpy(cut.sizes(rows)).to(device),
        organ_id=torch.tensor([names.index(row.organ) for row in rows], dtype=torch.long, device=device),
        study_index=torch.zeros(len(rows), dtype=torch.long, device=device),
        labels=labels,
        boxes=boxes,
    )
