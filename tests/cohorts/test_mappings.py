"""What labels of others mean: every name that a set's makers list is ours, or is listed as lost with its reason.

The lists are written down from the makers' papers, cards and code, apart from the mappings.
"""

from __future__ import annotations

import pytest

from ctglip.cohorts.column_map import Cell, CohortMap, ColumnMapReader
from ctglip.cohorts.registry import READERS, cohort_names, cohort_reader
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs

CHEXPERT = (
    "No Finding|Enlarged Cardiomediastinum|Cardiomegaly|Lung Lesion|Lung Opacity|Edema|Consolidation|Pneumonia|"
    "Atelectasis|Pneumothorax|Pleural Effusion|Pleural Other|Fracture|Support Devices"
)
REX = "1a|1b|1c|1d|1e|1f|2a|2b|2c|2d|2e|2f|2g|2h"
MS_CXR = "Atelectasis|Cardiomegaly|Consolidation|Edema|Lung Opacity|Pleural Effusion|Pneumonia|Pneumothorax"
LABELS = {
    "ct_rate": (
        "Medical material|Arterial wall calcification|Cardiomegaly|Pericardial effusion|"
        "Coronary artery wall calcification|Hiatal hernia|Lymphadenopathy|Emphysema|Atelectasis|Lung nodule|"
        "Lung opacity|Pulmonary fibrotic sequela|Pleural effusion|Mosaic attenuation pattern|"
        "Peribronchial thickening|Consolidation|Bronchiectasis|Interlobular septal thickening"
    ),
    "merlin": (
        "submucosal_edema|renal_hypodensities|aortic_valve_calcification|coronary_calcification|thrombosis|"
        "metastatic_disease|pancreatic_atrophy|renal_cyst|osteopenia|surgically_absent_gallbladder|atelectasis|"
        "abdominal_aortic_aneurysm|anasarca|hiatal_hernia|lymphadenopathy|prostatomegaly|biliary_ductal_dilation|"
        "cardiomegaly|splenomegaly|hepatomegaly|atherosclerosis|ascites|pleural_effusion|hepatic_steatosis|"
        "appendicitis|gallstones|hydronephrosis|bowel_obstruction|free_air|fracture"
    ),
    "rad_chestct": (
        "bandlike_or_linear|groundglass|honeycombing|reticulation|tree_in_bud|airspace_disease|air_trapping|"
        "aspiration|atelectasis|bronchial_wall_thickening|bronchiectasis|bronchiolectasis|bronchiolitis|bronchitis|"
        "emphysema|hemothorax|interstitial_lung_disease|lung_resection|mucous_plugging|pleural_effusion|"
        "pleural_thickening|pneumonia|pneumonitis|pneumothorax|pulmonary_edema|septal_thickening|tuberculosis|cabg|"
        "cardiomegaly|coronary_artery_disease|heart_failure|heart_valve_replacement|pacemaker_or_defib|"
        "pericardial_effusion|pericardial_thickening|sternotomy|arthritis|atherosclerosis|aneurysm|breast_implant|"
        "breast_surgery|calcification|cancer|catheter_or_port|cavitation|clip|congestion|consolidation|cyst|debris|"
        "deformity|density|dilation_or_ectasia|distention|fibrosis|fracture|granuloma|hardware|hernia|infection|"
        "infiltrate|inflammation|lesion|lucency|lymphadenopathy|mass|nodule|nodulegr1cm|opacity|plaque|postsurgical|"
        "scarring|scattered_calc|scattered_nod|secretion|soft_tissue|staple|stent|suture|transplant|chest_tube|"
        "tracheal_tube|gi_tube|other_path"
    ),
    "inspect_pe": (
        "pe_positive_nlp|pe_positive|pe_acute|pe_subsegmentalonly|1_month_mortality|6_month_mortality|"
        "12_month_mortality|1_month_readmission|6_month_readmission|12_month_readmission|12_month_PH"
    ),
    "rsna_pe": (
        "qa_motion|qa_contrast|flow_artifact|rv_lv_ratio_gte_1|rv_lv_ratio_lt_1|leftsided_pe|chronic_pe|"
        "true_filling_defect_not_pe|rightsided_pe|acute_and_chronic_pe|central_pe"
    ),
    "rsna_trauma": (
        "bowel_healthy|bowel_injury|extravasation_healthy|extravasation_injury|kidney_healthy|kidney_low|kidney_high|"
        "liver_healthy|liver_low|liver_high|spleen_healthy|spleen_low|spleen_high|any_injury"
    ),
    "rexgrounding": REX,
    "mimic_cxr": MS_CXR,
    "ms_cxr": MS_CXR,
    "vindr_cxr": (
        "Aortic enlargement|Atelectasis|Calcification|Cardiomegaly|Clavicle fracture|Consolidation|Edema|Emphysema|"
        "Enlarged PA|ILD|Infiltration|Lung Opacity|Lung cavity|Lung cyst|Mediastinal shift|Nodule/Mass|"
        "Pleural effusion|Pleural thickening|Pneumothorax|Pulmonary fibrosis|Rib fracture|Other lesion|COPD|"
        "Lung tumor|Pneumonia|Tuberculosis|Other disease|No finding"
    ),
    "tbx11k": "ActiveTuberculosis|ObsoletePulmonaryTuberculosis|PulmonaryTuberculosis",
    "chexpert": CHEXPERT,
    "mimic_cxr_jpg": CHEXPERT,
    "nih_chestxray14": (
        "Atelectasis|Cardiomegaly|Consolidation|Edema|Effusion|Emphysema|Fibrosis|Hernia|Infiltration|Mass|Nodule|"
        "Pleural_Thickening|Pneumonia|Pneumothorax|No Finding"
    ),
    "rsna_pneumonia": "Target",
    "covidx": "class",
}
OF_ITS_OWN = {
    "luna16", "lidc_idri", "jsrt", "object_cxr", "siim_pneumothorax",  # one label each, by what is drawn
    "abdomen_atlas_3", "radgenome", "padchest", "openi",  # open lists: what means none of ours is listed by every run
}  # fmt: skip
RAD_CHESTCT_PLACES = (
    "left_upper left_mid left_lower right_upper right_mid right_lower right_lung left_lung lung airways "
    "heart mitral_valve aortic_valve tricuspid_valve pulmonary_valve aorta svc ivc pulmonary_artery "
    "pulmonary_vein right left anterior posterior superior inferior medial lateral interstitial "
    "subpleural centrilobular thyroid breast axilla chest_wall rib spine bone mediastinum diaphragm hilum "
    "abdomen esophagus stomach intestine liver gallbladder kidney adrenal_gland spleen pancreas "
    "other_location"
)
RADGENOME_REGIONS = "abdomen bone breast esophagus heart lung mediastinum pleura thyroid"


