"""The headline: what does each ingredient of organ grounding bring, from plain CLIP on whole scans to all of them?

    python -m experiments.headline ladder [--quick] [--json FILE] [--folder KEEP] [--budget CPU_SECONDS] [--workers 2]
    python -m experiments.headline variants [...]

One command: patients are simulated and preprocessed, the seconds of a step of each arm are measured, every arm gets the
steps that the same budget of CPU seconds allows, learning rates are chosen on the validation split (by its reports),
every run is then judged on the test split once, against the truth table. Kill it and run it again: it goes on.
Real-template anatomy (patient A of the folder named by CTGLIP_REAL_DATA) is reported apart, and skipped where the
folder is absent.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ctglip.files import read_json, write_json
from experiments.headline import figures, parts
from experiments.headline.parts import EXTRA, LADDER, VARIANTS, Anatomy, Job, Plan
from experiments.side_by_side import tied_to_the_parent

DATA = Path(os.environ.get("CTGLIP_REAL_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def say(what: str) -> None:
    """Progress, with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


@dataclass
class Bench:
    """One run of the benchmark.

    Attributes:
        steps: of each arm, fixed before anything is trained.
        rates: of each arm, chosen on the validation split.
    """

    folder: Path
    plan: Plan
    pool: ProcessPoolExecutor
    workers: int
    anatomies: tuple[Anatomy, ...]
    so_far: bool
    steps: dict[str, int]
    rates: dict[str, float]

    def job(self, arm: str, seed: int, anatomy: Anatomy = "built_in", rate: float | None = None) -> Job:
        """A run of an arm, judged nowhere yet."""
        chosen = rate or self.rates[parts.arm_of(arm).tuned_as]
        curve = anatomy == "built_in" and seed == self.plan.seeds[0] and arm in LADDER
        folder = str(self.folder)
        return Job(folder, arm, anatomy, seed, chosen, self.steps[arm], self.plan.draws, curve=curve)

    def do(self, jobs: Sequence[Job]) -> dict[Job, dict[str, Any]]:
        """Do jobs in parallel, those named first first; what each gave. So far: those that are done, and no others."""
        jobs = [job for job in jobs if parts.is_done(job) or not self.so_far]
        waiting: dict[Future[dict[str, Any]], Job] = {self.pool.submit(parts.do, job): job for job in jobs}
        found: dict[Job, dict[str, Any]] = {}
        for number, future in enumerate(as_completed(waiting), start=1):
            job = waiting[future]
            found[job] = future.result()
            score = found[job]["val"][-1][1] if found[job]["val"] else float("nan")
            say(f"{number}/{len(jobs)} {job.name}: val {score:.3f}, {found[job]['cpu_s']:.0f} s of CPU")
        return {job: found[job] for job in jobs}


def cut_crops(bench: Bench) -> None:
    """Cut the training crops of every way of cutting once, before anything is timed."""
    if bench.so_far:
        return
    ways: dict[Anatomy, tuple[str, ...]] = {"built_in": ("same_organ", "box", "field"), "real": ("same_organ", "box")}
    todo: list[tuple[Anatomy, str]] = [(anatomy, arm) for anatomy in bench.anatomies for arm in ways[anatomy]]
    for anatomy, arm in todo:
        mark = bench.folder / "crops" / f"{anatomy}-{arm}.json"
        if not mark.is_file():
            shares = 2 * bench.workers
            made = [
                bench.pool.submit(parts.cut_ahead, str(bench.folder), anatomy, arm, share, shares)
                for share in range(shares)
            ]
            crops = sum(future.result() for future in made)
            write_json(mark, {"crops": crops})
            say(f"{crops} crops cut: {anatomy}, {arm}")


def fixed_steps(bench: Bench, arms: Sequence[str]) -> None:
    """Measure each arm's step once, and fix how many its budget allows; kept in ``steps.json``."""
    path = bench.folder / "steps.json"
    known = read_json(path) if path.is_file() else {}
    missing = [arm for arm in arms if arm not in known and not bench.so_far]
    for arm, cost in zip(
        missing, bench.pool.map(parts.measure, [str(bench.folder)] * len(missing), missing), strict=True
    ):
        budget = bench.plan.budget_s * parts.arm_of(arm).budgets
        steps = max(5, round(budget / cost["cpu_s_per_step"]))
        known[arm] = {**cost, "steps": steps, "budget_cpu_s": budget}
        write_json(path, known)
        say(f"{arm}: {cost['cpu_s_per_step']:.2f} s of CPU a step, so {steps} steps")
    bench.steps = {arm: known[arm]["steps"] for arm in arms if arm in known}


