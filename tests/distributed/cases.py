"""Losses of one batch, cut by ranks: what each worker computes and what one process computes on all of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from ctglip.losses.contrastive import alignment, class_prompts, sigmoid_pairs, soft_contrastive
from ctglip.losses.correlation import patch_correlation
from ctglip.losses.masked import masked_pixel, weighted_mlm, window_error
from ctglip.losses.observations import SetSimilarity, answers, query_overlap, sentence_contrast, set_contrast
from ctglip.losses.self_distillation import moved_center, self_distillation, teacher_answer
from ctglip.losses.tags import tag_bce
from ctglip.losses.targets import clinical_prior, equal_key, hierarchy_aware, tag_overlap

ROWS, DIM = 9, 6
SPLITS = {2: ([5, 4], [9, 0], [0, 9]), 3: ([4, 3, 2], [4, 0, 5], [0, 0, 9])}
Data = dict[str, Tensor]
Weights = dict[str, Tensor]


def data() -> Data:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def choice(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=generator)

    return {
        "x": normal(ROWS, DIM),
        "y": normal(ROWS, DIM),
        "key": choice(4, ROWS),
        "group": choice(3, ROWS),
        "tags": choice(2, ROWS, 7).double(),
        "prior": normal(ROWS, 11),
        "negative": choice(5, ROWS, 3) - 1,
        "valid": choice(4, ROWS) > 0,
        "tokens": normal(ROWS, 4, DIM),
        "labels": choice(DIM, ROWS, 4),
        "weight": normal(ROWS, 4).abs(),
        "masked": choice(2, ROWS, 4) > 0,
    }


def weights() -> Weights:
    generator = torch.Generator().manual_seed(1)
    shapes = {"w": (DIM, DIM), "v": (DIM, DIM), "extra": (5, DIM), "classes": (4, DIM)}
    made = {name: torch.randn(*s, generator=generator, dtype=torch.float64) for name, s in shapes.items()}
    made["scale"] = torch.tensor(4.0, dtype=torch.float64)
    return {name: value.requires_grad_() for name, value in made.items()}


def contrast(**options) -> Callable[[Data, Weights, bool], Tensor]:
    names = {"context", "group", "valid"} & options.keys()

    def loss(rows: Data, p: Weights, gather: bool) -> Tensor:
        query, key = F.normalize(rows["x"] @ p["w"], dim=1), F.normalize(rows["y"] @ p["v"], dim=1)
        chosen = {name: rows[options[name]] for name in names}
        if options.get("extra"):
            chosen |= {"extra": F.normalize(p["extra"], dim=1), "extra_index": rows["negative"]}
        rest = {name: value for name, value in options.items() if name not in {*names, "extra"}}
        return soft_contrastive(query, key, p["scale"], gather=gather, **chosen, **rest)

    return loss


def _hierarchy(rows: Data, p: Weights, gather: bool) -> Tensor:
    related = torch.eye(7) + torch.diag(torch.ones(6), 1)
    context = torch.cat([rows["key"][:, None], (rows["tags"] * (rows["prior"][:, :7] > 0.5)).long()], dim=1)
    query, key = rows["x"] @ p["w"], rows["y"] @ p["v"]
    return soft_contrastive(
        query, key, p["scale"] / 10, target=hierarchy_aware(related > 0), context=context, gather=gather
    )


def _sets(rows: Data, p: Weights) -> tuple[Tensor, Tensor, Tensor]:
    """Three observations of each row, four sentences, some of them untold."""
    visual, textual = (F.normalize(rows["tokens"] @ p[name], dim=-1) for name in "wv")
    return visual[:, 1:], textual, rows["masked"]


def _set_contrast(**options) -> Callable[[Data, Weights, bool], Tensor]:
    return lambda r, p, g: set_contrast(*_sets(r, p), p["scale"], **options, gather=g)


def _sentences(rows: Data, p: Weights, gather: bool) -> Tensor:
    visual, textual, told = _sets(rows, p)
    return sentence_contrast(answers(textual, visual, 0.3), textual, told, p["scale"], gather)


def _distilled(rows: Data, p: Weights, gather: bool) -> Tensor:
    """Four views, two of them the teacher's, whose center moves first."""
    teacher = (rows["tokens"][:, :2] @ p["v"]).detach()
    center = moved_center(torch.ones(DIM, dtype=torch.float64), teacher, 0.5, gather)
    return self_distillation(rows["tokens"] @ p["w"], teacher_answer(teacher, center, 0.5), 0.7, gather)


