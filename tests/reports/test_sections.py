from ctglip.reports.sections import clean, split_sections


def test_headings_in_any_case_and_misspelt():
    report = split_sections("Indication: cough.\nFINDNGS:\nLungs clear.\nImpresion:\nNormal.\ncomparison: none")
    assert report.indication == "cough."
    assert report.findings == "Lungs clear."
    assert report.impression == "Normal."
    assert report.comparison == "none"
    assert report.technique is None


def test_no_heading_is_all_findings():
    assert split_sections("Liver normal. Spleen normal.").findings == "Liver normal. Spleen normal."


def test_organ_headings_stay_in_the_text():
    report = split_sections("FINDINGS:\nLiver: Unremarkable\nSpleen: enlarged\nIMPRESSION: splenomegaly")
    assert report.findings == "Liver: Unremarkable\nSpleen: enlarged"


def test_headings_on_one_line():
    report = split_sections("HISTORY: cough. FINDINGS: Nodule. IMPRESSION: Nodule in the lung.")
    assert (report.indication, report.findings, report.impression) == ("cough.", "Nodule.", "Nodule in the lung.")


def test_title_before_the_first_heading_is_technique():
    report = split_sections("CT Chest with contrast\n\nFINDINGS: clear lungs.")
    assert report.technique == "CT Chest with contrast"


def test_a_section_twice_is_joined():
    assert split_sections("FINDINGS: a nodule.\nIMPRESSION: x\nFINDINGS: a cyst.").findings == "a nodule.\na cyst."


def test_html_and_control_characters():
    assert clean("Liver &lt;5 mm<br/>cyst\x00") == "Liver <5 mm\ncyst "


def test_empty():
    assert split_sections("").sections() == {}
    assert split_sections(" \n\t ").sections() == {}
