"""The page: what it must say, that it is whole and self-contained, and that it copes with runs that lack parts."""

from __future__ import annotations

import base64
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from raysim.errors import RecordError
from raysim.metrics import mean_detection, summarise
from raysim.report.finished_run import read_finished_run
from raysim.report.page import render
from raysim.report.tables import detections
from tests.report.conftest import write_run_directory

VOID = {"meta", "img", "br", "link", "input", "source"}
SECTIONS = ["summary", "accuracy", "detection", "heat-maps", "time", "configuration", "environment"]
NOTES = {"seconds", "bytes"}
"""Ids of the sentences above tables."""


class Page(HTMLParser):
    """Parses a page, insisting that every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.images: list[dict[str, str]] = []
        self.narrow: list[dict[str, str]] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.add(tag)
        self.attributes.update(attributes)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "img":
            self.images.append(attributes)
        if tag == "source":
            self.narrow.append(attributes)
        if tag == "tr":
            self.rows.append([])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)
        if self.open and self.open[-1] not in ("style", "title"):
            self.words.append(data)

    @property
    def sections(self) -> list[str]:
        return [name for name in self.ids if name not in NOTES]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[Path, str]:
    """A run of two rounds and three clients, and its page, with every figure drawn; not to be changed."""
    folder = write_run_directory(tmp_path_factory.mktemp("small") / "layercam-ae", rounds=2, clients=3)
    return folder, render(folder).read_text(encoding="utf-8")


def test_a_full_run_shows_everything(write_run, undrawn):
    folder = write_run(rounds=6, clients=8)
    target = render(folder)
    assert target == folder / "report.html"
    page = read(target)
    assert page.sections == SECTIONS
    assert len(page.images) == 7
    run = read_finished_run(folder)
    main, (mean, counts) = summarise(run.rounds["main_accuracy"]), mean_detection(detections(run.rounds))
    percents = [f"{100 * value:.2f} %" for value in (main.final, main.best, main.last_20_mean)]
    assert ["Main accuracy", *percents] in page.rows
    assert ["Recall", f"{mean.recall:.3f}", "6"] in page.rows
    assert ["F1", f"{mean.f1:.3f}", str(counts["f1"])] in page.rows
    assert ["AUC, scores", f"{mean.auc_score:.3f}", "6"] in page.rows
    assert "cifar10 (partition dirichlet (alpha 0.5))" in page.text
    assert "gae (num_overheard 5)" in page.text
    assert "8 seen, 8 a round on average; 2 of them malicious in some round" in page.text
    assert "non-finite (1)." in page.text
    assert "partition: name: dirichlet" in page.text
    assert ["nodes[1].cpus", "64"] in page.rows
    train = run.spans["wall_s"][(run.spans["stage"] == "train") & (run.spans["task"] == -1)]
    row = next(row for row in page.rows if row[0] == "train")
    numbers = [f"{value:,.4f}" for value in (np.median(train[1:]), train[0])]
    assert row[1:6] == ["client", *numbers, "6", f"{train.sum():,.4f}"]
    assert next(row for row in page.rows if row[0] == "client")[1:] == [*numbers, "6", f"{train.sum():,.4f}"]
    assert "the defense costs" in page.text
    assert row[-4:] == ["17.2 MiB", "8.79 KiB", "0 B", "190 MiB"]
    assert next(row for row in page.rows if row[0] == "gram")[-2] == "12.0 MiB"
    assert next(row for row in page.rows if row[0] == "1")[7] == "-"  # round 1 was not evaluated


def test_what_was_written_to_disk_for_want_of_memory_is_shown_where_something_was(write_run, undrawn):
    page = read(render(write_run(rounds=2, maps=None, spilled=2**20)))
    gram = next(row for row in page.rows if row[0] == "gram")
    assert gram[-4:] == ["4.00 MiB", "2.00 MiB", "4.00 MiB", "190 MiB"]
    assert "Restored" not in read(render(write_run("calm", rounds=2, maps=None))).text


def test_a_run_of_an_earlier_version_does_not_know_what_was_moved(write_run, undrawn):
    folder = write_run(rounds=1, maps=None)
    spans = pq.read_table(folder / "spans.parquet").drop_columns(["bytes_moved"])
    pq.write_table(spans, folder / "spans.parquet")
    page = read(render(folder))
    assert next(row for row in page.rows if row[0] == "gram")[-2] == "-"
    assert "nan" not in page.text


@pytest.mark.slow
def test_the_page_is_self_contained_and_accessible(small):
    _, text = small
    page = Page(text)
    markup = re.sub(r'src(set)?="data:[^"]*"', "", text)
    assert not re.search(r"https?:|//|url\(|@import|src=", markup)
    assert page.tags.isdisjoint({"script", "link", "iframe", "object"})
    for image in page.images:
        media_type, _, data = image["src"].removeprefix("data:").partition(";base64,")
        assert media_type == "image/svg+xml"
        assert ElementTree.fromstring(base64.b64decode(data, validate=True)).tag.endswith("svg")
        assert len(image["alt"]) > 20
        assert "nan" not in image["alt"]
    assert "nan" not in page.text


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes(small, tmp_path):
    folder, text = small
    again = shutil.copytree(folder, tmp_path / folder.name)
    assert render(again).read_text(encoding="utf-8") == text


HOSTILE = "\"><script>alert(1)</script><b x='&amp;$_{ ]]>--></svg>"


@pytest.mark.slow
def test_what_people_name_is_text_on_the_page_and_nothing_else(write_run):
    """A run's name, strings of the configuration, titles, notes, reasons, stages: all of them try to be markup."""
    folder = write_run(name='<b>a & "b" <img src=x onerror=alert(1)>', maps=None, rounds=2, clients=3)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"]["root"] = config["model"]["width"] = config["attack"]["name"] = HOSTILE
    config["defense"] = {"name": HOSTILE, HOSTILE: HOSTILE}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    about = {"commit": HOSTILE, HOSTILE: [HOSTILE], "titles": {HOSTILE: HOSTILE}, "notes": [HOSTILE]}
    (folder / "environment.json").write_text(json.dumps(about))
    notes = {
        "rejected": {HOSTILE: 1},
        "undefined": HOSTILE,
        "assumed": {"by": HOSTILE, "malicious": 1, "of": 3, "most": False},
    }
    replace_column(folder, "rounds", "notes", [json.dumps(notes)] * 2)
    replace_column(folder, "clients", "reason", [HOSTILE] * 6)
    spans = pq.read_table(folder / "spans.parquet")
    stages = [HOSTILE if stage == "gram" else stage for stage in spans["stage"].to_pylist()]
    replace_column(folder, "spans", "stage", stages)
    text = render(folder).read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.isdisjoint({"script", "b", "link", "iframe", "object"})
    assert all(set(image) == {"src", "alt"} for image in page.images)
    assert {name for name in page.attributes if name.startswith("on")} == set()
    assert 'a & "b" <img src=x onerror=alert(1)>' in page.text
    assert page.text.count(" ".join(HOSTILE.split())) >= 10
    assert any(HOSTILE in image["alt"] for image in page.images)
    for source in [*(image["src"] for image in page.images), *(image["srcset"] for image in page.narrow)]:
        drawing = base64.b64decode(source.partition(",")[2])
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(drawing).iter()}
        assert "script" not in tags