CASES: dict[str, Callable[[Data, Weights, bool], Tensor]] = {
    "identity": contrast(),
    "equal key": contrast(target=equal_key, context="key", extra=True),
    "valid, group, chunk": contrast(target=equal_key, context="key", valid="valid", group="group", chunk=2),
    "clinical prior": contrast(target=clinical_prior(0.07), context="prior"),
    "tags, jeffreys": contrast(target=tag_overlap(), context="tags", divergence="jeffreys"),
    "hierarchy": _hierarchy,
    "sigmoid": lambda r, p, g: sigmoid_pairs(r["x"] @ p["w"], r["y"] @ p["v"], p["scale"], -1.0, gather=g),
    "sigmoid, valid": lambda r, p, g: sigmoid_pairs(
        r["x"] @ p["w"], r["y"] @ p["v"], p["scale"], p["scale"] - 5, valid=r["valid"], gather=g
    ),
    "sigmoid, matches": lambda r, p, g: sigmoid_pairs(
        r["x"] @ p["w"], r["y"] @ p["v"], p["scale"], -1.0, match=r["key"], gather=g
    ),
    "class prompts": lambda r, p, g: class_prompts(
        r["x"] @ p["w"], p["classes"] @ p["v"], r["key"], p["scale"], r["valid"], gather=g
    ),
    "alignment": lambda r, p, g: alignment(r["x"] @ p["w"], r["y"] @ p["v"], r["valid"], gather=g),
    "tags": lambda r, p, g: tag_bce(
        (r["x"] @ p["w"])[:, :4], r["tags"][:, :4], r["masked"], gather=g
    ),
    "words": lambda r, p, g: weighted_mlm(
        r["tokens"] @ p["w"], r["labels"], r["weight"], r["masked"], "masked", gather=g
    ),
    "pixels": lambda r, p, g: masked_pixel(r["tokens"] @ p["w"], r["tokens"], r["masked"], gather=g),
    "window": lambda r, p, g: window_error(
        (r["tokens"] @ p["w"])[:, None], r["tokens"][:, None], r["masked"][:, None, :, None].double(), gather=g
    ),
    "correlation": lambda r, p, g: patch_correlation(r["tokens"] @ p["w"], r["tokens"] + 1, gather=g),
    "sets": _set_contrast(),
    "sets, soft, chunk": _set_contrast(similarity=SetSimilarity("logsumexp", 0.2, symmetric=False), chunk=2),
    "sets, keys": lambda r, p, g: set_contrast(*_sets(r, p), p["scale"], key=r["key"], gather=g),
    "sentences": _sentences,
    "self-distillation": _distilled,
    "overlap": lambda r, p, g: query_overlap(_sets(r, p)[0], gather=g),
}  # fmt: skip


def run(rows: Data, gather: bool) -> dict[str, tuple[Tensor, dict[str, Tensor]]]:
    """Value and gradients of each loss."""
    results = {}
    for name, loss_of in CASES.items():
        parameters = weights()
        loss = loss_of(rows, parameters, gather)
        loss.backward()
        gradients = {
            key: torch.zeros_like(value) if value.grad is None else value.grad for key, value in parameters.items()
        }
        results[name] = (loss.detach(), gradients)
    return results


def worker(rank: int, folder: str) -> None:
    """A process that is a rank of each world in turn."""
    torch.set_num_threads(1)
    for world in SPLITS:
        if rank < world:
            meeting = f"file://{folder}/rendezvous{world}"
            dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
            _run_splits(rank, world, Path(folder))
            dist.destroy_process_group()


def _run_splits(rank: int, world: int, folder: Path) -> None:
    """Compute own rows of each split and average over ranks, as DDP does."""
    for number, counts in enumerate(SPLITS[world]):
        start = sum(counts[:rank])
        rows = {name: value[start : start + counts[rank]] for name, value in data().items()}
        results = run(rows, gather=True)
        for loss, gradients in results.values():
            for value in (loss, *gradients.values()):
                dist.all_reduce(value)
                value /= world
        if rank == 0:
            torch.save(results, folder / f"world{world}-split{number}.pt")
