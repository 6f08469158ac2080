"""Sentences from the dictionaries: every placeholder filled, in the organ's number, saying what they should."""

from __future__ import annotations

import re

import pytest

from ctglip.errors import ConfigError
from ctglip.files import read_yaml
from ctglip.resources import resource
from ctglip.vocabulary.abnormalities import Abnormality, AbnormalityDictionary
from ctglip.vocabulary.organs import Organ, OrganDictionary
from ctglip.vocabulary.prompts import (
    fill,
    load_organ_templates,
    negative_prompts,
    normal_prompts,
    organ_prompts,
    positive_prompts,
)

_SENTENCE = re.compile(r"[A-Z0-9][^{}]*\S\.")


def _sound(sentences: tuple[str, ...]) -> bool:
    whole = all(_SENTENCE.fullmatch(s) and "  " not in s and " ." not in s and " ," not in s for s in sentences)
    return whole and len(set(sentences)) == len(sentences) > 0


def test_every_pair_can_be_affirmed_and_denied(organs: OrganDictionary, abnormalities: AbnormalityDictionary) -> None:
    for organ_name, name in abnormalities.pairs():
        organ, entry = organs[organ_name], abnormalities[name]
        positive, negative = positive_prompts(entry, organ), negative_prompts(entry, organ)
        assert _sound(positive), (organ_name, name)
        assert _sound(negative), (organ_name, name)
        assert not set(positive) & set(negative)


def test_every_organ_can_be_named_and_found_normal(organs: OrganDictionary) -> None:
    for organ in organs.organs.values():
        prompts = organ_prompts(organ)
        assert _sound(prompts)
        assert all(organ.display in prompt for prompt in prompts)
        assert _sound(normal_prompts(organ))


def test_organ_prompts_tell_organs_apart(organs: OrganDictionary) -> None:
    first = [organ_prompts(organ)[0] for organ in organs.organs.values()]
    assert len(set(first)) == len(first)


def test_verbs_follow_the_organs_number(organs: OrganDictionary) -> None:
    template = "the {organ} {is} small, {has} cysts, {shows} stones and {contains} gas."
    one, many = fill(template, organs["liver"]), fill(template, organs["kidneys"])
    assert one == "The liver is small, has cysts, shows stones and contains gas."
    assert many == "The kidneys are small, have cysts, show stones and contain gas."


def test_sides_are_said_where_there_is_one(organs: OrganDictionary, abnormalities: AbnormalityDictionary) -> None:
    effusion = abnormalities["pleural_effusion"]
    assert fill("No {side} {abnormality}.", organs["pleura_left"], effusion) == "No left pleural effusion."
    assert fill("No {side} {abnormality}.", organs["pleura"], effusion) == "No pleural effusion."


def test_an_entry_without_phrasings_uses_the_templates() -> None:
    organ = Organ(name="liver", display="liver")
    entry = Abnormality(name="spot", display="spot", organs=("liver",))
    assert positive_prompts(entry, organ)[0] == "There is evidence of spot in the liver."
    assert all("spot" in sentence for sentence in negative_prompts(entry, organ))


def test_every_phrasing_of_an_entry_holds_its_own_words(
    abnormalities: AbnormalityDictionary, organs: OrganDictionary
) -> None:
    for entry in abnormalities.abnormalities.values():
        organ = organs[entry.default_organ]
        for sentence in (*positive_prompts(entry, organ), *negative_prompts(entry, organ)):
            assert any(phrase.lower() in sentence.lower() for phrase in entry.phrases), sentence


def test_no_phrasing_is_written_twice(abnormalities: AbnormalityDictionary) -> None:
    sentences = [s for entry in abnormalities.abnormalities.values() for s in (*entry.positive, *entry.negative)]
    assert sorted(sentences) == sorted(set(sentences))


def test_template_files_hold_what_the_settings_know() -> None:
    assert load_organ_templates().prompts == tuple(read_yaml(resource("organ_dictionary", "templates.yaml"))["prompts"])


def test_an_unknown_template_field_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("templates") / "templates.yaml"
    path.write_text("version: 1\nprompt: [The organ.]\n")
    with pytest.raises(ConfigError, match="prompts"):
        load_organ_templates(path)
