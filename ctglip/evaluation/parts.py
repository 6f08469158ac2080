"""The parts of an evaluation beyond its scores. A part is a function of the ``Context`` and one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ctglip.errors import ConfigError, ModelError
from ctglip.evaluation.context import Context
from ctglip.evaluation.cxr import cxr_retrieval
from ctglip.evaluation.diagnostics import left_right_swap, organ_erasure, truncation
from ctglip.evaluation.embedding_map import embedding_map
from ctglip.evaluation.five_by_200 import five_by_200
from ctglip.evaluation.grounding import cxr_pointing
from ctglip.evaluation.paraphrases import prompt_variance
from ctglip.evaluation.pointing import pointing_game
from ctglip.evaluation.probe import linear_probe
from ctglip.evaluation.protocol import public_protocol
from ctglip.evaluation.retrieval import retrieval
from ctglip.evaluation.subgroups import subgroups
from ctglip.evaluation.tagging import tag_decoder

PARTS: dict[str, Callable[[Context], Any]] = {
    "retrieval": retrieval,
    "prompts": prompt_variance,
    "subgroups": subgroups,
    "map": embedding_map,
    "probe": linear_probe,
    "erasure": organ_erasure,
    "swap": left_right_swap,
    "truncation": truncation,
    "pointing": pointing_game,
    "protocol": public_protocol,
    "cxr_retrieval": cxr_retrieval,
    "five_by_200": five_by_200,
    "cxr_pointing": cxr_pointing,
    "tags": tag_decoder,
}
"""Name in ``EvaluateConfig.parts`` to what does it; a result is a dataclass, a tuple of them, or None."""
TITLES = {
    "retrieval": "Retrieval",
    "prompts": "Wordings",
    "subgroups": "Subgroups",
    "map": "Map of organs",
    "probe": "Linear probe",
    "erasure": "Erased organs",
    "swap": "Mirrored organs",
    "truncation": "Cut-off organs",
    "pointing": "Localization",
    "protocol": "Public protocol",
    "cxr_retrieval": "Retrieval of whole radiographs",
    "five_by_200": "Retrieval five by 200",
    "cxr_pointing": "Localization",
    "tags": "Tags",
}
"""What is said while a part is done."""
CXR_PARTS = ("cxr_retrieval", "five_by_200", "cxr_pointing", "tags")
"""Those that only radiographs have."""


def run_parts(context: Context) -> dict[str, Any]:
    """Do the wanted parts, in the order of the registry.

    Raises:
        ConfigError: a part that does not exist.
    """
    unknown = [name for name in context.config.parts if name not in PARTS]
    if unknown:
        raise ConfigError(f"There is no part {unknown[0]!r} of an evaluation.", fix=f"Known: {', '.join(PARTS)}.")
    wanted = _wanted(context)
    found = {}
    for name, do in PARTS.items():
        if name not in wanted:
            continue
        context.begin(TITLES[name])
        try:
            found[name] = do(context)
        except ModelError as error:
            if error.code not in ("text_encoder", "no_crops", "no_whole_image", "other_modality"):
                raise
            context.notes.append(f"There is no {name}: {error.message}")
    return {name: value for name, value in found.items() if value is not None}


def _wanted(context: Context) -> set[str]:
    """The parts asked for; on radiographs those that do the same there."""
    config = context.config
    wanted = {*config.parts, *(["protocol"] if config.protocol else []), *(["pointing"] if config.lesions else [])}
    if not context.radiographs:
        here = sorted(wanted.intersection(CXR_PARTS))
        context.notes += [f"There is no {name}: it is for radiographs." for name in here]
        return wanted.difference(CXR_PARTS)
    if "retrieval" in wanted and context.scorer.release.model.settings.whole_image:
        wanted.add("cxr_retrieval")
    if context.whole_radiographs:
        wanted.discard("retrieval")
    if "pointing" in wanted:
        wanted = (wanted - {"pointing"}) | {"cxr_pointing"}
    return wanted
