"""What the packages of released encoders answer, written down for the tests: ``python -m tests.models.released_goldens
NAME ...`` where the package is installed (the cards in ``configs/encoders`` say which).

Each function builds the package's own module at a small size, fills it with made-up weights, and makes its input from
HU with plain numpy, apart from this project's code.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from ctglip.models.encoders import ENCODERS, build_encoder
from ctglip.models.encoders.probe import probe_image
from tests.models.released import SIDES, SIZES, float_shapes, made_up_state, save_golden


def hounsfield(name: str, low: float, high: float) -> np.ndarray:
    """The test image as HU in a window, axes to right, front and head."""
    return low + (probe_image(1, SIDES[name])[0, 0].double().numpy() + 1) / 2 * (high - low)


def scaled(hu: np.ndarray, low: float, high: float) -> np.ndarray:
    """HU clipped to a window, 0 to 1."""
    return (np.clip(hu, low, high) - low) / (high - low)


def slices_first(image: np.ndarray) -> np.ndarray:
    """Axes to head, back and left: what SimpleITK reads, and MONAI's orientation SPL."""
    return np.ascontiguousarray(image.transpose(2, 1, 0)[:, ::-1, ::-1])


def back(level: Tensor) -> Tensor:
    """A feature map ``[1, C, s, p, l]`` with axes to right, front and head."""
    return level.flip(3, 4).permute(0, 1, 4, 3, 2)


def tensor(image: np.ndarray) -> Tensor:
    """One image of one channel."""
    return torch.from_numpy(np.ascontiguousarray(image)).float()[None, None]


def filled(module: nn.Module) -> nn.Module:
    """A package's module with made-up weights."""
    module.load_state_dict(module.state_dict() | made_up_state(float_shapes(module.state_dict())))
    return module.eval()


def ct_fm() -> None:
    """MONAI's SegResEncoder, which lighter-zoo wraps."""
    from lighter_zoo import SegResEncoder

    sizes = SIZES["ct_fm"]
    module = filled(SegResEncoder(init_filters=sizes["filters"], blocks_down=sizes["blocks"], head_module=None))
    levels = module(tensor(slices_first(scaled(hounsfield("ct_fm", -1024, 2048), -1024, 2048))))
    save_golden("ct_fm", float_shapes(module.state_dict()), pooled=levels[-1].mean((2, 3, 4)), level=back(levels[-2]))


