"""Error codes with cause and cure, read from the code that raises them: nothing is written down twice.

Each error and each check of a scan has a short ``code``. Its message is the cause, its ``fix`` the cure. Where a fix is
left out, ``CURES`` has one.
"""

from __future__ import annotations

import ast
import difflib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ctglip.errors import CTGLIPError

CURES = {
    "bad_affine": "Convert the scan or the masks again from their source.",
    "bad_cell": "Correct that row of the table.",
    "bad_columns": "Write the column map as our_name: their_name, with names that the table has.",
    "bad_dictionary": "Correct that file as its README says; `ctglip dictionary check` names what is wrong.",
    "bad_header": "Write the file again with the program that made it, or convert it from its source.",
    "bad_json": "Copy the file again, or remove it to have it made again.",
    "bad_key": "Give --key a file that you alone can read.",
    "bad_rescale": "Export the series again: the slope must not be 0.",
    "bad_split": "Write train, val or test, or leave the column out.",
    "bad_store_info": "Copy the store again; store.json is written when a store is made.",
    "bad_table": "Write the table again as CSV, or download it again.",
    "bad_xml": "Download the file again.",
    "beyond_int16": "Give the scan in Hounsfield units, as signed numbers.",
    "cannot_write": "See that the disk is there, has room, and may be written.",
    "cohort": "Look at the table in the message; `ctglip cohort --list` shows the data sets that have a reader.",
    "config": "Look at the settings: `ctglip config show NAME`, `ctglip config validate FILE`.",
    "contours_outside": "Nothing, if the rest is right; otherwise give the contours that were drawn on this scan.",
    "cxr_frames": "Export single radiographs.",
    "cxr_size": "Give the radiograph in its own size, 32 to 16,000 pixels a side.",
    "damaged_store": "Run: ctglip store verify STORE --repair",
    "damaged_study": "Run: ctglip store verify STORE --repair, then preprocess again.",
    "dicom_damaged": "Copy the files again, or export the series again.",
    "dicom_geometry": "Export the masks on the slices of the scan, or as NIfTI.",
    "dicom_pixels": "Export the files again, or install a decoder: pip install python-gdcm 'pylibjpeg[all]'.",
    "error": "Read the message: it says what was found and what was expected.",
    "exchange": "Take an encoder of the same family and size, or use the weights as ctglip writes them.",
    "facts": "Take the line out of the facts file, or correct the name of the setting.",
    "file_damaged": "Copy or download it again.",
    "file_empty": "Copy or download it again.",
    "file_truncated": "Copy or download it again.",
    "frames_outside": "Nothing, if the rest is right; otherwise give the masks that were drawn on this scan.",
    "hu_clipped": "Nothing, if the window held what you need; otherwise export the scan again without a window.",
    "hu_negated": "Turn the sign back: write hu_slope -1 in the cohort table, or export the scan again.",
    "hu_scaled": "Write hu_slope and hu_intercept in the cohort table, or export the scan again.",
    "hu_shifted": "Write hu_intercept in the cohort table, or export the scan again with its rescale intercept.",
    "hu_wrapped": "Export the scan again as signed numbers.",
    "image_2d": "Give the whole volume, or the folder of the series.",
    "image_4d": "Give one file for each volume.",
    "intercept_8192": "Write hu_intercept in the cohort table, or export the scan again with its rescale intercept.",
    "intercept_missing": "Write hu_intercept (-1024) in the cohort table, or export the scan again.",
    "llm": "Start the server, then run again; answers that are there are kept.",
    "llm_answer": "The rules read that report. Take a larger model, or a server that can be held to a JSON schema.",
    "llm_busy": "Wait and run again; answers that are there are kept.",
    "llm_refused": "Set CTGLIP_LLM_KEY to a key that the server takes.",
    "lora": "Name layers that the model has (train.layers), or train it in full.",
    "maps": "Ask without maps, or take an encoder whose vector is a mean of its tokens.",
    "mask_elsewhere": "Give the masks that were drawn on this scan.",
    "mask_labels": "Give masks of TotalSegmentator v2.",
    "masks_empty": "Segment the scan again, or leave the cell empty where there are no masks.",
    "missing_column": "Give the table that column, or name yours in a column map (--columns).",
    "missing_extra": "Install the extra that the message names.",
    "missing_id": "Give each row a study_id and a patient_id.",
    "missing_image": "Fill in the column image, a path relative to the table.",
    "model": "Name a run folder or its model/ folder; `ctglip doctor` tells whether the installation is whole.",
    "model_settings": "Correct the sizes that the message names; `ctglip config show NAME` prints all settings.",
    "nnunet": "Name the folder of a trained nnU-Net of the kinds that docs/weights.md lists.",
    "no_crops": "Take a model of organ crops, or another view.",
    "no_file": "Check the path; paths are relative to their table.",
    "no_labels": "Name label columns organ:abnormality (liver:hepatic_steatosis), with 0, 1 or nothing in them.",
    "no_lungs": "Give a body with lungs; without them no chest radiograph is made.",
    "no_masks": "Give organ masks in the cohort table's column masks, or have TotalSegmentator make them.",
    "no_organ": "Leave that organ out, or give masks that hold it.",
    "no_organs": "Give the studies organ masks, or name organs that they have.",
    "no_study": "Look at the ids: `ctglip store info STORE`.",
    "no_table": "Check the path; `ctglip cohort --list` says which tables a data set has.",
    "no_texts": "Give the cohort table reports, or take an objective that needs none.",
    "no_whole_image": "Name organs, or train with a head for whole images.",
    "not_a_scan": "Name the scan; a segmentation belongs in the column masks.",
    "not_an_image": "Give a NIfTI or NRRD file, or a folder of one DICOM series; radiographs as PNG, JPEG or DICOM.",
    "not_hu": "Give the scan in Hounsfield units: not MR, not PET, not a picture, not normalised values.",
    "not_labels": "Give masks of whole numbers: one number an organ.",
    "not_scalar": "Give one number a voxel: not vectors, colours or deformations.",
    "nothing_to_evaluate": "Evaluate on more patients: a pair needs patients with and without the abnormality.",
    "onnx": "Install the extra onnx; take an encoder of crops.",
    "other_modality": "Take a model and a store of the same modality.",
    "out_of_memory": "Use fewer workers, or raise study_memory_gb.",
    "rank": "Look at the message: it is that of the process that failed first. Then run again with --resume.",
    "ray": "Look at the message and at Ray's log; then run again with --resume.",
    "regions": "Name organs that the model was trained on.",
    "report": "Look at the report: `ctglip parse FILE`.",
    "rescale_twice": "Write hu_intercept (1024) in the cohort table, or export the scan again.",
    "scan": "Look at the scan: `ctglip doctor SCAN`.",
    "segmentation_failed": "Run TotalSegmentator alone on this scan, and read what it says.",
    "text_encoder": "Name a folder of a Hugging Face model, with config.json, tokeniser and weights.",
    "timeout": "Raise study_timeout_s, or look at why this study is slow.",
    "timm": "Take an encoder that the message names.",
    "too_deep": "Look at the file: no file that ctglip reads is nested so deep.",
    "too_large": "Look at the file: what it unzips to is no scan.",
    "torchvision": "Take a model that the message names.",
    "unexpected": "This is a fault of ctglip: please report it with the study's kind of files.",
    "unknown_class": "Use names of TotalSegmentator's task total, or name the numbers in label_map.",
    "unreadable": "Look at its permissions and at the disk, then copy it again.",
    "vocabulary": "Use the dictionaries' names: organ_dictionary/ and abnormality_dictionary/.",
    "weights": "Name weights of the same architecture and size.",
    "worker_died": "Use fewer workers: most often memory ran out.",
}
"""What to do about codes whose messages do not all end with it."""
_HANDED_ON = {"failed": 1, "_fault": 0}
"""Calls that make a row of a failure: where their code stands; message and cure follow."""
_ORDERS = ("left_right", "front_back", "up_down")
"""The codes of a check that is handed its code: of the order of organs, ``ctglip.ct.mask_checks``."""
_SEVERITIES = ("error", "warning", "info")
_ANY = {
    "": "Read the message: it says what was found and what was expected.",
    "CTGLIPError": "Read the message: it says what was found and what was expected.",
    "CohortError": "Correct the table that the message names, or download it again.",
    "ConfigError": "Correct the setting that the message names: `ctglip config show NAME` prints all.",
    "LLMError": "Look at the server's own log.",
    "MaskError": "Look at the masks beside their scan: `ctglip doctor SCAN --masks MASKS`.",
    "ModelError": "Copy the model again, or correct the setting that the message names.",
    "OutputError": "See that the disk is there, has room, and may be written.",
    "ReportError": "Look at the report: `ctglip parse FILE`.",
    "ScanError": "Copy or export the scan again; `ctglip doctor SCAN` says what is read.",
    "StoreError": "Look at the store: `ctglip store verify STORE`.",
    "VocabularyError": "Use the dictionaries' names: organ_dictionary/ and abnormality_dictionary/.",
    "error": "The study is refused. Mend the scan or its masks; `ctglip doctor SCAN` says what is read.",
    "warning": "The study is kept. Look at it: `ctglip doctor SCAN`.",
    "info": "Nothing: it is noted with the study.",
}