def columns_of(cell: str | Cell) -> str:
    return cell.text.strip("{}") if isinstance(cell, Cell) else cell


def of_map(mapping: CohortMap) -> dict[str, str]:
    """Their name -> our label."""
    named = {columns_of(cell): label for label, cell in mapping.labels.items()}
    for listed in mapping.lists:
        named |= {word: label for label, words in listed.names.items() for word in words}
    return named


def mapping_of(name: str) -> tuple[dict[str, str], dict[str, str]]:
    """Their name -> our label (or label of an organ), and their lost names -> why."""
    reader = cohort_reader(name)
    if isinstance(reader, ColumnMapReader):
        return of_map(reader.map), dict(reader.map.lost)
    data = reader.data
    named = {column: label for label in data.labels for column in data.columns_of(label)}
    return named | {theirs: ours for theirs, ours in data.findings.items() if ours}, dict(data.lost)


def test_every_set_that_brings_labels_is_looked_at() -> None:
    with_labels = {name for name in cohort_names() if "labels" in cohort_reader(name).card.brings}
    assert with_labels <= {*LABELS, *OF_ITS_OWN}
    assert {*LABELS, *OF_ITS_OWN} <= set(cohort_names())


@pytest.mark.parametrize("name", cohort_names())
def test_targets_are_in_the_dictionaries(name: str) -> None:
    abnormalities, organs = load_abnormalities(), load_organs()
    named, lost = mapping_of(name)
    for theirs, ours in named.items():
        organ, _, abnormality = ours.rpartition(":")
        assert abnormality in abnormalities, (theirs, ours)
        assert not organ or organ in organs, (theirs, ours)
    assert all(why.strip() for why in lost.values()), "what is lost has its reason"


@pytest.mark.parametrize("name", LABELS)
def test_names_of_the_makers_are_ours_or_listed_as_lost(name: str) -> None:
    named, lost = mapping_of(name)
    theirs = LABELS[name].split("|")
    forgotten = [one for one in theirs if one not in named and one not in lost]
    assert forgotten == []
    both = [one for one in named if one in lost]
    assert both in ([], ["COVID-19"]), "a name is ours or lost"


def test_places_of_others_are_ours_or_known_to_be_none() -> None:
    places = READERS["rad_chestct"]().data.organs
    assert [place for place in RAD_CHESTCT_PLACES.split() if place not in places] == []
    regions = READERS["radgenome"]().data.organs
    assert [region for region in (*RADGENOME_REGIONS.split(), "trachea and bronchie") if not regions.get(region)] == []
    codes = READERS["rexgrounding"]().data
    assert [code for code in REX.split("|") if code not in codes.findings] == []
    assert {code for code, ours in codes.findings.items() if ours is None} == set(codes.lost)