def spectre() -> None:
    """spectre-fm's backbone on each crop, and its feature combiner over them."""
    from spectre.models.vision_transformer import VisionTransformer
    from spectre.models.vision_transformer_features import FeatureVisionTransformer
    from spectre.presets import BACKBONE_KWARGS, COMBINER_KWARGS

    sizes, crop = SIZES["spectre"], SIZES["spectre"]["crop"]
    common = {"embed_dim": sizes["dim"], "num_heads": sizes["heads"], "qkv_bias": True, "norm_layer": nn.LayerNorm}
    module = filled(
        VisionTransformer(
            img_size=crop, patch_size=sizes["patch"], depth=sizes["depth"], mlp_ratio=4, **common, **BACKBONE_KWARGS
        )
    )
    image = tensor(scaled(hounsfield("spectre", -1000, 1000), -1000, 1000))
    counts = [side // step for side, step in zip(SIDES["spectre"], crop, strict=True)]
    assert counts == [1, 2, 2]
    crops = [image[:, :, :, y : y + crop[1], z : z + crop[2]] for y in (0, crop[1]) for z in (0, crop[2])]
    tokens = [module(one) for one in crops]
    vectors = torch.stack([torch.cat([one[:, 0], one[:, 1:].mean(1)], dim=1) for one in tokens], dim=1)
    grid = [c // p for c, p in zip(crop, sizes["patch"], strict=True)]
    maps = [one[:, 1:].transpose(1, 2).unflatten(2, grid) for one in tokens]
    level = torch.cat([torch.cat(maps[:2], dim=4), torch.cat(maps[2:], dim=4)], dim=3)
    combiner = filled(
        FeatureVisionTransformer(
            patch_dim=2 * sizes["dim"], depth=sizes["combiner_depth"], mlp_ratio=4, **common, **COMBINER_KWARGS
        )
    )
    whole = combiner(vectors, grid_size=counts)
    save_golden(
        "spectre", float_shapes(module.state_dict()), pooled=vectors.mean(1), level=level,
        combined=torch.cat([whole[:, 0], whole[:, 1:].mean(1)], dim=1),
    )  # fmt: skip


class Twin(nn.Module):
    """A pre-norm transformer from PyTorch's own parts, its weights taken from a state dict with timm's names."""

    def __init__(self, state: dict[str, Tensor], heads: int, eps: float) -> None:
        super().__init__()
        self.weights, self.heads, self.eps = state, heads, eps

    def norm(self, x: Tensor, name: str) -> Tensor:
        """A layer norm."""
        return nn.functional.layer_norm(
            x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], self.eps
        )

    def linear(self, x: Tensor, name: str) -> Tensor:
        """A linear layer, with or without a bias."""
        return nn.functional.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def block(self, x: Tensor, number: int, turn: Callable[[Tensor], Tensor]) -> Tensor:
        """One block; ``turn`` changes queries and keys ``[b, n, heads, d]``."""
        at = f"blocks.{number}"
        gamma = [self.weights.get(f"{at}.ls{n}.gamma", torch.ones(())) for n in (1, 2)]
        found = self.linear(self.norm(x, f"{at}.norm1"), f"{at}.attn.qkv")
        query, key, value = (part.unflatten(2, (self.heads, -1)) for part in found.chunk(3, dim=2))
        query, key = turn(query), turn(key)
        weights = (torch.einsum("bnhd,bmhd->bhnm", query, key) / query.shape[-1] ** 0.5).softmax(-1)
        seen = torch.einsum("bhnm,bmhd->bnhd", weights, value).flatten(2)
        x = x + gamma[0] * self.linear(seen, f"{at}.attn.proj")
        hidden = nn.functional.gelu(self.linear(self.norm(x, f"{at}.norm2"), f"{at}.mlp.fc1"))
        return x + gamma[1] * self.linear(hidden, f"{at}.mlp.fc2")

    def patches(self, image: Tensor) -> Tensor:
        """Patches as a sequence, by a matrix product ``[b, n, d]``."""
        kernel = self.weights["patch_embed.proj.weight"]
        for axis, step in enumerate(kernel.shape[2:], 2):
            image = image.unfold(axis, step, step)
        return (
            torch.einsum("bcxyzijk,dcijk->bxyzd", image, kernel).flatten(1, 3) + self.weights["patch_embed.proj.bias"]
        )


def twin_of(name: str, heads: int, eps: float) -> Twin:
    """The twin of an encoder, with made-up weights."""
    encoder = build_encoder(ENCODERS[name].Settings.model_validate({"name": name, **SIZES[name]}), 1)
    return Twin(made_up_state(float_shapes(encoder.body.state_dict())), heads, eps)


def tangerine() -> None:
    """A twin."""
    twin = twin_of("tangerine", 2, 1e-6)
    x = twin.patches(tensor(slices_first(scaled(hounsfield("tangerine", -1200, 800), -1200, 800))))
    x = torch.cat([twin.weights["cls_token"], x], dim=1) + twin.weights["pos_embed"]
    for number in range(2):
        x = twin.block(x, number, lambda one: one)
    level = x[:, 1:].transpose(1, 2).unflatten(2, (2, 2, 2))
    pooled = torch.cat([x[:, 0], x[:, 1:].mean(1)], dim=1)
    save_golden("tangerine", float_shapes(twin.weights), pooled=pooled, level=back(level))


def voxelfm() -> None:
    """A twin; neighbouring numbers are turned as complex numbers."""
    twin = twin_of("voxelfm", 2, 1e-5)
    image = (np.clip(hounsfield("voxelfm", -1000, 1900), -1000, 1900) + 573.8) / 461.3
    grid = (4, 3, 2)
    axes = torch.meshgrid(*(torch.arange(n) + 0.5 for n in grid), indexing="ij")
    places = torch.stack([2 * axis / n - 1 for axis, n in zip(axes, grid, strict=True)], dim=-1).reshape(-1, 3)
    angles = 2 * torch.pi * places[:, :, None] / twin.weights["rope_embed.periods"]
    factors = torch.polar(torch.ones(len(places), 6), angles.reshape(len(places), 6))

    def turn(x: Tensor) -> Tensor:
        rest = torch.view_as_complex(x[:, 3:].unflatten(-1, (-1, 2)).contiguous())
        return torch.cat([x[:, :3], torch.view_as_real(rest * factors[None, :, None]).flatten(-2)], dim=1)

    x = twin.patches(tensor(slices_first(image)))
    x = torch.cat([twin.weights["cls_token"], twin.weights["register_tokens"], x], dim=1)
    for number in range(2):
        x = twin.block(x, number, turn)
    x = twin.norm(x, "norm")
    level = x[:, 3:].transpose(1, 2).unflatten(2, grid)
    pooled = torch.cat([x[:, 0], x[:, 3:].mean(1)], dim=1)
    save_golden("voxelfm", float_shapes(twin.weights), pooled=pooled, level=back(level))


def m3d_clip() -> None:
    """MONAI's patch embedding and blocks."""
    from monai.networks.blocks.patchembedding import PatchEmbeddingBlock
    from monai.networks.blocks.transformerblock import TransformerBlock

    names = float_shapes(twin_of("m3d_clip", 2, 1e-5).weights)
    state = made_up_state(names)
    hu = hounsfield("m3d_clip", -1024, 3071)
    image = tensor(slices_first((hu - hu.min()) / (hu.max() - hu.min())))
    embed = PatchEmbeddingBlock(1, (8, 8, 12), (2, 4, 4), 24, 2, "perceptron", "learnable")
    embed.load_state_dict({
        "patch_embeddings.1.weight": state["patch_embed.proj.weight"].flatten(1),
        "patch_embeddings.1.bias": state["patch_embed.proj.bias"], "position_embeddings": state["positions"],
    })  # fmt: skip
    x = torch.cat([state["cls_token"], embed(image)], dim=1)
    for number in range(2):
        block = TransformerBlock(24, 96, 2, 0.0, qkv_bias=False)
        at = f"blocks.{number}."
        mine = {name.removeprefix(at): value for name, value in state.items() if name.startswith(at)}
        mine = {name.replace("attn.proj", "attn.out_proj").replace("mlp.fc", "mlp.linear"): value
                for name, value in mine.items()}  # fmt: skip
        missing = block.load_state_dict(mine, strict=False)
        assert not missing.unexpected_keys
        assert all("cross_attn" in name for name in missing.missing_keys)
        x = block(x)
    x = nn.functional.layer_norm(x, (24,), state["norm.weight"], state["norm.bias"])
    level = x[:, 1:].transpose(1, 2).unflatten(2, (4, 2, 3))
    save_golden("m3d_clip", names, pooled=torch.cat([x[:, 0], x[:, 1:].mean(1)], dim=1), level=back(level))


def up_first(image: np.ndarray) -> np.ndarray:
    """Axes to head, front and right."""
    return np.ascontiguousarray(image.transpose(2, 1, 0))


def z_scores(image: np.ndarray) -> np.ndarray:
    """A mean of 0 and a deviation of 1."""
    return (image - image.mean()) / image.std(ddof=1)


def colipri() -> None:
    """colipri's image encoder, pooled and dense, its rotary positions scaled to another grid than it was made for."""
    from colipri.model.image import ImageEncoder
    from colipri.pooling import AttentionPool1D
    from dynamic_network_architectures.architectures.primus import Primus

    sizes = SIZES["colipri"]
    dim = sizes["dim"]
    primus = Primus(
        1, dim, (4, 4, 4), 1, sizes["depth"], sizes["heads"], (8, 8, 8), use_abs_pos_embed=False, init_values=0.1,
        scale_attn_inner=True,
    )  # fmt: skip
    module = filled(ImageEncoder(primus, nn.Conv3d(dim, 16, 1), AttentionPool1D(16, sizes["heads"])))
    primus.eva.rope.update_feat_shape([side // sizes["patch"] for side in SIDES["colipri"]])
    image = tensor(2 * scaled(hounsfield("colipri", -1000, 1000), -1000, 1000) - 1)
    dense, pooled = (module(image, project=True, pool=pool, normalize=False) for pool in (False, True))
    save_golden("colipri", float_shapes(module.state_dict()), pooled=pooled, level=dense)


def merlin() -> None:
    """merlin-vlm's inflated ResNet of a small 2D one; it turns the axes itself."""
    from merlin.models.i3res import I3ResNet
    from torchvision.models.resnet import Bottleneck, ResNet

    class Narrow(ResNet):
        """torchvision's ResNet, a sixteenth as wide."""

        def __init__(self) -> None:
            super().__init__(Bottleneck, [1, 1, 1, 1])
            self.inplanes = 4
            self.conv1, self.bn1 = nn.Conv2d(3, 4, 7, 2, 3, bias=False), nn.BatchNorm2d(4)
            for stage, blocks in enumerate(SIZES["merlin"]["blocks"]):
                layer = self._make_layer(Bottleneck, 4 * 2**stage, blocks, stride=2 if stage else 1)
                setattr(self, f"layer{stage + 1}", layer)

    module = I3ResNet(Narrow(), class_nb=2, conv_class=True, return_skips=True)
    module.classifier, module.contrastive_head = nn.Conv3d(128, 2, 1), nn.Conv3d(128, 3, 1)
    module = filled(module)
    skips = module(tensor(scaled(hounsfield("merlin", -1000, 1000), -1000, 1000)))[2]
    shapes = {name: shape for name, shape in float_shapes(module.state_dict()).items() if name[:2] != "cl"}
    shapes = {name: shape for name, shape in shapes.items() if not name.startswith("contrastive")}
    save_golden("merlin", shapes, pooled=skips[-1].mean((2, 3, 4)), level=skips[-1])


def suprem() -> None:
    """MONAI's SegResNet."""
    from monai.networks.nets import SegResNet

    module = filled(SegResNet(init_filters=8, in_channels=1, out_channels=3, blocks_down=(1,) * 4, dropout_prob=0.0))
    last, levels = module.encode(tensor(scaled(hounsfield("suprem", -175, 250), -175, 250)))
    shapes = {name: shape for name, shape in float_shapes(module.state_dict()).items()
              if name.startswith(("convInit", "down_layers"))}  # fmt: skip
    save_golden("suprem", shapes, pooled=last.mean((2, 3, 4)), level=levels[-2])


def voco() -> None:
    """The transformer inside of MONAI's SwinUNETR, second version."""
    from monai.networks.nets import SwinUNETR

    module = SwinUNETR(1, 2, depths=(1,) * 4, num_heads=(1, 1, 2, 2), feature_size=12, use_v2=True)
    swin = filled(module.swinViT)
    levels = swin(tensor(scaled(hounsfield("voco", -175, 250), -175, 250)), module.normalize)
    save_golden("voco", float_shapes(swin.state_dict()), pooled=levels[-1].mean((2, 3, 4)), level=levels[-1])


def medicalnet() -> None:
    """A twin of MedicalNet's ResNet-18: shortcuts of type A, stages 3 and 4 dilated by 2 and 4."""
    encoder = build_encoder(
        ENCODERS["medicalnet"].Settings.model_validate({"name": "medicalnet", **SIZES["medicalnet"]}), 1
    )
    names = float_shapes(encoder.body.state_dict())
    weights = made_up_state(names)

    def norm(x: Tensor, name: str) -> Tensor:
        parts = [weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return nn.functional.batch_norm(x, *parts)

    conv = nn.functional.conv3d
    x = tensor(slices_first(z_scores(hounsfield("medicalnet", -1024, 3071))))
    x = nn.functional.max_pool3d(norm(conv(x, weights["conv1.weight"], stride=2, padding=3), "bn1").relu(), 3, 2, 1)
    for stage, (step, far) in enumerate(((1, 1), (2, 1), (1, 2), (1, 4)), 1):
        for number in range(2):
            at, stride = f"layer{stage}.{number}", step if number == 0 else 1
            y = conv(x, weights[f"{at}.conv1.weight"], stride=stride, padding=far, dilation=far)
            y = conv(norm(y, f"{at}.bn1").relu(), weights[f"{at}.conv2.weight"], padding=far, dilation=far)
            rest = nn.functional.avg_pool3d(x, 1, stride)
            rest = torch.cat([rest, rest.new_zeros(1, y.shape[1] - x.shape[1], *y.shape[2:])], dim=1)
            x = (norm(y, f"{at}.bn2") + rest).relu()
    save_golden("medicalnet", names, pooled=x.mean((2, 3, 4)), level=back(x))


def stunet() -> None:
    """medim's STU-Net, its encoder."""
    from medim.models.stu_net import DEFAULT_STRIDES, STUNet

    module = STUNet(1, 2, [1] * 6, [4 * n for n in (1, 2, 4, 8, 16, 16)], DEFAULT_STRIDES, [[3, 3, 3]] * 6)
    stages = filled(module.conv_blocks_context)
    x = tensor(up_first(z_scores(hounsfield("stunet", -1024, 3071))))
    levels = []
    for stage in stages:
        x = stage(x)
        levels.append(x)
    level = levels[-2].permute(0, 1, 4, 3, 2)
    save_golden("stunet", float_shapes(stages.state_dict()), pooled=x.mean((2, 3, 4)), level=level)


def nnunet(name: str, network: str, **arguments: object) -> None:
    """The encoder of a network of nnU-Net's."""
    from dynamic_network_architectures.architectures import unet

    module = getattr(unet, network)(
        1, 3, SIZES[name]["widths"], nn.Conv3d, 3, [1, 2, 2], num_classes=2, n_conv_per_stage_decoder=[1, 1],
        conv_bias=True, norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True}, **arguments,
    )  # fmt: skip
    unique = {name: tuple(value.shape) for name, value in module.encoder.named_parameters()}
    module.encoder.load_state_dict(made_up_state(unique), strict=False)
    levels = module.eval().encoder(tensor(up_first(z_scores(hounsfield(name, -1024, 3071)))))
    save_golden(name, unique, pooled=levels[-1].mean((2, 3, 4)), level=levels[-2].permute(0, 1, 4, 3, 2))


def nnssl() -> None:
    """nnU-Net's residual encoder."""
    nnunet("nnssl", "ResidualEncoderUNet", n_blocks_per_stage=list(SIZES["nnssl"]["blocks"]))


def totalsegmentator() -> None:
    """nnU-Net's plain encoder."""
    nnunet("totalsegmentator", "PlainConvUNet", n_conv_per_stage=list(SIZES["totalsegmentator"]["convolutions"]))


GOLDENS: tuple[Callable[[], None], ...] = (
    ct_fm, spectre, tangerine, voxelfm, m3d_clip, colipri, merlin, suprem, voco, medicalnet, stunet, nnssl,
    totalsegmentator,
)  # fmt: skip

if __name__ == "__main__":
    with torch.no_grad():
        for answer in GOLDENS:
            if answer.__name__ in (sys.argv[1:] or answer.__name__):
                answer()
