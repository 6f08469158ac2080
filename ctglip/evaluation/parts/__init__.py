"""The parts of an evaluation beyond its scores: one function of the ``Context`` a file, one line here.

A part gives a ``PartResult``, which is plain data for ``results.json`` and lays itself out as tables for the page and
the terminal; or None, with a note, where there is nothing to evaluate.
"""

from __future__ import annotations

from collections.abc import Callable

from ctglip.errors import ConfigError, ModelError
from ctglip.evaluation.context import Context
from ctglip.evaluation.parts.counterfactuals import left_right_swap, organ_erasure, truncation
from ctglip.evaluation.parts.embedding_map import embedding_map
from ctglip.evaluation.parts.five_by_200 import five_by_200
from ctglip.evaluation.parts.localization import localization
from ctglip.evaluation.parts.probe import linear_probe
from ctglip.evaluation.parts.prompts import prompt_variance
from ctglip.evaluation.parts.protocol import public_protocol
from ctglip.evaluation.parts.retrieval import retrieval
from ctglip.evaluation.parts.subgroups import subgroups
from ctglip.evaluation.parts.tags import tag_decoder
from ctglip.evaluation.results import PartResult

PARTS: dict[str, tuple[str, Callable[[Context], PartResult | None]]] = {
    "retrieval": ("Retrieval", retrieval),
    "prompts": ("Prompt variance", prompt_variance),
    "subgroups": ("Subgroups", subgroups),
    "map": ("Map of organs", embedding_map),
    "probe": ("Linear probe", linear_probe),
    "erasure": ("Erased organs", organ_erasure),
    "swap": ("Mirrored organs", left_right_swap),
    "truncation": ("Cut-off organs", truncation),
    "localization": ("Localization", localization),
    "protocol": ("Public protocol", public_protocol),
    "five_by_200": ("Retrieval five by 200", five_by_200),
    "tags": ("Tags", tag_decoder),
}
"""Name in ``EvaluateConfig.parts`` to the stage's name and the function."""
_NOT_FOR_THIS_MODEL = ("text_encoder", "no_crops", "no_whole_image", "other_modality")


def run_parts(context: Context) -> dict[str, PartResult]:
    """Evaluate the parts of the settings, in the order of the registry.

    Raises:
        ConfigError: a part that does not exist.
    """
    config = context.config
    unknown = [name for name in config.parts if name not in PARTS]
    if unknown:
        raise ConfigError(f"There is no part {unknown[0]!r} of an evaluation.", fix=f"Known: {', '.join(PARTS)}.")
    chosen = {*config.parts, *(["protocol"] if config.protocol else []), *(["localization"] if config.lesions else [])}
    results: dict[str, PartResult] = {}
    for name, (title, part) in PARTS.items():
        if name not in chosen:
            continue
        context.begin(title)
        try:
            result = part(context)
        except ModelError as error:
            if error.code not in _NOT_FOR_THIS_MODEL:
                raise
            context.notes.append(f"There is no {name}: {error.message}")
            continue
        if result is not None:
            results[name] = result
    return results