def choose_rates(bench: Bench, arms: Sequence[str]) -> dict[str, dict[str, float]]:
    """Train each arm with each rate, one seed, part of the budget; the best on the validation split is taken."""
    plan = bench.plan
    jobs = [
        replace(
            bench.job(arm, plan.seeds[0], rate=rate), steps=max(5, round(plan.tried * bench.steps[arm])), curve=False
        )
        for arm in arms
        for rate in plan.rates
    ]
    found: dict[str, dict[str, float]] = {arm: {} for arm in arms}
    for job, result in bench.do(jobs).items():
        found[job.arm][f"{job.rate:g}"] = result["val"][-1][1]
    bench.rates = {arm: max(plan.rates, key=lambda rate, arm=arm: found[arm].get(f"{rate:g}", 0)) for arm in arms}
    return found


def ladder(bench: Bench) -> dict[str, Any]:
    """All arms on built-in anatomy with every seed, on real-template anatomy with one, and the other questions."""
    plan, first = bench.plan, bench.plan.seeds[0]
    cut_crops(bench)
    fixed_steps(bench, [*LADDER])
    tried = choose_rates(bench, list(dict.fromkeys(arm.tuned_as for arm in LADDER.values())))
    say(f"learning rates, by the validation split: {bench.rates}")
    abroad = {"report", "sentence", "mask", "same_organ"} if "real" in bench.anatomies else set()
    jobs = [
        replace(bench.job(arm, seed), judged=("built_in", "real") if arm in abroad else ("built_in",))
        for seed in plan.seeds
        for arm in LADDER
    ]
    if "real" in bench.anatomies:
        jobs += [replace(bench.job(arm, first, "real"), judged=("real",)) for arm in LADDER]
    done = bench.do(jobs)
    partly = {(job.anatomy, job.seed) for job in jobs if job not in done}
    done = {
        job: found for job, found in done.items() if (job.anatomy, job.seed) not in partly
    }  # the same seeds for all
    fixed_steps(bench, [*LADDER, *EXTRA])
    more = [replace(bench.job(arm, first), judged=("built_in",)) for arm in EXTRA if arm in bench.steps]
    done |= bench.do(more)
    jobs += more
    found = judged(bench, list(done))
    found["not_run"] = [job.name for job in jobs if job not in done]
    found["learning_rates"] = {"tried": tried, "chosen": bench.rates}
    found["cpu_s"] = {job.name: result["cpu_s"] for job, result in done.items()}
    found["wall_s"] = {job.name: result["wall_s"] for job, result in done.items()}
    curves = {LADDER[job.arm].label: result for job, result in done.items() if job.curve}
    figures.plot(bench.folder / "figures", found, curves)
    return found


def judged(bench: Bench, jobs: Sequence[Job]) -> dict[str, Any]:
    """The results: arms by anatomy, paired differences, recognition, generalisation."""
    from ctglip.store.tables import Store

    arms: dict[str, dict[str, figures.Judged]] = {anatomy: {} for anatomy in bench.anatomies}
    away: dict[str, figures.Judged] = {}
    for target in bench.anatomies:
        studies = Store.open(bench.folder / target / "store").table("studies")
        patients = dict(studies.select("study_id", "patient_id").iter_rows())
        split = Store.open(bench.folder / target / "store").table("splits")
        test = set(split.filter(split["split"] == "test")["study_id"])
        patients = {study: patient for study, patient in patients.items() if study in test}
        for name in {job.arm: None for job in jobs}:
            for source in bench.anatomies:
                runs = [j.scores(target) for j in jobs if (j.arm, j.anatomy) == (name, source) and target in j.judged]
                if runs:
                    found = figures.judge(runs, patients, bench.plan.draws)
                    (arms[target] if source == target else away)[name] = found
    labels = {name: parts.arm_of(name).label for name in {job.arm for job in jobs}}
    return {
        "labels": labels,
        "arms": {anatomy: {name: figures.row_of(one) for name, one in by.items()} for anatomy, by in arms.items()},
        "differences": {anatomy: _differences(by) for anatomy, by in arms.items()},
        "built_in_to_real": {name: figures.row_of(one) for name, one in away.items()},
        "drop_to_real": _drops(arms.get("real", {}), away),
        "held_out": _held_out(arms["built_in"]),
    }


def _differences(arms: dict[str, figures.Judged]) -> dict[str, Any]:
    """Each arm of the ladder less the one before it, and the last less both kinds of CLIP."""
    names = [name for name in LADDER if name in arms]
    asked = list(zip(names[1:], names, strict=False))
    asked += [(names[-1], name) for name in ("report", "sentence") if name in arms and (names[-1], name) not in asked]
    return {f"{more} - {less}": asdict(figures.difference(arms[more], arms[less])) for more, less in asked}


def _drops(home: dict[str, figures.Judged], away: dict[str, figures.Judged]) -> dict[str, Any]:
    """Trained on built-in less trained on real-template anatomy, both judged on the latter's test split."""
    return {name: asdict(figures.difference(away[name], home[name])) for name in away if name in home}


def _held_out(arms: dict[str, figures.Judged]) -> dict[str, Any] | None:
    """What was never taught, beside the same arm that was taught it."""
    if "held_out" not in arms or "same_organ" not in arms:
        return None
    unseen, taught = arms["held_out"], arms["same_organ"]
    pairs = [pair for pair in unseen.pairs if pair.partition(":")[2] in parts.HELD_OUT]
    found = {pair: [float(unseen.pairs[pair][0]), float(taught.pairs[pair][0])] for pair in pairs}
    return {"unseen_and_taught": found, "difference": asdict(figures.difference(unseen, taught, pairs))}


