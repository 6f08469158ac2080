"""``ctglip export``: a run's model as one folder for another machine, and its encoder for other programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctglip.cli.console import AsJson, result
from ctglip.places import writable_folder

if TYPE_CHECKING:
    from ctglip.models.release import Release


class Also(StrEnum):
    """What else is written."""

    onnx = "onnx"
    nnunet = "nnunet"
    timm = "timm"
    hub = "hub"
    peers = "peers"


def export(
    run: Annotated[Path, typer.Argument(help="A run or its model/ folder.")],
    out: Annotated[
        Path,
        typer.Argument(
            callback=writable_folder, help="Folder to write; it loads on another machine with nothing else."
        ),
    ],
    reference_text_encoder: Annotated[
        bool, typer.Option("--reference-text-encoder", help="Store the text encoder's name and hash, not its weights.")
    ] = False,
    also: Annotated[
        list[Also] | None,
        typer.Option(
            help="Beside it: onnx (encoder.onnx, checked), nnunet (a checkpoint for -pretrained_weights), timm (its "
            "state dict), peers (peers/: the encoder in the names of SPECTRE, MONAI and timm, where it is the same, "
            "checked), hub (a model card for Hugging Face's hub). Repeatable."
        ),
    ] = None,
    evaluation: Annotated[
        Path | None, typer.Option(help="What ctglip evaluate wrote of this model: its figures go on the card (hub).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the released form of a model: safetensors and JSON, with its dictionaries and recipe."""
    from ctglip.errors import CTGLIPError
    from ctglip.models.release import load_release, save_release

    if out.exists() and not (out / "model.safetensors").is_file() and (out.is_file() or any(out.iterdir())):
        raise CTGLIPError(f"{out} exists and is no model folder; it is left alone.", fix="Name a new folder.")
    formats = tuple(dict.fromkeys(also or ()))
    if evaluation is not None and Also.hub not in formats:
        raise CTGLIPError("--evaluation is for the card of --also hub.", fix="Add --also hub, or leave it out.")
    release = load_release(run)
    save_release(out, release, reference_text_encoder=reference_text_encoder)
    notes = [note for format in formats for note in _also(format, release, out, evaluation)]
    files = sorted(file for file in out.rglob("*") if file.is_file())
    size = sum(file.stat().st_size for file in files)
    result(
        {"out": str(out), "files": [str(f.relative_to(out)) for f in files], "bytes": size, "notes": notes},
        as_json,
        "\n".join([f"{len(files)} files, {size / 1e6:.1f} MB in {out}.", *notes]),
    )


def _also(format: Also, release: Release, out: Path, evaluation: Path | None) -> list[str]:
    """Write one more form of the encoder; returns lines about it."""
    encoder = release.model.encoder
    if format is Also.onnx:
        from ctglip.inference.model_readers import reader_of
        from ctglip.models.onnx import export_onnx, image_shape

        channels = reader_of(release, features_only=True).channel_names
        worst = export_onnx(encoder, image_shape(release), out / "encoder.onnx", channels=channels)
        listing = "\n".join(f"  {number}: {name}" for number, name in enumerate(channels))
        return [
            f"encoder.onnx agrees with PyTorch to {worst:.1g}. The channels of its input, which "
            f"ctglip.load_model({str(out)!r}).model_input(scan, organs) makes:\n{listing}"
        ]
    if format is Also.nnunet:
        from ctglip.models.state_export import save_nnunet

        return [
            f"{save_nnunet(encoder, out / 'nnunet_pretrained.pth').name} is for nnUNetv2_train -pretrained_weights."
        ]
    if format is Also.timm:
        from safetensors.torch import save_file

        from ctglip.models.state_export import timm_state

        save_file(timm_state(encoder), out / "timm.safetensors")
        return ["timm.safetensors loads into timm's model with strict=False."]
    if format is Also.peers:
        from ctglip.models.onnx import image_shape
        from ctglip.models.peers import write_peers

        return write_peers(encoder, image_shape(release), out / "peers")
    from ctglip.models.card import write_card

    return [f"{write_card(release, out, evaluation).name} makes the folder ready for Hugging Face's hub."]