def replace_column(folder: Path, table: str, name: str, values: list[str]) -> None:
    file = folder / f"{table}.parquet"
    rows = pq.read_table(file)
    at = rows.schema.get_field_index(name)
    pq.write_table(rows.set_column(at, rows.schema.field(at), [values]), file)


@pytest.mark.slow
def test_a_page_in_the_hand_has_figures_of_its_own(small):
    _, text = small
    page = Page(text)
    assert [image["media"] for image in page.narrow] == ["(max-width: 760px)"] * len(page.images)
    for wide, narrow in zip(page.images, page.narrow, strict=True):
        widths = [
            float(
                ElementTree.fromstring(base64.b64decode(uri.partition(",")[2]))
                .attrib["width"]
                .removesuffix("pt")
            )
            for uri in (wide["src"], narrow["srcset"])
        ]
        assert widths == [pytest.approx(72 * 10.4), pytest.approx(72 * 4.7)]
    assert "prefers-color-scheme: dark" in text
    assert "color-scheme: light dark" in text


def test_scores_are_counted_beside_their_threshold(write_run, undrawn):
    folder = write_run(rounds=3, clients=5, maps=None)
    clients = read_finished_run(folder).clients
    above = {
        kind: int(np.sum((clients["score"] > 2.0) & (clients["malicious"] == kind))) for kind in (True, False)
    }
    (alt,) = [image["alt"] for image in read(render(folder)).images if image["alt"].startswith("Scores")]
    said = f"{above[True]} of 6 scores of attackers, {above[False]} of 9 scores of benign clients."
    assert alt == f"Scores by round of 5 clients. Above the threshold: {said}"


