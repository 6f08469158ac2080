"""What fVLM, CT-CLIP and HLIP have alone: organ queries, a latent of whole slices and codes, scans of a study."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ctglip.models.encoders import ENCODERS, build_encoder
from ctglip.models.encoders.probe import probe_image
from ctglip.models.encoders.released import ReleasedEncoder
from tests.models.bad_files import check_bad_files
from tests.models.released import GOLDENS, SIDES, SIZES, float_shapes, made_up_state
from tests.models.test_released import WRAPPED, released_state, small


def test_scans_of_a_study_are_read_as_hlips_own_code_reads_them() -> None:
    """Slices, scans and the study, each in its own blocks; ``hlip_study.npz`` holds what its code answered."""
    with np.load(GOLDENS / "hlip_study.npz") as file:
        answers = {name: torch.from_numpy(file[name]) for name in file.files}
    sizes = {**SIZES["hlip"], "slice_blocks": [0], "scan_blocks": [1], "scans": 4}
    for projected in (False, True):
        changes = {"projected": projected, "embedding_dim": 6}
        encoder = build_encoder(
            ENCODERS["hlip"].Settings.model_validate({"name": "hlip", **sizes, **changes}), 3
        ).eval()
        assert isinstance(encoder, ReleasedEncoder)
        encoder.network.load_state_dict(made_up_state(float_shapes(encoder.network.state_dict())))
        with torch.no_grad():
            found = encoder(probe_image(3, SIDES["hlip"]))
        head = made_up_state({"head.proj.weight": (6, 24)})["head.proj.weight"] if projected else torch.eye(24)
        torch.testing.assert_close(found.pooled, answers["pooled"] @ head.T, atol=1e-5, rtol=1e-5)
        last = torch.einsum("bcxyz,ec->bexyz", answers["level"], head)
        torch.testing.assert_close(found.levels[-1], last, atol=1e-5, rtol=1e-5)
        assert found.tokens.shape[2] == encoder.token_dim == len(head)


def test_ct_clips_latent_is_of_slices_of_its_own_size() -> None:
    image = torch.zeros(1, 1, 60, 60, 10)
    with pytest.raises(ValueError, match=r"slices of 40 x 40 voxels, not \(60, 60\).*latent=false"):
        small("ct_clip")(image)
    free = small("ct_clip", latent=False)(image)
    torch.testing.assert_close(free.pooled, free.tokens.mean(1))


def test_the_choice_of_a_code_lets_the_gradient_through() -> None:
    book = small("ct_clip").network["visual_transformer"].vq["_codebook"]  # pyright: ignore
    x = torch.randn(3, 24, requires_grad=True)
    codes = book(x)
    nearest = (torch.nn.functional.normalize(x, dim=1) @ torch.nn.functional.normalize(book.embed[0], dim=1).T).argmax(
        1
    )
    assert torch.equal(codes, book.embed[0][nearest])
    (codes * 2).sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 2.0))


@pytest.mark.parametrize("name", ["fvlm", "ct_clip", "hlip"])
def test_other_models_halves_and_harmful_files_end_with_one_line(name: str, tmp_path: Path) -> None:
    other = {"fvlm": "hlip", "ct_clip": "fvlm", "hlip": "ct_clip"}[name]
    check_bad_files(
        lambda weights: small(name, weights=weights), released_state(name), WRAPPED[name],
        WRAPPED[other](released_state(other)), tmp_path,
    )  # fmt: skip