@dataclass(frozen=True)
class ErrorCode:
    """An error or a check, in the words of the code.

    Attributes:
        code: its short name, as messages, ``journal.sqlite`` and ``studies.parquet`` have it.
        kinds: the classes that are raised with it, and the severities (error, warning, info) of checks.
        cases: each message with what can be done about it; what is in capital letters is filled in.
    """

    code: str
    kinds: tuple[str, ...]
    cases: tuple[tuple[str, str], ...]

    def text(self) -> str:
        """Cause and cure in lines for people."""
        lines = [f"  Cause: {cause}\n  Cure:  {cure}" for cause, cure in self.cases]
        return "\n".join([f"{self.code} ({', '.join(self.kinds)})", "\n\n".join(lines)])


@functools.cache
def error_codes(containing: str = "") -> Mapping[str, ErrorCode]:
    """The codes that the installed packages raise, by name.

    Args:
        containing: only of files that hold this text: quick, where one code is looked for.
    """
    found: dict[str, list[tuple[str, str, str]]] = {}
    texts = {path: path.read_text(encoding="utf-8") for path in _sources()}
    defaults = {name: code for text in texts.values() if "default_code" in text for name, code in _defaults(text)}
    wanted = {containing, *(name for name, code in defaults.items() if code == containing)}
    for text in texts.values():
        for scope in _scopes(ast.parse(text)) if any(word in text for word in wanted) else ():
            for code, *case in _raised(scope, defaults):
                found.setdefault(code, []).append((case[0], case[1], case[2]))
    return {code: _joined(code, found[code]) for code in sorted(found)}


