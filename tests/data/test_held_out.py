"""Abnormalities that are not to be taught."""

from __future__ import annotations

from ctglip.data.crops import CropSettings
from ctglip.data.organs import CropDataSettings, OrganDataset
from ctglip.store.tables import Store
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs


def test_what_is_held_out_is_affirmed_nowhere(tiny_store: Store) -> None:
    """Organs whose report affirms it are left out; the others of the same study stay."""
    dictionaries = (load_organs(), load_abnormalities())
    settings = CropDataSettings(crops=CropSettings(grid=(8, 8, 8)), threads=1)
    every = OrganDataset(tiny_store, "train", *dictionaries, settings)
    less = OrganDataset(
        tiny_store, "train", *dictionaries, settings.model_copy(update={"held_out": ("hepatic_steatosis",)})
    )
    affirmed = [said.affirmed for said in every.captions]
    assert any("hepatic_steatosis" in names for names in affirmed)
    assert len(less) == sum("hepatic_steatosis" not in names for names in affirmed)
    assert not any("hepatic_steatosis" in said.affirmed for said in less.captions)
    assert any("splenomegaly" in said.affirmed for said in less.captions)
