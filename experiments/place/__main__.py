"""PLACE (re-implementation from the abstract) on simulated radiographs: does each query specialise, what is each term
for?

    python -m experiments.place [--quick] [--json FILE] [--out DIR] [--cxr N] [--steps N] [--seeds A ..] [--arms A ..]
                               [--split val]

Every arm sees the same radiographs in the same order for the same number of steps. "all" is the config; arms with a
minus leave a term out, that with a plus adds one. On radiographs of other patients (the split test; val is for
choosing), against
the truth table:

- *whole*, *sets*: zero-shot macro AUROC of the whole radiograph's vector, and of the best observation: the largest
similarity
  of any query with the positive prompts minus that with the negative ones.
- *best query*: the one query that tells an abnormality best on training radiographs, judged on the others.
- *asked*: mutual information in bits between the abnormality that is asked for (of those that a radiograph has) and the
query
  that answers. The prompt alone may decide it: *exchanged* is the same with each radiograph's observations taken from
  another radiograph.
- *seen*: mutual information between which query answers the question for an abnormality and whether the radiograph has
it,
  mean over abnormalities: it can only come from the radiograph. *permuted* is the 95 % quantile with permuted labels.

What is already in DIR is not made again. Figures say how well the machinery learns from simulated radiographs, nothing
about clinical use.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ctglip.cli.console import print_line
from experiments.command import keep, parser_of

if TYPE_CHECKING:
    from ctglip.training.pretrain_config import PretrainConfig

OFF = {f"objective.{name}_weight": 0.0 for name in ("batch", "sentence", "correlation")}
ARMS: dict[str, dict[str, Any]] = {
    "all": {},
    "instance alone": {**OFF, "model.resampler": None},
    "- instance": {"objective.instance_weight": 0.0},
    "- batch": {"objective.batch_weight": 0.0},
    "- sentence": {"objective.sentence_weight": 0.0},
    "- correlation": {"objective.correlation_weight": 0.0},
    "+ diversity": {"objective.diversity_weight": 1.0},
    "sentences alone ask": {"objective.symmetric": False},
    "correlation without report": {"objective.patches.condition": "none"},
}
"""What each changes in ``small/cxr_place``."""
DRAWS = 200


@dataclass(frozen=True)
class Radiographs:
    """Radiographs with their truth.

    Attributes:
        images: ``[n, 1, h, w]``, the middle of each.
        truth: 0/1 ``[n, a]``, of ``pairs``.
    """

    images: np.ndarray
    truth: np.ndarray


def cxr_store(folder: Path, radiographs: int) -> Path:
    """A store of simulated radiographs, 70 % of the patients for training."""
    from ctglip_preprocessing.driver import preprocess_cohort
    from ctglip_preprocessing.settings import PreprocessConfig

    from ctglip.cohort import read_cohort
    from ctglip.config import load_settings
    from ctglip.simulation.cohort import simulate_cohort
    from ctglip.simulation.cxr import CxrSettings

    if not (folder / "done").is_file():
        simulate_cohort(folder / "cohort", radiographs, 5, radiographs=CxrSettings())
        config = load_settings(PreprocessConfig, "preprocess/cxr", ["cxr.size=128"])
        preprocess_cohort(read_cohort(folder / "cohort" / "cohort.csv"), folder / "store", config)
        (folder / "done").touch()
    return folder / "store"


def config_of(arm: str, steps: int, seed: int, pixels: int) -> PretrainConfig:
    """The config of one run."""
    from ctglip.config import load_settings
    from ctglip.training.pretrain_config import PretrainConfig

    settings = [f"{name}={json.dumps(value)}" for name, value in ARMS[arm].items()]
    settings += [f"loop.steps={steps}", f"seed={seed}", f"data.size={pixels}", "data.margin=1.0"]
    settings += ["loop.device=cpu", "loop.threads=1", "loop.trackers=[]", f"loop.checkpoint_every={steps}"]
    settings += ["loop.pairs=0", "optim.lr=0.002", "data.batch=24"]
    return load_settings(PretrainConfig, "small/cxr_place", settings)


def train(store: Path, run: Path, config: PretrainConfig) -> float:
    """Seconds of CPU of one run; none where it is there."""
    from ctglip.training.launch import pretrain

    if (run / "model" / "config.json").is_file():
        return 0.0
    start = time.process_time()
    pretrain(store, run, config)
    return time.process_time() - start


def read_radiographs(
    store_path: Path, truth: Path, pixels: int, judged: str
) -> tuple[dict[str, Radiographs], list[str]]:
    """Radiographs of training (400 at most) and of the split judged, and the names of the columns of truth."""
    from ctglip.data.cxr import CxrDataSettings
    from ctglip.data.studies import StudyDataset
    from ctglip.store.tables import Store
    from ctglip.vocabulary.abnormalities import load_abnormalities
    from ctglip.vocabulary.organs import load_organs

    store, table = Store.open(store_path), pl.read_csv(truth, schema_overrides={"study_id": pl.String})
    pairs = [name for name in table.columns if ":" in name]
    labels_of = {row["study_id"]: [row[name] for name in pairs] for row in table.iter_rows(named=True)}
    found: dict[str, list[tuple[np.ndarray, list[int]]]] = {"train": [], "other": []}
    for split in ("train", judged):
        radiographs = StudyDataset(
            store, split, load_organs(), load_abnormalities(), CxrDataSettings(size=pixels),
            texts="pairs", training=False,
        )  # fmt: skip
        here = [
            (radiographs.sampled([row], 0)[0].image, labels_of[radiographs.study_ids[row]])
            for row in range(min(len(radiographs), 400))
        ]
        found["train" if split == "train" else "other"] += here
    return {
        name: Radiographs(
            np.stack([image for image, _ in some]), np.array([labels for _, labels in some], dtype=np.int64)
        )
        for name, some in found.items()
    }, pairs


def vectors(release: Any, images: np.ndarray, pairs: list[str]) -> dict[str, np.ndarray]:
    """Similarities with the positive and the negative prompts: of whole radiographs ``[n, a]``, of queries ``[n, a,
    q]``."""
    import torch

    from ctglip.inference.scoring import Scorer

    scorer, model = Scorer(release), release.model
    prompts = [scorer.prompts(tuple(name.split(":"))) for name in pairs]  # pyright: ignore[reportArgumentType]
    out: dict[str, list[np.ndarray]] = {}
    with torch.no_grad():
        raw = [[release.embed(texts) for texts in sides] for sides in prompts]
        text = [[model.text(side).mean(0) for side in sides] for sides in raw]
        queries = (
            []
            if model.resampler is None
            else [[model.resampler.textual(side).mean(0) for side in sides] for sides in raw]
        )
        for start in range(0, len(images), 64):
            vision = model.encode_image(torch.from_numpy(images[start : start + 64]))
            head = model.image_head
            pooled = head(head.features(head.select(vision)))
            for side, name in enumerate(("positive", "negative")):
                axis = torch.stack([both[side] for both in text])
                out.setdefault(f"whole_{name}", []).append((pooled @ axis.T).numpy())
                if queries:
                    observed = model.resampler.visual(model.resampler(vision).tokens)
                    axis = torch.stack([both[side] for both in queries])
                    out.setdefault(f"sets_{name}", []).append(torch.einsum("bqe,ae->baq", observed, axis).numpy())
    return {name: np.concatenate(some) for name, some in out.items()}


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the curve; NaN with one class."""
    from ctglip.evaluation.bootstrap import Question, weighted_auroc

    if labels.min() == labels.max():
        return float("nan")
    question = Question(labels, scores.astype(np.float64), np.arange(len(labels)))
    return float(weighted_auroc(question, np.ones((1, len(labels))))[0])


