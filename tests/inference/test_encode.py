"""Features as a user takes them: ``encode_image`` and ``encode_text`` give what answers compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import ctglip
from ctglip.data.augment import AugmentSettings
from ctglip.data.crops import CropSettings
from ctglip.data.organs import CropDataSettings, OrganDataset
from ctglip.data.reader import InMemory
from ctglip.data.scans import ScanDataSettings, ScanSettings
from ctglip.data.studies import StudyDataset
from ctglip.errors import ModelError, VocabularyError
from ctglip.inference.pipeline import Pipeline
from ctglip.models.dual_encoder import DualEncoder, DualEncoderSettings
from ctglip.models.hub import HubModel
from ctglip.models.onnx import image_shape
from ctglip.models.release import Release, load_release
from ctglip.store.tables import Store
from tests.inference.reading import encoded
from tests.inference.tiny_cxr import FILMS, cxr_release, draw_radiograph, write_cxr_store
from tests.training.tiny import radiographs_of, write_word_bert

Trained = tuple[Store, Path]
Files = tuple[Path, Path]
ORGANS = ["liver", "spleen", "kidney_left"]
TEXTS = ["The liver shows a large mass.", "The spleen is enlarged.", "A cyst."]
PLAIN = AugmentSettings(shift_voxels=0, shift_hu=0.0, noise_hu=0.0, gain=0.0, zoom=0.0, mirror=0.0)


def whole_scans(run: Path, reader: str) -> Release:
    """A release that reads organs in whole scans, or whole scans alone."""
    release, scans = load_release(run), ScanSettings(grid=(32, 32, 32))
    regions = None if reader == "none" else {"name": reader}
    settings = {**release.model.settings.model_dump(), "regions": regions, "image": {"name": "pooled"}}
    inputs = release.model.inputs.model_copy(update={"in_channels": scans.channels})
    torch.manual_seed(0)
    release.model = DualEncoder(DualEncoderSettings.model_validate(settings), inputs).eval()
    release.scans = scans.model_dump(mode="json")
    return release


def unit(vectors: torch.Tensor) -> bool:
    return bool(torch.allclose(vectors.norm(dim=-1), torch.ones(vectors.shape[:-1]), atol=1e-5))


def test_similarities_are_those_of_a_query(trained: Trained, files: Files) -> None:
    model = ctglip.load_model(trained[1])
    images = model.encode_image(files[0], ORGANS, masks=files[1])
    texts = model.encode_text(TEXTS)
    assert unit(images)
    assert unit(texts)
    assert (images.shape[0], texts.shape[0], images.shape[1]) == (3, 3, texts.shape[1])
    prompts = [f"{organ}: {text}" for organ in ("liver", "spleen") for text in TEXTS]
    told = [answer.similarity for answer in model.query(files[0], [], masks=files[1], prompts=prompts).answers]
    np.testing.assert_allclose((images @ texts.T)[:2].flatten(), told, atol=1e-4)


@pytest.mark.parametrize("reader", ["mask", "box", "query"])
def test_similarities_of_models_of_whole_scans_are_those_of_a_query(
    trained: Trained, files: Files, reader: str
) -> None:
    model = Pipeline(whole_scans(trained[1], reader))
    images, texts = model.encode_image(files[0], ["spleen", "liver"], masks=files[1]), model.encode_text(TEXTS)
    assert unit(images)
    told = model.query(files[0], [], masks=files[1], prompts=[f"spleen: {TEXTS[0]}", f"liver: {TEXTS[0]}"]).answers
    np.testing.assert_allclose(images @ texts[0], [answer.similarity for answer in told], atol=1e-4)
    whole = model.encode_image(files[0])
    assert whole.shape == (1, images.shape[1])
    assert unit(whole)


def test_a_model_of_whole_images_answers_from_the_vector_of_the_scan(trained: Trained, files: Files) -> None:
    model = Pipeline(whole_scans(trained[1], "none"))
    vector, text = model.encode_image(files[0]), model.encode_text(TEXTS[:1])
    told = model.query(files[0], [], masks=files[1], prompts=[f"liver: {TEXTS[0]}"]).answers[0].similarity
    assert float(vector @ text.T) == pytest.approx(told, abs=1e-4)


def test_a_batch_of_a_loader_is_encoded_as_an_evaluation_does(trained: Trained) -> None:
    store, run = trained
    model = ctglip.load_model(run)
    assert isinstance(model, Pipeline)
    dictionaries = model.dictionaries
    crops = CropSettings.model_validate(model.release.crops)
    settings = CropDataSettings(crops=crops, augment=PLAIN)
    data = OrganDataset(store, "train", dictionaries.organs, dictionaries.abnormalities, settings)
    expected = torch.from_numpy(encoded(model.reader, store, data.instances).diagnosis)
    found = [model.encode_image(batch["image"], batch) for batch in DataLoader(data, 5, collate_fn=data.collate)]
    torch.testing.assert_close(torch.cat(found), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("reader", ["mask", "box", "query"])
def test_a_batch_of_scans_is_encoded_organ_by_organ(trained: Trained, files: Files, reader: str) -> None:
    release = whole_scans(trained[1], reader)
    model = Pipeline(release)
    dictionaries = model.dictionaries
    own = ScanSettings.model_validate(release.scans)
    scans = ScanDataSettings(input=own, shift_hu=0.0, organs=tuple(ORGANS))
    data = StudyDataset(
        trained[0], "train", dictionaries.organs, dictionaries.abnormalities,
        scans,
        reading=reader,  # type: ignore[arg-type]
    )  # fmt: skip
    batch = data.collate([data[data.study_ids.index("s000")], data[1]])
    own = [row for row, index in enumerate(batch["study_index"].tolist()) if index == 0]
    names = [batch["organ"][row] for row in own]
    found = model.encode_image(batch["image"], batch)[own]
    torch.testing.assert_close(found, model.encode_image(files[0], names, masks=files[1]), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("reading", ["none", "query", "box"])
def test_cxr_too(reading: str, tmp_path: Path) -> None:
    bert = write_word_bert(tmp_path / "bert")
    truth = {"heart:cardiomegaly": 1, "pleura_left:pleural_effusion": 1, "pleura_right:pleural_effusion": 0}
    Image.fromarray(draw_radiograph(np.random.default_rng(0), truth)).save(tmp_path / "radiograph.png")
    model = Pipeline(cxr_release(bert, regions=None if reading == "none" else {"name": reading}))
    images, texts = (
        model.encode_image(tmp_path / "radiograph.png", ["heart"]),
        model.encode_text(["The heart is enlarged."]),
    )
    told = model.query(tmp_path / "radiograph.png", [], prompts=["heart: The heart is enlarged."]).answers[0]
    assert float(images @ texts.T) == pytest.approx(told.similarity, abs=1e-4)
    whole = model.encode_image(tmp_path / "radiograph.png")
    data = radiographs_of(write_cxr_store(tmp_path / "store", 12)[0], "train", FILMS, training=False)
    batch = data.collate([data[0], data[1]])
    assert unit(model.encode_image(batch["image"]))
    assert whole.shape == (1, images.shape[1])
    assert len(model.channel_names) == 1


def test_what_a_model_reads_is_what_its_encoder_takes(trained: Trained, files: Files) -> None:
    model = ctglip.load_model(trained[1])
    assert isinstance(model, Pipeline)
    made = model.model_input(files[0], ORGANS, masks=files[1])
    assert tuple(made["image"].shape[1:]) == image_shape(model.release)
    assert len(model.channel_names) == made["image"].shape[1]
    window = model.channel_names.index("HU -160 to 240, scaled to -1 to 1")
    standardized = model.standardize(*files)
    rows = {row.organ: row for row in standardized.rows}
    hu = torch.from_numpy(model.reader.prepare(InMemory(standardized), [rows["liver"]])[0].hu.astype(np.float32))
    torch.testing.assert_close(made["image"][0, window], ((hu + 160) / 200 - 1).clamp(-1, 1))
    coverage = model.channel_names.index("the organ's coverage of each voxel")
    assert made["image"][0, coverage].shape == made["mask"][0, 0].shape
    torch.testing.assert_close(
        model.encode_image(made["image"], made), model.encode_image(files[0], ORGANS, masks=files[1])
    )


def test_the_hub_model_is_called_with_images_and_texts(trained: Trained, files: Files) -> None:
    model = ctglip.load_model(trained[1])
    assert isinstance(model, Pipeline)
    hub = HubModel(model.release)
    made = model.model_input(files[0], ORGANS, masks=files[1])
    found = hub(made["image"], TEXTS, made)
    torch.testing.assert_close(found, hub.encode_image(made["image"], made) @ hub.encode_text(TEXTS).T)
    torch.testing.assert_close(
        found, model.encode_image(files[0], ORGANS, masks=files[1]) @ model.encode_text(TEXTS).T, atol=1e-5, rtol=1e-4
    )
    again = ctglip.load_model(hub.release)
    assert again.release is hub.release


def test_faults_are_named(trained: Trained, files: Files) -> None:
    model = ctglip.load_model(trained[1])
    assert isinstance(model, Pipeline)
    made = model.model_input(files[0], ["liver"], masks=files[1])
    with pytest.raises(ModelError, match="not trained on the gallbladder"):
        model.encode_image(files[0], ["gallbladder"], masks=files[1])
    with pytest.raises(VocabularyError, match="no organ 'lver'"):
        model.encode_image(files[0], ["lver"], masks=files[1])
    with pytest.raises(ModelError, match="Name organs"):
        model.encode_image(files[0], masks=files[1])
    with pytest.raises(ModelError, match="regions lack mask"):
        model.encode_image(made["image"], {"size": made["size"]})
    with pytest.raises(ModelError, match="not whole images"):
        model.encode_image(made["image"])
    with pytest.raises(ModelError, match="regions by name"):
        model.encode_image(made["image"], ["liver"])
    model.release.aligned = False
    with pytest.raises(ModelError, match="not trained to compare"):
        HubModel(model.release)(made["image"], TEXTS, made)


def test_the_walk_of_the_documentation(
    trained: Trained, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, target in {
        "run": trained[1], "store": trained[0].path, "scan.nii.gz": files[0], "masks.nii.gz": files[1],
    }.items():  # fmt: skip
        (tmp_path / name).symlink_to(target)
    monkeypatch.chdir(tmp_path)
    page = (Path(ctglip.__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
    blocks = [block.split("```")[0] for block in page.split("```python\n")[1:]]
    found: dict[str, Any] = {}
    for block in blocks[:3]:
        exec(block, found)
    assert found["images"].shape == found["texts"].shape
    assert len(found["batch"]["text"]) == len(found["batch"]["image"])
    exec(blocks[3].split("session")[0].replace("import onnxruntime", ""), found)
    assert tuple(found["made"]["image"].shape[1:]) == image_shape(found["model"].release)
    for block in blocks[3:]:
        compile(block, "api.md", "exec")