def variants(bench: Bench) -> dict[str, Any]:
    """Crop or pool, CNN or ViT, batch sizes with and without the dictionary (24: the ladder's), CLIP with ten times the
    budget: one seed, built-in."""
    fixed_steps(bench, [*LADDER, *VARIANTS])
    choose_rates(bench, ["same_organ", "report", "sentence"])
    arms = [arm for arm in ("mask", "same_organ", *VARIANTS) if arm in bench.steps]
    jobs = [replace(bench.job(arm, bench.plan.seeds[0]), judged=("built_in",)) for arm in arms]
    done = bench.do(jobs)
    bench.anatomies = ("built_in",)
    return {**judged(bench, list(done)), "not_run": [job.name for job in jobs if job not in done]}


def show(found: dict[str, Any]) -> None:
    """The tables."""
    for anatomy, arms in found["arms"].items():
        print(f"\n{anatomy}: macro AUROC, F1, worst pair, organ top-1 and macro, right side, effective rank")
        for name, row in arms.items():
            print(f"{found['labels'][name]:44s} {_shown(row['macro_auroc'])}  {_line(row)}")
        for name, value in found["differences"][anatomy].items():
            print(f"  {name:30s} {_shown(value)}")
    for name, row in found["built_in_to_real"].items():
        print(f"trained built-in, judged real: {found['labels'][name]:44s} {_shown(row['macro_auroc'])}")
    for name, value in found["drop_to_real"].items():
        print(f"  less trained on real-template: {found['labels'][name]:44s} {_shown(value)}")
    if found["not_run"]:
        print(f"not run: {', '.join(found['not_run'])}")
    if found["held_out"]:
        print(f"held out, unseen and taught: {found['held_out']['unseen_and_taught']}")


def _line(row: dict[str, Any]) -> str:
    pair, worst = row["worst_pair"]
    names = ("macro_f1", "organ_top1", "organ_macro", "right_side", "effective_rank")
    f1, top1, macro, side, rank = (float("nan") if row[name] is None else row[name] for name in names)
    return f"{f1:.3f}  {worst:.2f} {pair:38s} {top1:.3f} {macro:.3f} {side:.3f}  {rank:.1f}"


def _shown(value: dict[str, Any]) -> str:
    low, high = (float("nan") if value[end] is None else value[end] for end in ("low", "high"))
    return f"{value['value']:+.3f} [{low:+.3f}, {high:+.3f}]"


def template_of(data: Path) -> tuple[Path, Path] | None:
    """Scan and masks of the real patient whose anatomy is deformed; None, and a message, where they are absent."""
    scan, masks = (data / name for name in parts.PATIENT_A)
    if scan.is_file() and masks.is_file():
        return scan, masks
    say(f"no real data in {data}: real-template anatomy is skipped")
    return None


def run(what: str, plan: Plan, folder: Path, workers: int, data: Path = DATA, so_far: bool = False) -> dict[str, Any]:
    """Make patients, train and judge."""
    began = time.monotonic()
    template = template_of(data) if what == "ladder" else None
    anatomies: tuple[Anatomy, ...] = ("built_in", "real") if template else ("built_in",)
    if so_far:
        anatomies = tuple(anatomy for anatomy in anatomies if (folder / anatomy / "done.json").is_file())
    for anatomy in anatomies:
        say(f"patients: {anatomy}")
        parts.make_patients(folder, anatomy, plan, template if anatomy == "real" else None, workers)
    with ProcessPoolExecutor(workers, get_context("spawn"), tied_to_the_parent) as pool:
        bench = Bench(folder, plan, pool, workers, anatomies, so_far, {}, {})
        found = {"ladder": ladder, "variants": variants}[what](bench)
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, {workers} workers with one thread each"
    steps = read_json(folder / "steps.json")
    return {**found, "steps": steps, "plan": asdict(plan), "machine": machine, "seconds": time.monotonic() - began}


def main() -> None:
    """Run, show, and write."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.headline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("ladder", "variants"))
    parser.add_argument("--quick", action="store_true", help="the mechanics on few patients: under three minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--folder", type=Path, help="where everything is kept (headline-output, quick: -quick)")
    parser.add_argument("--budget", type=float, help="CPU seconds of steady learning for each run")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 8), help="processes")
    parser.add_argument("--so-far", action="store_true", help="train nothing more: judge and show what is done")
    asked = parser.parse_args()
    plan = parts.QUICK if asked.quick else parts.FULL
    plan = replace(plan, budget_s=asked.budget) if asked.budget else plan
    folder = asked.folder or Path("headline-output-quick" if asked.quick else "headline-output")
    found = run(asked.what, plan, folder, asked.workers, so_far=asked.so_far)
    write_json(folder / f"{asked.what}.json", found)
    show(found)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