def macro(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean AUROC over the columns."""
    return float(np.nanmean([auroc(scores[:, a], truth[:, a]) for a in range(truth.shape[1])]))


def information(first: np.ndarray, second: np.ndarray) -> float:
    """Mutual information of two lists of small numbers, in bits."""
    joint = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(joint, (first, second), 1)
    joint /= joint.sum()
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    there = joint > 0
    return float((joint[there] * np.log2(joint[there] / apart[there])).sum())


def above_chance(measure: Callable[[np.ndarray], float], labels: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """A measure of labels, and the 95 % quantile of it with the labels permuted."""
    rng = np.random.default_rng(seed)
    return measure(labels), float(np.quantile([measure(rng.permutation(labels)) for _ in range(DRAWS)], 0.95))


def figures(release: Any, radiographs: dict[str, Radiographs], pairs: list[str]) -> dict[str, float]:
    """All figures of one model."""
    other, truth = vectors(release, radiographs["other"].images, pairs), radiographs["other"].truth
    found = {"whole": macro(other["whole_positive"] - other["whole_negative"], truth)}
    if "sets_positive" not in other:
        return found
    found["sets"] = macro(other["sets_positive"].max(2) - other["sets_negative"].max(2), truth)
    train = vectors(release, radiographs["train"].images, pairs)
    apart = {name: some["sets_positive"] - some["sets_negative"] for name, some in (("train", train), ("other", other))}
    each = [
        [auroc(apart["train"][:, a, q], radiographs["train"].truth[:, a]) for q in range(apart["train"].shape[2])]
        for a in range(len(pairs))
    ]
    best = np.argmax(each, axis=1)
    found["best query"] = macro(np.stack([apart["other"][:, a, q] for a, q in enumerate(best)], axis=1), truth)
    found["best queries"] = float(len(set(best.tolist())))
    answers = other["sets_positive"].argmax(2)
    rows, pair = truth.nonzero()
    found["queries"] = float(2 ** information(answers[rows, pair], answers[rows, pair]))
    found["asked"], found["asked, permuted"] = above_chance(
        lambda labels: information(answers[rows, pair], labels), pair
    )
    moved = np.roll(np.arange(len(truth)), len(truth) // 2)
    found["exchanged"] = information(answers[moved[rows], pair], pair)
    order = np.arange(len(truth))
    found["seen"], found["seen, permuted"] = above_chance(
        lambda at: float(np.mean([information(answers[:, a], truth[at, a]) for a in range(len(pairs))])), order
    )
    return found


def measured(out: Path, arms: list[str], seeds: list[int], sizes: tuple[int, int, int], split: str) -> dict[str, Any]:
    """The figures of every run; seed by seed, so that what is broken off is whole.

    Args:
        sizes: steps, radiographs and pixels.
    """
    from ctglip.models.release import load_release

    steps, radiographs, pixels = sizes
    store = cxr_store(out, radiographs)
    table, pairs = read_radiographs(store, out / "cohort" / "truth.csv", pixels, split)
    results: dict[str, Any] = {
        "radiographs": {name: len(some.images) for name, some in table.items()},
        "steps": steps, "split": split, "pairs": pairs, "seeds": seeds, "arms": {},
    }  # fmt: skip
    for seed in seeds:
        for arm in arms:
            run = out / "runs" / f"{arm.replace(' ', '_').replace(',', '')}-{seed}-{steps}"
            seconds = train(store, run, config_of(arm, steps, seed, pixels))
            found = {**figures(load_release(run), table, pairs), "cpu_s": seconds}
            results["arms"].setdefault(arm, []).append(found)
            line = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
            print_line(f"{arm}, seed {seed}: {line}")
    return results


def main() -> None:
    """Measure, and print one table."""
    parser = parser_of("place", __doc__, "few radiographs and steps: does it run?")
    parser.add_argument("--out", type=Path, help="keep radiographs and runs here")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--split", choices=("val", "test"), default="test")
    parser.add_argument("--cxr", type=int, metavar="N", help="so many radiographs")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), help="all by default; three with --quick")
    arguments = parser.parse_args()
    arms = arguments.arms or ([*ARMS][:2] + [*ARMS][-1:] if arguments.quick else list(ARMS))
    radiographs, steps = (40, 4) if arguments.quick else (1000, 300)
    with tempfile.TemporaryDirectory() as folder:
        sizes = (arguments.steps or steps, arguments.cxr or radiographs, 64)
        results = measured(arguments.out or Path(folder), arms, arguments.seeds, sizes, arguments.split)
    keep(results, arguments.json)
    names = list(dict.fromkeys(name for runs in results["arms"].values() for name in runs[0]))
    print_line("\n| | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 1))
    for arm, runs in results["arms"].items():
        means = [np.mean([run[name] for run in runs]) if name in runs[0] else None for name in names]
        print_line(f"| {arm} | " + " | ".join("" if mean is None else f"{mean:.3f}" for mean in means) + " |")


if __name__ == "__main__":
    main()