@pytest.mark.slow
def test_scores_that_are_not_finite_are_counted_and_rules_without_threshold_say_so(write_run):
    folder = write_run(rounds=1, clients=3, flags=False, maps=None)
    replace_column(folder, "clients", "score", [np.inf, 1.0, 2.0])
    text = read(render(folder)).text
    assert (
        "This defense compares scores with no threshold. 1 scores that are not finite are not drawn." in text
    )
    replace_column(folder, "clients", "score", [np.inf, np.nan, np.nan])
    assert "No scores: the defense gives none." in read(render(folder)).text


def test_attackers_and_flagged_are_named_beside_the_heat_maps(write_run, undrawn):
    folder = write_run(rounds=1, clients=6)
    clients = read_finished_run(folder).clients
    attackers = ", ".join(map(str, clients["client"][clients["malicious"]]))
    assert f"attackers {attackers}" in read(render(folder)).text


@pytest.mark.slow
def test_no_attack_no_flags_no_maps_one_round(write_run):
    folder = write_run(rounds=1, attackers=0, flags=False, scores=False, success=False, maps=None)
    page = read(render(folder))
    assert page.sections == SECTIONS
    assert len(page.images) == 3  # accuracy, seconds by owner and by stage
    assert {"Attack success", "Target confidence"}.isdisjoint(row[0] for row in page.rows)
    for sentence in (
        "No detection rates: no round defines one.",
        "No detection rates: the defense flags nobody, so there is no decision to score.",
        "No record of who was flagged: the defense flags nobody.",
        "No heat maps: the run recorded none",
    ):
        assert sentence in page.text
    assert "none malicious" in page.text


def test_scores_without_flags_give_the_rank_auc_alone(write_run, undrawn):
    page = read(render(write_run(rounds=2, flags=False, maps=None)))
    assert ["Recall", "-", "0"] in page.rows
    assert next(row for row in page.rows if row[0] == "AUC, scores")[2] == "2"


def test_no_attackers_leave_the_recall_undefined(write_run, undrawn):
    page = read(render(write_run(rounds=3, attackers=0, success=False, maps=None)))
    assert ["Recall", "-", "0"] in page.rows
    assert next(row for row in page.rows if row[0] == "FPR")[2] == "3"
    assert "attackers above the line" not in page.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sentences", "images"),
    [
        (
            "rounds",
            [
                "No accuracy curve: the run recorded no round.",
                "No detection rates: the run recorded no round.",
            ],
            4,
        ),
        ("clients", ["No record of who was flagged: the run recorded no client."], 5),
        ("spans", ["No times: the run recorded no stage."], 5),
    ],
)
def test_empty_tables_leave_their_sections_out(write_run, name, sentences, images):
    folder = write_run(rounds=2, clients=3)
    file = folder / f"{name}.parquet"
    pq.write_table(pq.read_table(file).slice(0, 0), file)
    page = read(render(folder))
    assert page.sections == SECTIONS
    assert len(page.images) == images
    for sentence in sentences:
        assert sentence in page.text


@pytest.mark.slow
def test_never_evaluated(write_run):
    folder = write_run(rounds=2, success=False, maps=None)
    file = folder / "rounds.parquet"
    table = pq.read_table(file)
    index = table.schema.get_field_index("main_accuracy")
    pq.write_table(table.set_column(index, table.schema.field(index), [np.full(2, np.nan)]), file)
    page = read(render(folder))
    assert "No accuracy curve: the global model was evaluated in no round." in page.text
    assert ["Main accuracy", "-", "-", "-"] in page.rows


@pytest.mark.slow
def test_maps_of_no_client(write_run):
    folder = write_run(rounds=1)
    maps = folder / "artifacts" / "round-000000"
    np.save(maps / "heat_maps.npy", np.zeros((0, 4, 4)))
    np.save(maps / "reconstructed_maps.npy", np.zeros((0, 4, 4)))
    np.save(maps / "client_ids.npy", np.zeros(0, dtype=np.int64))
    assert "No heat maps: those of round 0 hold no client." in read(render(folder)).text


def test_a_killed_run_has_no_report(write_run):
    folder = write_run(rounds=1, maps=None)
    (folder / "spans.parquet").unlink()
    with pytest.raises(RecordError, match=r"no spans\.parquet"):
        render(folder)
    assert not (folder / "report.html").exists()