def error_code(code: str) -> ErrorCode:
    """What one code means.

    Raises:
        CTGLIPError: ``unknown_code``, with the nearest codes.
    """
    if (known := error_codes(code).get(code) if code else None) is not None:
        return known
    near = difflib.get_close_matches(code, error_codes(), n=3, cutoff=0.5)
    raise CTGLIPError(
        f"There is no error code {code!r}.",
        code="unknown_code",
        fix=f"Nearest codes: {', '.join(near)}." if near else "ctglip explain --list shows all.",
    )


def _joined(code: str, rows: list[tuple[str, str, str]]) -> ErrorCode:
    kinds = tuple(sorted({kind for kind, _, _ in rows if kind}))
    cases = dict.fromkeys((cause, cure or CURES.get(code) or _ANY.get(kind, _ANY[""])) for kind, cause, cure in rows)
    told = tuple(case for case in cases if case[0]) or (("The message says what was found.", next(iter(cases))[1]),)
    return ErrorCode(code, kinds, told)


def _sources() -> Iterator[Path]:
    """The files of ctglip and of the packages that give it commands."""
    commands = {entry.module.partition(".")[0] for entry in entry_points(group="ctglip.commands")}
    for package in sorted({"ctglip", *commands}):
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            yield from sorted(Path(folder).rglob("*.py"))


def _defaults(text: str) -> Iterator[tuple[str, str]]:
    """Classes of errors in a file, and the code that each has of its own."""
    for node in ast.walk(ast.parse(text)):
        for line in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "default_code":
                assert isinstance(node, ast.ClassDef)
                yield node.name, str(ast.literal_eval(line.value))


def _scopes(tree: ast.Module) -> Iterator[ast.AST]:
    """The functions of a file that no other function holds, and what stands outside of them."""
    left: list[ast.AST] = [tree]
    while left:
        node = left.pop()
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Expr | ast.Assign):
                yield child
            else:
                left.append(child)


