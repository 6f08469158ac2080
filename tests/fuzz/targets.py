"""What is fuzzed: of each kind of input a few small invented files, and the call that reads one as users read it."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import polars as pl

from ctglip.config import load_settings
from ctglip.ct.io import read_scan
from ctglip.ct.masks import read_masks
from ctglip.ct.recipe import CtRecipe
from ctglip.ct.standardize import standardize
from ctglip.cxr.io import read_radiograph
from ctglip.cxr.masks import read_cxr_masks
from ctglip.cxr.recipe import CxrRecipe
from ctglip.cxr.regions import read_regions
from ctglip.cxr.standardize import standardize_radiograph
from ctglip.types import LabelMap, Scan
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs

AFFINE = np.array([[-3.0, 0, 0, 20], [0, 3, 0.1, -20], [0, 0.1, 4, 7], [0, 0, 0, 1]])
SHAPE = (12, 13, 10)
RECIPE = CtRecipe(spacing_mm=(4.0, 4.0, 4.0))
PLAIN = CtRecipe(spacing_mm=(4.0, 4.0, 4.0), crop_to_body=False)


@dataclass(frozen=True)
class Target:
    """One kind of input.

    Attributes:
        name: of the kind.
        suffix: of the file that is changed.
        seeds: sound contents of it.
        read: reads the file at a path.
        packed: what is done to changed content before it is written.
        folder: files that belong beside it, under the name of the file within.
    """

    name: str
    suffix: str
    seeds: list[bytes]
    read: Callable[[Path], Any]
    packed: Callable[[bytes], bytes] = bytes
    folder: Path | None = None
    inner: str = ""


def voxels() -> np.ndarray:
    values = np.full(SHAPE, -1000, np.int16)
    values[2:10, 2:11, 1:9] = np.random.default_rng(0).integers(-100, 200, (8, 9, 8))
    return values


def labels() -> np.ndarray:
    found = np.zeros(SHAPE, np.uint8)
    found[6:9, 4:8, 3:6] = 5
    found[3:5, 4:8, 4:7] = 1
    return found


def scan() -> Scan:
    return Scan(voxels()[::-1].copy(), np.diag([3.0, 3, 4, 1]))


def _nifti(array: np.ndarray, kind: Any = nib.Nifti1Image) -> bytes:
    return kind(array, AFFINE).to_bytes()


def nrrd(array: np.ndarray, kind: str, *pairs: str, coding: str = "raw") -> bytes:
    data = array.tobytes("F")
    head = (
        f"NRRD0005\ntype: {kind}\ndimension: 3\nspace: left-posterior-superior\nsizes: 12 13 10\n"
        f"space directions: (3,0,0) (0,3,0.1) (0,0.1,4)\nkinds: domain domain domain\nendian: little\n"
        f"encoding: {coding}\nspace origin: (1,2,3)\n" + "".join(f"{pair}\n" for pair in pairs)
    )
    return head.encode() + b"\n" + (gzip.compress(data) if coding == "gzip" else data)


def _meta(coded: bool = False) -> bytes:
    data = voxels().tobytes("F")
    head = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        f"CompressedData = {coded}\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 3 3 4\n"
        "DimSize = 12 13 10\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    return head.encode() + (zlib.compress(data) if coded else data)


def _npz() -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, voxels())
    return stream.getvalue()


def _scan(path: Path) -> None:
    read, _ = read_scan(path, RECIPE)
    standardize(read, None, RECIPE, load_organs())


def _masks(path: Path) -> None:
    found, _ = read_masks(path, scan(), PLAIN, load_organs())
    standardize(scan(), LabelMap(found.labels, found.affine), PLAIN, load_organs())


def ct_targets() -> list[Target]:
    segments = ("Segment0_Name:=liver", "Segment0_LabelValue:=5", "Segment0_Layer:=0", "Segment1_Name:=spleen")
    images = [_nifti(voxels()), _nifti(voxels().astype(np.float32)), _nifti(voxels(), nib.Nifti2Image)]
    zipped = lambda data: gzip.compress(data, 1)  # noqa: E731
    return [
        Target("nifti", ".nii", images, _scan),
        Target("nifti zipped", ".nii.gz", images, _scan, zipped),
        Target("gzip", ".nii.gz", [zipped(one) for one in images], _scan),
        Target("nifti masks", ".nii", [_nifti(labels())], _masks),
        Target("nrrd", ".nrrd", [nrrd(voxels(), "short"), nrrd(voxels(), "int16", coding="gzip")], _scan),
        Target("segments", ".seg.nrrd", [nrrd(labels(), "uchar", *segments)], _masks),
        Target("nhdr", ".nhdr", [nrrd(voxels(), "short", "data file: a.raw")[:400]], _scan),
        Target("meta image", ".mha", [_meta(), _meta(True)], _scan),
        Target("npz", ".npz", [_npz()], _scan),
    ]


# -- radiographs


def _picture(kind: str, mode: str = "L") -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    pixels = np.add.outer(np.arange(40), np.arange(48)).astype(np.uint16)
    image = Image.fromarray(pixels * 300) if mode == "I;16" else Image.fromarray(pixels.astype(np.uint8)).convert(mode)
    image.save(stream, kind)
    return stream.getvalue()


def _radiograph(path: Path) -> None:
    read, _ = read_radiograph(path, CxrRecipe(size=64))
    standardize_radiograph(read, CxrRecipe(size=64))


def cxr_targets() -> list[Target]:
    pictures = [_picture("PNG"), _picture("PNG", "I;16"), _picture("PNG", "P"), _picture("PNG", "RGBA")]
    boxes = b"region,row0,row1,column0,column1\nright lung,1,30,2,20\nleft lung,1,30,22,40\n"
    corner = {f"original_{name}": k for k, name in enumerate(("x1", "y1", "x2", "y2"), start=3)}
    graph = json.dumps({"objects": [{"bbox_name": "left lung", **corner}] * 2}).encode()
    return [
        Target("png", ".png", pictures, _radiograph),
        Target("jpeg", ".jpg", [_picture("JPEG"), _picture("JPEG", "RGB")], _radiograph),
        Target("cxr masks", ".png", pictures[:1], lambda p: read_cxr_masks(p, (40, 48), CxrRecipe(), load_organs())),
        Target("regions", ".csv", [boxes], read_regions),
        Target("scene graph", ".json", [graph], read_regions),
    ]


# -- tables and texts


_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_SHEETS = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"


def _relation(kind: str, target: str) -> str:
    inner = f'<Relationship Id="r1" Type="{_OFFICE}/{kind}" Target="{target}"/>'
    return f'<Relationships xmlns="{_PACKAGE}/relationships">{inner}</Relationships>'


def _workbook() -> bytes:
    rows = (("study_id", "patient_id", "image"), ("1", "p", "a.nii"))
    cells = [
        f'<c r="{column}{r}" t="inlineStr"><is><t>{text}</t></is></c>'
        for r, row in enumerate(rows, start=1)
        for column, text in zip("ABC", row, strict=True)
    ]
    lines = "".join(f'<row r="{r + 1}">{"".join(cells[3 * r : 3 * r + 3])}</row>' for r in range(len(rows)))
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"
    sheets = '<sheets><sheet name="a" sheetId="1" r:id="r1"/></sheets>'
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as book:
        types = f'<Types xmlns="{_PACKAGE}/content-types"><Default Extension="xml" ContentType="{kind}"/></Types>'
        book.writestr("[Content_Types].xml", types)
        book.writestr("_rels/.rels", _relation("officeDocument", "xl/workbook.xml"))
        book.writestr("xl/workbook.xml", f'<workbook xmlns="{_SHEETS}" xmlns:r="{_OFFICE}">{sheets}</workbook>')
        book.writestr("xl/_rels/workbook.xml.rels", _relation("worksheet", "worksheets/sheet1.xml"))
        sheet = f'<worksheet xmlns="{_SHEETS}"><sheetData>{lines}</sheetData></worksheet>'
        book.writestr("xl/worksheets/sheet1.xml", sheet)
    return stream.getvalue()


def _parquet() -> bytes:
    stream = io.BytesIO()
    pl.DataFrame(
        {"study_id": ["1", "2"], "patient_id": ["p", "q"], "image": ["a.nii", "b.nii"], "age": [1.5, None]}
    ).write_parquet(stream)
    return stream.getvalue()


COHORT = (
    b"study_id,patient_id,image,masks,report,split,age,affine,hu_slope\n"
    b'00123,p1,a.nii.gz,m.nii.gz,"Liver: fatty.\nNo cyst.",train,61,"1 0 0 0 0 1 0 0 0 0 1 0",1\n'
    b"s-2,p2,b.nii.gz,,Normal.,test,,,\n"
)
CONFIG = (
    b"ct:\n  spacing_mm: [1.5, 1.5, 3]\n  crop_to_body: true\nstudy_timeout_s: 600\n"
    b"splits: {train: 0.7, val: 0.1, test: 0.2}\n"
)
LABELS = b"study_id,patient_id,split,liver:hepatic_steatosis,gallstone\n1,p,train,1,0\n2,q,test,,1\n"
PROMPTS = (
    b"liver:hepatic_steatosis:\n  positive: [Fatty {organ}., The {organ} {is} hypodense.]\n"
    b"  negative: [Normal {organ}.]\n"
)
REPORT = (
    b"FINDINGS: Liver: 2.3 x 1.4 cm cyst in segment 4, previously 1.0 cm. No gallstones.\n1. Kidneys: bilateral "
    b"hydronephrosis, left > right, without stones; aorta (3.5 cm) ectatic.\nIMPRESSION:\n- Probable fatty liver.\n"
)


def _cohort(path: Path) -> None:
    from ctglip.cohort import read_cohort

    read_cohort(path)


def _config(path: Path) -> None:
    from ctglip_preprocessing.settings import PreprocessConfig

    load_settings(PreprocessConfig, str(path))


def _labels(path: Path) -> None:
    from ctglip.labels import read_labels

    read_labels(path, load_organs(), load_abnormalities())


def _prompts(path: Path) -> None:
    from ctglip.inference.prompt_file import read_prompts
    from ctglip.inference.scoring import Dictionaries

    read_prompts(path, Dictionaries(load_organs(), load_abnormalities()))


def _report(path: Path) -> None:
    from ctglip.reports.parser import get_parser

    get_parser().parse(path.read_bytes().decode("utf-8", "replace"))


def text_targets() -> list[Target]:
    return [
        Target("cohort csv", ".csv", [COHORT, COHORT.replace(b",", b";"), COHORT.decode().encode("utf-16")], _cohort),
        Target("cohort xlsx", ".xlsx", [_workbook()], _cohort),
        Target("cohort parquet", ".parquet", [_parquet()], _cohort),
        Target("config", ".yaml", [CONFIG], _config),
        Target("labels", ".csv", [LABELS], _labels),
        Target("prompts", ".yaml", [PROMPTS], _prompts),
        Target("report", ".txt", [REPORT, REPORT * 3], _report),
    ]


# -- folders of ours


def folder_target(name: str, folder: Path, inner: str, read: Callable[[Path], Any]) -> Target:
    """A file inside a folder that is otherwise sound."""
    return Target(name, "", [(folder / inner).read_bytes()], read, folder=folder, inner=inner)


def place(target: Target, data: bytes, work: Path) -> Path:
    """Write a changed file where it is read, alone or within a copy of its folder."""
    if target.folder is None:
        path = work / f"input{target.suffix}"
        path.write_bytes(target.packed(data))
        return path
    copy = work / target.name.replace(" ", "_").replace("/", "_")
    if not copy.is_dir():
        shutil.copytree(target.folder, copy)
    (copy / target.inner).write_bytes(data)
    return copy
