"""A report as JUnit XML, the form that continuous integration reads."""

from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

from colony_kit.environment import Misuse
from colony_kit.report import Report


def tree(report: Report) -> Element:
    """One test suite with one test case for each requirement."""
    counts = report.counts()
    figures = {
        "tests": str(len(report.results)),
        "failures": str(counts["fail"]),
        "errors": "0",
        "skipped": str(counts["not_applicable"]),
        "time": f"{report.seconds:.3f}",
    }
    suites = Element("testsuites", {"name": f"{report.kit} conformance", **figures})
    suite = SubElement(suites, "testsuite", {"name": f"{report.kit} conformance", **figures})
    for one in report.results:
        named = {
            "classname": f"{report.kit}.conformance",
            "name": f"{one.id} {one.sentence}",
            "time": f"{one.seconds:.3f}",
        }
        case = SubElement(suite, "testcase", named)
        if one.outcome == "fail":
            SubElement(case, "failure", {"message": one.sentence, "type": one.id}).text = one.evidence
        elif one.outcome == "not_applicable":
            SubElement(case, "skipped", {"message": one.evidence})
    return suites


def write(report: Report, path: Path) -> None:
    """Raises Misuse when the file cannot be written."""
    suites = tree(report)
    indent(suites)
    try:
        ElementTree(suites).write(path, encoding="utf-8", xml_declaration=True)
    except OSError as failed:
        raise Misuse(f"{path} cannot be written: {failed.strerror}.") from failed