def _raised(scope: ast.AST, defaults: Mapping[str, str]) -> Iterator[tuple[str, str, str, str]]:
    """Code, kind, cause and cure of each error and check that a function makes."""
    assigned = _assigned(scope)
    for node in ast.walk(scope):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        values = _before(assigned, node)
        given = {word.arg: word.value for word in node.keywords if word.arg}
        if (position := _HANDED_ON.get(name.rpartition(".")[2])) is not None and len(node.args) > position + 1:
            for one in _texts(node.args[position], values):
                fix = next(iter(node.args[position + 2 :]), None)
                yield one, "", _sentence(node.args[position + 1], values), _sentence(fix, values)
        elif name == "reads" and len(node.args) > 1:
            kind = ast.unparse(node.args[0])
            for one in _texts(node.args[1], values):
                fix = _sentence(next(iter(node.args[2:]), None), values)
                yield one, kind if kind in defaults else "", "INPUT cannot be read (REASON).", fix
        elif name == "QualityCheck" and len(node.args) > 2:
            code, severity, message = node.args[:3]
            kinds = [one for one in _texts(severity, values) if one in _SEVERITIES] or ["warning"]
            for one in _texts(code, values) or _ORDERS:
                for kind in kinds:
                    yield one, kind, _sentence(message, values), ""
        elif node.args and (name in defaults or ({"code"} <= given.keys() and not name.endswith("form"))):
            codes = _texts(given["code"], values) if "code" in given else [defaults[name]]
            for one in codes:
                kind = name if name in defaults else ""
                yield one, kind, _sentence(node.args[0], values), _sentence(given.get("fix"), values)


def _assigned(scope: ast.AST) -> dict[str, list[ast.expr]]:
    """What each name of a function may stand for."""
    values: dict[str, list[ast.expr]] = {}
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                pairs = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = list(zip(target.elts, node.value.elts, strict=False))
                for name, value in pairs:
                    values.setdefault(ast.unparse(name), []).append(value)
    return values


def _before(values: Mapping[str, list[ast.expr]], node: ast.expr) -> dict[str, list[ast.expr]]:
    """The same where what a message may stand for is what was assigned last before a call, in no deeper block."""
    kept = dict(values)
    for name in ("message", "found", "fix"):
        above = [
            one for one in values.get(name, ()) if one.lineno <= node.lineno and _depth(one, name) < node.col_offset
        ]
        kept[name] = above[-1:] or values.get(name, [])
    return kept


def _depth(value: ast.expr, name: str) -> int:
    """The column that the assignment of a value to a name begins in."""
    return value.col_offset - len(f"{name} = ")


def _texts(node: ast.expr, values: Mapping[str, list[ast.expr]]) -> list[str]:
    """The names of codes that an expression may be."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) and node.value else []
    if isinstance(node, ast.IfExp):
        return [*_texts(node.body, values), *_texts(node.orelse, values)]
    if isinstance(node, ast.Name):
        return [text for value in values.get(node.id, ()) if value is not node for text in _texts(value, {})]
    return []


def _sentence(node: Any, values: Mapping[str, list[ast.expr]]) -> str:
    """A message, with capital letters where something is filled in; empty where all of it is."""
    if isinstance(node, ast.Name) and values.get(node.id):
        return _sentence(values[node.id][-1], {})
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.IfExp):
        return " / ".join(filter(None, (_sentence(node.body, values), _sentence(node.orelse, values))))
    if isinstance(node, ast.BinOp):
        return _sentence(node.left, values) + _sentence(node.right, values)
    if isinstance(node, ast.JoinedStr):
        parts = [
            _blank(part.value, values) if isinstance(part, ast.FormattedValue) else _sentence(part, values)
            for part in node.values
        ]
        return "".join(parts)
    return ""


def _blank(node: ast.expr, values: Mapping[str, list[ast.expr]]) -> str:
    """The word for what is filled in, in capital letters; words that depend are given with a stroke between them."""
    if isinstance(node, ast.IfExp):
        return _sentence(node, values)
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "len":
        return "N"
    if isinstance(node, ast.Attribute):
        word = node.attr if node.attr not in ("name", "message", "display", "path") else ast.unparse(node.value)
    else:
        word = ast.unparse(node)
    words = [one for one in "".join(c if c.isalnum() else " " for c in word).split() if one not in ("self", "join")]
    return "_".join(words[-1:]).upper() or "..."
