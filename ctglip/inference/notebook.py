"""Answers in a notebook: a table of them above the scan in NiiVue, with the asked organs laid over it."""

from __future__ import annotations

import html
from typing import Any

import nibabel as nib
import numpy as np

from ctglip.inference.answers import Answers
from ctglip.pages.pictures import PALETTE, window_for
from ctglip.pages.wording import share
from ctglip.resources import require
from ctglip.vocabulary.organs import OrganDictionary, load_organs


def show(answers: Answers, organs: OrganDictionary | None = None, height: int = 400) -> Any:
    """A widget of one scan's answers.

    Args:
        answers: as ``Pipeline.query`` gives them.
        organs: the dictionary that numbers the labels; ``model.dictionaries.organs`` where the model has its own.
        height: of the viewer, in pixels.

    Raises:
        MissingExtraError: without the extra ``notebook``.
    """
    niivue, widgets = require("ipyniivue", "notebook"), require("ipywidgets", "notebook")
    viewer = niivue.NiiVue(height=height)
    layers = volumes(answers, organs or load_organs())
    for volume in layers[1:]:
        volume["colormap_label"] = niivue.LUT(**volume["colormap_label"])
    viewer.load_volumes(layers)
    return widgets.VBox([widgets.HTML(table(answers)), viewer])


def volumes(answers: Answers, organs: OrganDictionary) -> list[dict[str, Any]]:
    """The scan and the asked organs as NiiVue takes them: NIfTI bytes with their window or colours."""
    standardized = answers.standardized
    answered = list(dict.fromkeys(answer.organ for answer in answers.answers))
    low, high = window_for(answered)
    image = nib.Nifti1Image(standardized.image.astype(np.int16), standardized.affine)
    found = [{"name": "scan.nii", "data": image.to_bytes(), "colormap": "gray", "cal_min": low, "cal_max": high}]
    if standardized.organs is None:
        return found
    numbers = np.zeros(standardized.organs.shape, np.uint8)
    for number, name in enumerate(answered, start=1):
        numbers[np.isin(standardized.organs, list(organs.roi_labels(name))) & (numbers == 0)] = number
    lut = [0] * 4 * 256
    for number in range(1, len(answered) + 1):
        colour = PALETTE[(number - 1) % len(PALETTE)]
        lut[4 * number : 4 * number + 4] = [*(int(colour[at : at + 2], 16) for at in (1, 3, 5)), 255]
    label = {"lut": lut, "min": 0, "max": 255, "labels": ["", *(answers.display(name) for name in answered)]}
    overlay = nib.Nifti1Image(numbers, standardized.affine)
    found.append({"name": "organs.nii", "data": overlay.to_bytes(), "opacity": 0.4, "colormap_label": label})
    return found


def table(answers: Answers) -> str:
    """The answers as an HTML table."""
    rows = []
    for answer in answers.answers:
        answer_text = answer.reason if answer.probability is None else share(answer.probability)
        rank = f"{answer.rank} of {answer.of}" if answer.rank else ""
        about = (answers.display(name) for name in (answer.organ, answer.abnormality))
        cells = (answer.question, *about, answer_text, rank)
        rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    heads = "".join(f"<th>{name}</th>" for name in ("Question", "Organ", "Abnormality", "Answer", "Rank"))
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
