"""The card of a released model: what it is, what it was trained on and started from, what was measured, what it is for.

Nothing on it is made up: what is not recorded is said to be missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctglip.encoder_cards import encoder_card, encoder_names
from ctglip.errors import CTGLIPError, ModelError
from ctglip.files import file_checksum, read_json, write_text
from ctglip.models.encoders.base import EncoderSettings, model_folder
from ctglip.models.release import Release
from ctglip.models.text import TextEncoderSettings

_UNKNOWN = "not known here: read it where the weights are from"
_EMBEDDED = "Apache-2.0 (packed as MIT)"
_LISTED = 12
_USE = (
    "Research on {images} made by the recipe in `config.json`: features for probes, a start for fine-tuning and, where "
    "it compares images with words, comparing them with sentences.",
    "It is not a medical device. It must not decide on a diagnosis, a treatment or a referral, and nobody has shown "
    "that it is safe or fair to. Figures of one hospital, scanner or population say little about another.",
    "Answers about organs or findings that training did not show (under data, above) are guesses.",
)


def started_from(encoder: EncoderSettings, text: TextEncoderSettings, initial: str | None) -> list[dict[str, str]]:
    """What a training started from, part by part, with the licence that its weights carry.

    Args:
        encoder, text, initial: of the run's config.

    Returns:
        ``part``, ``name`` and ``licence`` of each; of a run of this project's what that one started from.
    """
    found = []
    for part, source in (("whole model", initial), ("image encoder", encoder.weights)):
        if source is None:
            continue
        if (folder := model_folder(Path(source))) is not None:
            about = read_json(folder / "config.json")
            before = [one for one in about["provenance"].get("started_from", []) if one["part"] != "text encoder"]
            found += [{"part": part, "name": f"a model of ctglip ({source})", "licence": "that of its owner"}, *before]
        elif encoder.name in encoder_names() and part == "image encoder":
            card = encoder_card(encoder.name)
            found.append({"part": part, "name": f"{card.title} ({source})", "licence": card.licence})
        else:
            found.append({"part": part, "name": source, "licence": _UNKNOWN})
    licence = _EMBEDDED if text.name.startswith("embedded:") else _UNKNOWN
    return [*found, {"part": "text encoder", "name": text.name, "licence": licence}]


def write_card(release: Release, folder: Path, evaluation: Path | None = None) -> Path:
    """Write ``README.md`` with the tags that Hugging Face's hub reads.

    Args:
        release: the model, with where it was loaded from.
        folder: to write into.
        evaluation: what ``ctglip evaluate`` wrote of this model; without it the card has no figures.

    Raises:
        ModelError: code ``evaluation``: it is no evaluation, or one of another model.
    """
    figures = None if evaluation is None else _figures(release, evaluation)
    images = {"ct": "CT scans", "cxr": "chest radiographs"}[release.modality]
    sections = {
        "Load": _loading(release),
        "What it is": _about(release),
        "Data": _data(release.provenance),
        "Figures": figures
        or "None: this card was written without an evaluation (`ctglip export --evaluation FOLDER`).",
        "Intended use": "\n".join(f"- {line.format(images=images)}" for line in _USE),
        "Licence": _licence(release.provenance),
    }
    tags = ["radiology", release.modality, "ctglip", *(["vision-language"] if release.aligned else ["self-supervised"])]
    head = ["---", "library_name: ctglip", "license: other", "license_name: see-below", "tags:"]
    head += [*(f"- {tag}" for tag in tags), "---", "", f"# {release.model.settings.encoder.name} for {images}", ""]
    body = [f"## {title}\n\n{text}\n" for title, text in sections.items()]
    path = folder / "README.md"
    write_text(path, "\n".join([*head, *body]))
    return path


def _loading(release: Release) -> str:
    lines = ["```python", "from ctglip.models.hub import HubModel", 'model = HubModel.from_pretrained("FOLDER")', "```"]
    lines += ["", "`model.image_features(images)` gives the image encoder's features."]
    if release.aligned:
        lines[-1] += " `ctglip.load_model` of the same folder answers questions about a file."
    return "\n".join(lines)


def _about(release: Release) -> str:
    model, encoder = release.model, release.model.settings.encoder.name
    count = sum(value.numel() for value in model.encoder.parameters())
    sides, kind = " x ".join(map(str, release.sides)), release.reader_kind
    text = release.text_settings.name
    rows = {
        "image encoder": f"{encoder}, {count / 1e6:.1f} M parameters",
        "input": f"{model.inputs.in_channels} x {sides} (channels first), made as `{kind}` of `config.json` says",
        "organs are read by": model.reading,
        "text encoder": text if release.aligned else f"not used ({text} travels along)",
        "compares images with words": "yes" if release.aligned else "no: images and texts were not brought together",
    }
    return _table(("", ""), rows.items())


def _data(provenance: Mapping[str, Any]) -> str:
    trained: Mapping[str, Sequence[str]] = provenance.get("trained") or {}
    rows = {
        "objective": provenance.get("objective", "not recorded"),
        "studies of the split train": provenance.get("training_studies", "not recorded"),
        "fingerprint of the store": provenance.get("studies", "not recorded"),
        "steps, seed": f"{provenance.get('steps', '?')}, {provenance.get('seed', '?')}",
        "left out as unreadable": len(provenance.get("failed_studies", ())),
        "validated on": provenance.get("validation", "not recorded"),
    }
    lines = [_table(("", ""), rows.items()), ""]
    if trained:
        lines.append("Findings that training reports affirm:\n")
        lines += [f"- {organ}: {_some(names)}" for organ, names in trained.items() if names]
        lines.append("")
    lines.append(
        "Who the patients are, where and how they were scanned, and under which terms: not recorded by ctglip."
    )
    return "\n".join(lines)


def _licence(provenance: Mapping[str, Any]) -> str:
    parts = provenance.get("started_from")
    if parts is None:
        return "What it was started from is not recorded; this card grants no licence."
    rows = [(one["part"], one["name"], one["licence"]) for one in parts]
    lines = ["Weights that training started from keep their licences:", "", _table(("part", "from", "licence"), rows)]
    if not any(one["part"] != "text encoder" for one in parts):
        lines.append("\nThe image encoder started from random weights.")
    lines.append("\nThis card grants no licence: its owner adds one that those, and the terms of the data, allow.")
    return "\n".join(lines)


def _figures(release: Release, evaluation: Path) -> str:
    """Macro AUROC and the pairs of an evaluation of this very model.

    Raises:
        ModelError: code ``evaluation``.
    """
    file = evaluation / "results.json"
    try:
        found = read_json(file)
        rows = [("macro AUROC", "", _interval(found["macro_auroc"]))]
        rows += [(one["organ"], one["abnormality"], _interval(one["auroc"])) for one in found["pairs"]]
        of = f"{found['patients']} patients of the split {found['split']}, labels: {found['label_source']}"
        model = found["model"]
    except (CTGLIPError, OSError, KeyError, TypeError) as error:
        raise ModelError(
            f"{evaluation} is no evaluation of ctglip's: {file.name} is missing, broken or of an earlier version.",
            code="evaluation",
            fix="Name the folder that `ctglip evaluate RUN STORE OUT` wrote.",
        ) from error
    assert release.folder is not None
    if model != file_checksum(release.folder / "model.safetensors"):
        raise ModelError(
            f"{evaluation} is an evaluation of another model.",
            code="evaluation",
            fix="Evaluate this one, and name that.",
        )
    return f"{of[0].upper()}{of[1:]}. Zero-shot, 95 % intervals over patients.\n\n" + _table(
        ("organ", "finding", "AUROC"), rows
    )


def _interval(value: Mapping[str, Any]) -> str:
    if value["value"] is None:
        return "unknown"
    ends = "" if value["low"] is None else f" ({value['low']:.3f} to {value['high']:.3f})"
    return f"{value['value']:.3f}{ends}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(name.replace("_", " ") for name in names[:_LISTED])
    return shown + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")


def _table(heading: Sequence[str], rows: Any) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "/") for cell in row) + " |" for row in lines)
