"""Organs of a store as a model reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ctglip.data.samples import OrganInstance
from ctglip.inference.encoding import OrganEmbeddings
from ctglip.inference.readers import OrganReader
from ctglip.store.tables import Store


def encoded(reader: OrganReader[Any], store: Store, instances: Sequence[OrganInstance]) -> OrganEmbeddings:
    """What the model makes of some organ instances, study by study."""
    keys = reader.keys(instances)
    images = reader.cache(store, keys, len(keys), 2).read(keys)
    assert all(image is not None for image in images)
    return reader.encode(images, [regions for _, regions in keys])
