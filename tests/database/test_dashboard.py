"""The pages of the dashboard, on every database, about a study with hostile texts in every field."""

from __future__ import annotations

import csv
import html
import io
import re
import shlex
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from click.testing import CliRunner
from starlette.testclient import TestClient

from pyexperimenter import PyExperimenter
from pyexperimenter.analysis import to_html, to_latex
from pyexperimenter.analysis.rendering import escape_latex
from pyexperimenter.cli import main
from pyexperimenter.dashboard.app import create_app
from pyexperimenter.dashboard.security import Guard
from pyexperimenter.exceptions import PyExperimenterError
from pyexperimenter.jsonable import one_line
from tests.support.hostile import HOSTILE, hostile_study
from tests.support.latex import Latex
from tests.support.mariadb import PrivateMariaDB
from tests.support.study import experimenter, study, wait_until
from tests.support.target import Target

HOME = "http://127.0.0.1:8000"


def browser(experimenter: PyExperimenter, allow_changes: bool = False, root: str = "") -> TestClient:
    """Return what has opened the dashboard of a study."""
    app = Guard(create_app(experimenter, allow_changes), "token", frozenset(), root)
    client = TestClient(app, base_url=HOME, follow_redirects=False)
    assert client.get(f"{root}/?token=token").status_code == 200
    return client


class Page(HTMLParser):
    """What a page has: links, tags, texts, and what no page may have."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.forms: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.bad: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        if tag == "a":
            self.links.append(given["href"])
        if tag == "form":
            self.forms.append((given.get("action", ""), {}))
        if tag == "input" and self.forms and given.get("type") == "hidden":
            self.forms[-1][1][given["name"]] = given["value"]
        if tag == "script" and not re.fullmatch(r"(/\w+)?/static/\w+\.js", given.get("src", "")):
            self.bad.append(tag)
        self.bad += [f"{tag} {name}" for name in given if name.startswith("on") or name == "style"]
        self.bad += [tag for one in [tag] if one in ("img", "iframe", "object", "style", "b onclick")]
        self.bad += [value for name, value in given.items() if name in ("src", "href") and not _is_ours(value)]
        if "id" in given:
            self.ids.append(given["id"])

    def handle_data(self, data: str) -> None:
        self.text += data


def _is_ours(url: str) -> bool:
    parts = urlsplit(url)
    return not parts.scheme and not parts.netloc and (url.startswith(("/", "#")))


def opened(client: TestClient, url: str, status: int = 200) -> Page:
    answer = client.get(url)
    assert answer.status_code == status, (url, answer.text)
    page = Page(answer.text)
    assert page.bad == [], url
    assert len(page.ids) == len(set(page.ids))
    return page


def test_every_page_can_be_reached_and_is_harmless(target: Target) -> None:
    """Follows the links from page to page, as far as they lead to something new."""
    client = browser(hostile_study(target))
    waiting, seen, kinds = ["/"], set[str](), dict[str, int]()
    while waiting:
        url = waiting.pop()
        kind = re.sub(r"\d+", "N", urlsplit(url).path) + "?" + ",".join(re.findall(r"([\w.%+]+)=", urlsplit(url).query))
        names = {name for name in re.findall(r"([\w.%+]+)=", urlsplit(url).query)}
        if url in seen or url.startswith("#") or kinds.get(kind) or len(names) > 1:
            continue
        seen.add(url)
        kinds[kind] = kinds.get(kind, 0) + 1
        if urlsplit(url).path.endswith(".csv"):
            assert client.get(url).headers["content-type"].startswith("text/csv")
        else:
            waiting += opened(client, url).links
    screens = [
        "",
        "grid",
        "experiments",
        "experiments/N",
        "failures",
        "results",
        "parameters",
        "curves",
        "workers",
        "sql",
    ]
    assert {f"/s/study/{screen}" for screen in screens} <= {re.sub(r"\d+", "N", urlsplit(url).path) for url in seen}


@pytest.mark.parametrize("target", ["sqlite", "postgresql"], indirect=True)
@pytest.mark.parametrize("value", ["NULL", "infinite", "all infinite"])
def test_pages_about_json_and_infinite_results(target: Target, value: str) -> None:
    client = browser(hostile_study(target))
    infinite = "9e999" if target.provider == "sqlite" else "'Infinity'"
    rows = "WHERE seed = 0" if value == "infinite" else ""
    target.query(f"UPDATE study SET accuracy = {'NULL' if value == 'NULL' else infinite} {rows}")
    for query in (
        "grid?rows=options&columns=dataset&value=accuracy",
        "grid?facet=options&columns=seed&value=accuracy&color=value",
        "parameters?value=accuracy",
        "results?value=accuracy&rows=options&columns=rate&failures=drop",
        "results?value=accuracy&rows=rate&columns=&failures=drop&by=rate",
        "experiments?order=options",
        "experiments?order=-accuracy",
    ):
        page = opened(client, f"/s/study/{query}")
        for link in [link for link in page.links if "k." in link][:2]:
            opened(client, link)


def test_the_overview_is_refreshed_without_what_costs_more(sqlite_target: Target) -> None:
    client = browser(hostile_study(sqlite_target))
    whole, part = (opened(client, f"/s/study/{query}") for query in ("", "?part=progress"))
    assert "progress" in part.ids and "Workers" in part.text
    assert "Newest failures" in whole.text and "Newest failures" not in part.text


def test_hostile_texts_are_shown_as_they_are(sqlite_target: Target) -> None:
    client = browser(hostile_study(sqlite_target))
    page = opened(client, "/s/study/experiments/14")
    assert page.text.count(HOSTILE) >= 3
    assert "49%00" not in page.text
    answer = client.get("/s/study/experiments").text
    assert "<b>postponed" not in answer and html.escape("<b>postponed</b>") in answer


def test_experiments_are_selected_by_values_states_and_sql(target: Target) -> None:
    study_ = hostile_study(target)
    client = browser(study_)

    def ids(query: str) -> list[int]:
        page = opened(client, f"/s/study/experiments?{query}")
        return sorted({int(found) for link in page.links for found in re.findall(r"/experiments/(\d+)$", link)})

    assert ids("where=seed+%3D+2")[:3] == [3, 6, 9]
    assert ids("state=error") == [2, 5, 8, 11, 14]
    assert (
        ids("k.seed=0&k.rate=0.1&k.dataset=null")
        == study_.get_table({"seed": 0, "rate": 0.1, "dataset": None})["ID"].tolist()
    )
    assert ids("k.dataset=iris&k.seed=0&k.seed=1&where=rate+<+0.05") == [4, 5, 10, 11]
    assert len(ids("order=-accuracy")) == 36


@pytest.mark.parametrize("screen", ["grid", "results", "parameters"])
def test_states_are_not_selected_where_they_mean_nothing(sqlite_target: Target, screen: str) -> None:
    page = opened(browser(hostile_study(sqlite_target)), f"/s/study/{screen}?state=error&k.seed=1")
    assert "Selected:" in page.text and "remove" in page.text and "✕ error" not in page.text
    assert not [link for link in page.links if "state=" in link] and page.forms
    assert all("state" not in hidden for _, hidden in page.forms)


def test_facets_lead_to_what_they_count(sqlite_target: Target) -> None:
    client = browser(hostile_study(sqlite_target))
    page = opened(client, "/s/study/experiments")
    (link,) = [link for link in page.links if "k.dataset=%22%3C" in link]
    opened_ = opened(client, link)
    assert len({one for one in opened_.links if re.search(r"/experiments/\d+$", one)}) == 12
    assert "dataset = </script>" in opened_.text


def test_pages_go_through_all_experiments(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyexperimenter.dashboard.pages.listing._PAGE", 10)
    client = browser(hostile_study(target))

    def pages(url: str, to: str) -> Iterator[tuple[str, list[str]]]:
        while url:
            page = opened(client, url)
            yield url, list(dict.fromkeys(one for one in page.links if re.search(r"/experiments/\d+$", one)))
            url = next((one for one in page.links if f"{to}=" in one and "facet" not in one), "")

    forth = list(pages("/s/study/experiments?order=-dataset&k.seed=0&k.seed=1&k.seed=2", "after"))
    assert [len(shown) for _, shown in forth] == [10, 10, 10, 6] and len({one for _, of in forth for one in of}) == 36
    back = list(pages(forth[-1][0], "before"))
    assert [shown for _, shown in back] == [shown for _, shown in reversed(forth)]
    assert "order=-dataset&k.seed=0&k.seed=1&k.seed=2&before=" in back[-1][0]
    assert client.get("/s/study/experiments?before=--%C2%B2&after=x").status_code == 200


def test_download_has_what_is_selected(sqlite_target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyexperimenter.dashboard.pages.listing._PART", 5)
    study_ = hostile_study(sqlite_target)
    client = browser(study_)
    answer = client.get("/s/study/experiments.csv?k.seed=1")
    assert answer.headers["content-disposition"] == 'attachment; filename="study.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [int(row["ID"]) for row in rows] == study_.get_table({"seed": 1})["ID"].tolist()
    assert {row["dataset"] for row in rows} == {"iris", HOSTILE, ""}
    everything = client.get("/s/study/experiments.csv?k.seed=99").text
    assert everything.splitlines()[0].startswith("ID,dataset,order by,")


def test_what_cannot_be_read_is_explained(target: Target) -> None:
    client = browser(hostile_study(target))
    injected = "where=1%3D1);+DELETE+FROM+study;--"
    for query in (injected, "where=nonsense", "order=nothing", "col=nothing", "k.nothing=1", "state=gone"):
        for screen in ("experiments", "grid") if query.startswith(("where", "k.")) else ("experiments",):
            page = opened(client, f"/s/study/{screen}?{query}", 400)
            assert "This cannot be shown" in page.text
    assert target.query("SELECT COUNT(*) FROM study") == [(36,)]


def test_screens_show_what_the_facade_returns(target: Target) -> None:
    study_ = hostile_study(target)
    client = browser(study_)
    grid = opened(client, "/s/study/grid?rows=rate&columns=seed&value=accuracy&facet=dataset").text
    assert "dataset = NULL" in grid and "2/2" in grid and "✕" in grid
    # The mean of the two kernels, whose values are the same.
    assert "0.1 ± 0" in grid
    query = "where=ID<13+AND+seed<>1&rows=rate&columns=seed&pairing=all&stat=mean"
    page = opened(client, f"/s/study/results?{query}&failures=drop")
    assert "2.100" in page.text and "pyexperimenter table accuracy --rows rate --columns seed" in page.text
    assert "\\begin{tabular}" in page.text
    compared = client.get(f"/s/study/results?{query}&by=rate").text
    assert "blocks" in compared and 'role="alert"' in compared  # they are too few for a test
    assert "seed" in opened(client, "/s/study/parameters?where=ID<13").text
    curves = client.get("/s/study/curves?value=loss&index=epoch&hue=rate&runs=1&logy=1").text
    assert curves.count("<polyline") == 16
    workers = opened(client, "/s/study/workers").text
    assert "16 executions" in workers and "open and running experiments are like" in workers


def test_each_group_of_failures_has_a_map(target: Target) -> None:
    """The failures are those of seed 1. The map has the whole grid, also where nothing has failed."""
    client = browser(hostile_study(target))
    page = opened(client, "/s/study/failures")
    head, *lines = re.findall(r"<tr>.*?</tr>", client.get("/s/study/failures").text, re.S)
    assert re.findall(r">([^<]+)</th>", head) == ["dataset ↓ seed →", "0", "1", "2"]
    found = {
        html.unescape(re.findall(r">([^<]+)</th>", line)[0]): re.findall(r">([^<]+)</(?:a|span)>", line)
        for line in lines
    }
    assert found == {"NULL": ["–", "–", "–"], one_line(HOSTILE, 80): ["–", "1", "–"], "iris": ["–", "4", "–"]}
    assert re.findall(r'<td class="(level-[^"]*)"', "".join(lines)) == ["level-2", "level-5"]
    links = [link for link in page.links if "k.seed=1" in link and "k.dataset" in link]
    downloads = [client.get(link.replace("experiments?", "experiments.csv?")).text for link in links]
    assert sorted(len(list(csv.DictReader(io.StringIO(text)))) for text in downloads) == [1, 4]


def test_maps_of_failures_say_more_than_what_all_share(sqlite_target: Target) -> None:
    """All have the method and the kernel, as the text says. So the map has the data set, too."""
    keyfields = {
        "dataset": {"type": "VARCHAR(9)", "values": ["adult", "iris", "wine"]},
        "method": {"type": "VARCHAR(9)", "values": ["net", "svm", "tree"]},
        "kernel": {"type": "VARCHAR(9)", "values": ["poly", "rbf"], "when": {"method": "svm"}},
        "seed": {"type": "INT", "values": [0, 1, 2, 3]},
    }
    study_ = experimenter(sqlite_target, study(sqlite_target, keyfields=keyfields))
    study_.fill_table_from_config()
    where = "kernel = 'poly' AND dataset <> 'iris'"
    sqlite_target.query(f"UPDATE study SET status = 'error', error = 'E: x' WHERE {where}")
    page = opened(browser(study_), "/s/study/failures").text
    assert "by dataset and method" in page and "method = svm, kernel = poly" in page


def test_maps_of_failures_outside_the_grid_and_of_one_keyfield(sqlite_target: Target) -> None:
    def fails(keyfields: dict[str, Any], results: Any, custom: Any) -> None:
        raise ValueError("always")

    seeds = {"type": "INT", "values": {"start": 0, "stop": 25}}
    keyfields = {"method": {"type": "VARCHAR(9)", "values": ["net", "svm", "tree"]}, "seed": seeds}
    study_ = experimenter(sqlite_target, study(sqlite_target, keyfields=keyfields))
    study_.fill_table_from_config()
    study_.execute(fails, max_experiments=4)
    sqlite_target.query("UPDATE study SET method = 'other' WHERE ID = 4")
    page = opened(browser(study_), "/s/study/failures").text
    assert re.search(r"method ↓ seed →0123\s+net111–\s+other–––1", page)
    other = experimenter(sqlite_target, study(sqlite_target, name="other", keyfields={"seed": seeds}))
    other.fill_table_from_config()
    assert "No experiment has failed" in opened(browser(other), "/s/other/failures").text
    other.execute(fails, max_experiments=3)
    page = opened(browser(other), "/s/other/failures").text
    assert "ValueError: always" in page and "↓" not in page


def test_attempts_of_an_experiment_are_drawn_over_time(target: Target) -> None:
    study_ = hostile_study(target)
    study_.reset_experiments("error")
    study_.execute(lambda keyfields, results, custom: None, max_experiments=1)
    client = browser(study_)
    target.query("UPDATE study__attempts SET outcome = NULL, ended = NULL WHERE experiment_id = 1")
    long_ago = "started = '2026-01-01 00:00:00', heartbeat = '2026-01-01 00:01:00'"
    target.query(f"UPDATE study__attempts SET {long_ago} WHERE experiment_id = 1")
    target.query("UPDATE study__attempts SET outcome = ? WHERE experiment_id = 5", HOSTILE)
    opened(client, "/s/study/experiments/5")

    def drawn(experiment_id: int) -> list[str]:
        return re.findall(r'<rect class="(outcome-\w+)"', client.get(f"/s/study/experiments/{experiment_id}").text)

    assert drawn(2) == ["outcome-error", "outcome-done"] and drawn(4) == ["outcome-done"] and drawn(20) == []
    page = opened(client, "/s/study/experiments/2").text
    assert "1: error" in page and "2: done" in page
    before = datetime.now(timezone.utc)
    running = opened(client, "/s/study/experiments/1").text
    assert drawn(1) == ["outcome-running"] and "1: running" in running
    days = re.findall(r"2026-01-01 00:00(.{10}) [\d:]+ UTC", running)
    assert [day in (f"{before:%F}", f"{datetime.now(timezone.utc):%F}") for day in days] == [True], running


def test_times_of_attempts_that_a_person_edited_are_not_drawn(sqlite_target: Target) -> None:
    client = browser(hostile_study(sqlite_target))
    sqlite_target.query("UPDATE study__attempts SET ended = 'soon' WHERE experiment_id = 1")
    sqlite_target.query("UPDATE study__attempts SET started = 'soon' WHERE experiment_id = 2")
    for experiment_id in (1, 2):
        page = opened(client, f"/s/study/experiments/{experiment_id}").text
        assert "Attempts" in page and "over time" not in page


def test_queries_can_only_read(target: Target) -> None:
    client = browser(hostile_study(target))
    page = opened(client, "/s/study/sql?sql=SELECT+seed,+COUNT(*)+FROM+study+GROUP+BY+seed+ORDER+BY+seed")
    assert re.search(r"3 rows\.", page.text)
    rows = client.get("/s/study/sql.csv?sql=SELECT+DISTINCT+dataset+FROM+study+WHERE+seed+%25+2=1").text
    assert sorted(row[0] for row in csv.reader(io.StringIO(rows)))[-1] == "iris" and HOSTILE.partition('"')[0] in rows
    for statement in (
        "DELETE FROM study",
        "SELECT 1; DELETE FROM study",
        "WITH gone AS (DELETE FROM study RETURNING 1) SELECT * FROM gone",
        "/* SELECT */ DROP TABLE study",
        "PRAGMA journal_mode = DELETE",
        "COPY study TO '/tmp/x'",
        "SELECT * FROM study INTO OUTFILE '/tmp/x'",
        "SELECT nothing FROM nowhere",
    ):
        answer = client.get("/s/study/sql", params={"sql": statement})
        assert answer.status_code == 200 and 'role="alert"' in answer.text, statement
    assert target.query("SELECT COUNT(*) FROM study") == [(36,)]


def test_every_example_of_sql_runs(target: Target) -> None:
    client = browser(hostile_study(target))
    examples = [url for url in opened(client, "/s/study/sql").links if "?sql=" in url]
    assert len(examples) == 10
    for url in examples:
        page = client.get(url).text
        assert 'role="alert"' not in page and "Download as CSV" in page, url


def test_a_study_gets_the_examples_of_sql_that_it_has_the_fields_for(target: Target) -> None:
    keyfields = {"options": {"type": "JSON", "values": [1, 2]}, "Order by-2.x": {"type": "INT", "values": [1]}}
    config = study(
        target, keyfields=keyfields, resultfields={"model": "LONGTEXT"}, logtables={"losses": {"loss": "INT"}}
    )
    study_ = experimenter(target, config)
    study_.fill_table_from_config()
    queries = study_.example_queries()
    assert {"Progress", "Certain errors", "Ends of executions"} <= {*queries}
    assert {"Means", "Best experiments", "Missing runs", "Time and memory", "Last logs"}.isdisjoint(queries)
    for query in queries.values():
        study_.read_only().query(query)


def test_a_slow_query_is_cut_and_says_so(sqlite_target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyexperimenter.dashboard.app.TIME_LIMIT", 0.2)
    client = browser(hostile_study(sqlite_target))
    slow = "SELECT COUNT(*) FROM " + ", ".join(f"study s{number}" for number in range(9))
    assert "it was cut after 0.2 s" in client.get("/s/study/sql", params={"sql": slow}).text
    page = opened(client, f"/s/study/experiments?where=({slow.replace(' ', '+')})>0", 400)
    assert "it was cut after 0.2 s; select fewer experiments" in page.text


def test_a_report_is_one_harmless_file(sqlite_target: Target, tmp_path: Path) -> None:
    study_ = hostile_study(sqlite_target)
    study_.report(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert [link for link in page.links if not link.startswith("#")] == []
    assert page.forms == [] and [bad for bad in page.bad if bad != "style"] == []
    assert "<script" not in text
    assert {"Overview", "Grid map", "Failures", "Results: accuracy"} <= set(re.findall(r"<h2[^>]*>([^<]*)", text))
    assert "done 10" in page.text
    for live in ("Click a cell", "Drag along", "all failures with these", "Point at"):  # needs a server or a script
        assert live not in page.text
    study_.report(tmp_path / "part.html", where="rate = 0.1 AND seed <> 1")
    assert "0.100" in Page((tmp_path / "part.html").read_text(encoding="utf-8")).text
    with pytest.raises(PyExperimenterError):
        study_.report(tmp_path / "nothing.html", where="rate = 0.1); DELETE FROM study; SELECT (1")
    assert sum(study_.counts().values()) == 36


def test_a_database_that_is_away(private_target: Target, private_mariadb: PrivateMariaDB) -> None:
    client = browser(hostile_study(private_target))
    opened(client, "/s/study/experiments")
    private_mariadb.stop()
    answer = client.get("/s/study/experiments?order=-ID")
    assert answer.status_code == 503 and "The database does not answer" in answer.text
    assert '<meta http-equiv="refresh" content="5">' in answer.text
    assert private_mariadb.password not in answer.text
    private_mariadb.start()
    wait_until(lambda: client.get("/s/study/experiments?order=-ID").status_code == 200)


def test_pages_that_are_not_there(sqlite_target: Target) -> None:
    client = browser(hostile_study(sqlite_target))
    assert "no experiment with ID 99" in opened(client, "/s/study/experiments/99", 404).text
    assert "has no study nothing" in opened(client, "/s/nothing/", 404).text
    opened(client, "/s/study/nothing", 404)
    assert client.post("/s/study/experiments", headers={"origin": HOME}).status_code == 403
    assert client.get("/static/../app.py").status_code == 404


def test_a_table_that_is_dropped_meanwhile(sqlite_target: Target) -> None:
    study_ = hostile_study(sqlite_target)
    client = browser(study_)
    opened(client, "/s/study/")
    study_.delete_table()
    for screen in ("experiments", "failures", "experiments/1"):
        assert "The table is not there" in opened(client, f"/s/study/{screen}", 404).text
    assert "cannot be read (MissingTableError)" in opened(client, "/").text


def test_a_table_that_is_filled_while_its_page_waits(sqlite_target: Target) -> None:
    study_ = experimenter(sqlite_target, study(sqlite_target))
    client = browser(study_)
    answer = client.get("/s/study/")
    assert answer.status_code == 404 and '<meta http-equiv="refresh" content="5">' in answer.text
    study_.fill_table_from_config()
    wait_until(lambda: client.get("/s/study/").status_code == 200)  # a page is kept for a moment


def test_pages_have_the_words_of_the_dashboard(sqlite_target: Target) -> None:
    client = browser(hostile_study(sqlite_target))
    listed = opened(client, "/s/study/experiments?state=error&col=end_date&col=error").text
    assert "ValueError: </script>" in listed and "Traceback" not in listed
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", listed) and not re.search(r"\dT\d", listed)
    results = opened(client, "/s/study/results?where=ID<13&pairing=all")
    assert "Leave failed runs out" in results.text and "failures=" not in results.text
    (link,) = [url for url in results.links if "failures=drop" in url]
    assert "Leave failed runs out" not in opened(client, link).text
    wrong = opened(client, "/s/study/experiments?where=nonsense", 400)
    assert "/s/study/experiments" in wrong.links  # of the menu, to go on from


def test_a_paused_experiment_is_not_done_in_the_grid_map(sqlite_target: Target) -> None:
    client = browser(hostile_study(sqlite_target))
    assert ">0/1</a>" in client.get("/s/study/grid?rows=seed&columns=rate&where=ID=3").text


def test_other_studies_of_the_database_are_listed(target: Target) -> None:
    study_ = hostile_study(target)
    other = study(target, name="a_second-one")
    other_study = experimenter(target, other)
    other_study.fill_table_from_config()
    client = browser(study_)
    page = opened(client, "/")
    assert [link for link in page.links if link.startswith("/s/")] == ["/s/a_second-one/", "/s/study/"]
    assert "6 experiments" in opened(client, "/s/a_second-one/").text
    assert "Overview" in opened(browser(study_, root="/proxy"), "/proxy/s/study/").text


def test_only_with_allow_changes_anything_can_be_changed(sqlite_target: Target) -> None:
    study_ = hostile_study(sqlite_target)
    client = browser(study_)
    assert "Reset" not in opened(client, "/s/study/experiments").text
    answer = client.post("/s/study/change", data={"action": "reset", "confirm": "yes"}, headers={"origin": HOME})
    assert answer.status_code == 403
    assert study_.counts()["error"] == 5


@pytest.mark.parametrize(
    ("action", "query", "number", "after"),
    [
        ("reset", "state=error&k.seed=1&where=ID<6", 2, {"error": 3, "created": 21}),
        ("remove", "where=seed%3D1", 12, {"error": 0, "created": 12}),
        ("prune", "", 0, {"error": 5, "created": 19}),
        ("release", "", 0, {"error": 5, "created": 19}),
    ],
)
def test_changes_are_counted_and_confirmed(
    sqlite_target: Target, action: str, query: str, number: int, after: dict[str, int]
) -> None:
    study_ = hostile_study(sqlite_target)
    client = browser(study_, allow_changes=True)
    page = opened(client, f"/s/study/experiments?{query}")
    ((url, fields),) = [(url, fields) for url, fields in page.forms if "change" in url]
    answer = client.post(url, data={**fields, "action": action}, headers={"origin": HOME})
    assert answer.status_code == 200, answer.text
    asked = Page(answer.text)
    assert f"{action.capitalize()} {number} experiment" in asked.text and not asked.bad
    assert study_.counts()["error"] == 5
    if number:
        ((url, fields),) = [(url, fields) for url, fields in asked.forms if "change" in url]
        answer = client.post(url, data={**fields, "confirm": "yes"}, headers={"origin": HOME})
        assert answer.status_code == 303
        assert opened(client, answer.headers["location"])
    counts = study_.counts()
    assert {state: counts[state] for state in after} == after


def test_pruning_concerns_only_what_is_selected(sqlite_target: Target) -> None:
    study_ = hostile_study(sqlite_target)
    first = study_.get_table({"ID": 1}, list(study_.config.table.keyfields)).iloc[0]
    study_.fill_table_with_rows([{**first, "seed": seed} for seed in (98, 99)])
    client = browser(study_, allow_changes=True)
    ((url, fields),) = [form for form in opened(client, "/s/study/experiments?k.seed=99").forms if "change" in form[0]]
    data = {**fields, "action": "prune"}
    assert "Prune 1 experiment?" in client.post(url, data=data, headers={"origin": HOME}).text
    client.post(url, data={**data, "confirm": "yes"}, headers={"origin": HOME})
    assert [len(study_.get_table({"seed": seed})) for seed in (98, 99)] == [1, 0]


def test_sql_of_a_url_never_reaches_a_connection_that_can_write(sqlite_target: Target) -> None:
    client = browser(hostile_study(sqlite_target), allow_changes=True)
    ((_, fields),) = [form for form in opened(client, "/s/study/experiments").forms if "change" in form[0]]
    url = "/s/study/change?where=1%3D1);+DELETE+FROM+study;--"
    for confirm in ("no", "yes"):
        data = {**fields, "action": "reset", "confirm": confirm}
        assert client.post(url, data=data, headers={"origin": HOME}).status_code == 400
    assert sqlite_target.query("SELECT COUNT(*) FROM study") == [(36,)]


def test_a_comparison_shows_ranks_and_tests(sqlite_target: Target) -> None:
    keyfields = {
        "dataset": {"type": "INT", "values": {"start": 0, "stop": 8}},
        "method": {"type": "VARCHAR(50)", "values": ["good", "better", "<b>bad"]},
        "seed": {"type": "INT", "values": {"start": 0, "stop": 2}},
    }
    study_ = experimenter(sqlite_target, study(sqlite_target, keyfields=keyfields))
    study_.fill_table_from_config()
    scores = {"good": 0.8, "better": 0.9, "<b>bad": 0.1}
    study_.execute(lambda keyfields, results, custom: {"accuracy": scores[keyfields["method"]] + keyfields["seed"]})
    page = opened(browser(study_), "/s/study/results?rows=dataset&columns=method&by=method&best=max")
    assert re.search(r"better 1\.00\s*good 2\.00\s*<b>bad 3\.00", page.text)
    assert "pyexperimenter compare accuracy --by method --blocks dataset --better max --over seed" in page.text
    assert "Friedman" in page.text


def copied(client: TestClient, url: str) -> dict[str, str]:
    """Return what a page offers to copy, by its name."""
    answer = client.get(url)
    assert answer.status_code == 200, answer.text
    found = re.findall(r"<dt>([^<]*)</dt><dd><pre[^>]*><code>(.*?)</code>", answer.text, re.S)
    return {name: html.unescape(text) for name, text in found}


def test_the_query_for_an_experiment_can_be_run(target: Target) -> None:
    experimenter_ = experimenter(target)
    experimenter_.fill_table_from_config()
    query = copied(TestClient(create_app(experimenter_)), "/s/study/experiments/2")["SQL"]
    with closing(target.connect()) as connection:  # as a person would run it
        cursor = connection.cursor()
        cursor.execute(query)
        assert [row[0] for row in cursor.fetchall()] == [2]


def printed(command: str, target: Target, config: Path, *options: str) -> str:
    """Run a copied command, and return what it prints."""
    words = shlex.split(command)
    assert words[0] == "pyexperimenter"
    credentials = ["--credentials", str(target.credentials_file)] if target.credentials_file else []
    result = CliRunner().invoke(main, [*words[1:], *options, "-c", str(config), *credentials])
    assert result.exit_code == 0, result.output
    return result.stdout


def study_of_settings(target: Target, tmp_path: Path) -> tuple[PyExperimenter, Path]:
    """Return a study of two methods with a setting that is better the larger it is by `valid`, and its config."""
    keyfields = {
        "dataset": {"type": "INT", "values": {"start": 0, "stop": 6}},
        "my method": {"type": "VARCHAR(50)", "values": ["a\\'b", "<b>worse"]},
        "C": {"type": "INT", "values": [1, 10]},
        "seed": {"type": "INT", "values": {"start": 0, "stop": 2}},
    }
    fields = {"accuracy": "DOUBLE", "valid": "DOUBLE"}
    settings = study(target, keyfields=keyfields, resultfields=fields)
    (tmp_path / "config.yml").write_text(yaml.safe_dump(settings))
    study_ = experimenter(target, settings)
    study_.fill_table_from_config()

    def function(keyfields: dict[str, Any], results: Any, custom: Any) -> dict[str, float]:
        if (keyfields["dataset"], keyfields["C"], keyfields["seed"]) == (0, 1, 0):
            raise ValueError(HOSTILE)
        accuracy = keyfields["dataset"] / 10 + (keyfields["my method"] != "<b>worse") / 4 + keyfields["C"] / 100
        return {"accuracy": accuracy, "valid": float(keyfields["C"])}

    study_.execute(function)
    return study_, tmp_path / "config.yml"


@pytest.mark.filterwarnings("ignore::UserWarning")  # of failed runs
def test_what_is_copied_of_results_gives_what_the_page_shows(target: Target, tmp_path: Path) -> None:
    study_, config = study_of_settings(target, tmp_path)
    client = browser(study_)
    for query in (
        "failures=-0.5&best=max&by=my+method",
        "failures=0&select_on=valid&select_better=min&by=my+method",
        "failures=drop&over=C&over=seed&where=seed=1&pairing=all",
        "failures=drop&select_on=valid&k.my+method=%22a%5C%5C%27b%22&k.C=1&k.C=10&where=seed=0+OR+seed=1",
    ):
        url = f"/s/study/results?rows=dataset&columns=my+method&{query}"
        opened(client, url)
        page, copies = client.get(url).text, copied(client, url)
        best = {"best": "max"} if "best" in query else {}
        summary = eval(copies["Python"], {"experimenter": study_})
        assert to_html(summary, **best) in page
        assert to_latex(summary, **best) == copies["LaTeX"]
        assert printed(copies["Command"], target, config, "--format", "latex").strip() == copies["LaTeX"]
        if "by=" in query:
            shown = html.unescape(re.findall(r"<pre tabindex=\"0\">(.*?)</pre>", page, re.S)[0])
            assert printed(copies["Command for the comparison"], target, config).strip() == shown.strip()
            comparison = eval(copies["Python for the comparison"], {"experimenter": study_})
            assert str(comparison) == shown
            assert copies["LaTeX for the comparison"] == escape_latex(comparison.describe())


def test_only_the_best_settings_are_shown(sqlite_target: Target, tmp_path: Path) -> None:
    client = browser(study_of_settings(sqlite_target, tmp_path)[0])
    query = "rows=dataset&columns=my+method&where=dataset=1&stat=mean&select_on=valid"
    best = opened(client, f"/s/study/results?{query}").text
    assert "0.450" in best and "0.200" in best and "with the highest valid, of 2" in best
    worst = opened(client, f"/s/study/results?{query}&select_better=min").text
    assert "0.360" in worst and "0.110" in worst and "with the lowest valid" in worst
    failed = opened(client, "/s/study/results?rows=dataset&columns=my+method&select_on=valid&select_better=min").text
    assert "Leave failed runs out" in failed and "failures=" not in failed
    optimistic = opened(client, f"/s/study/results?{query.replace('=valid', '=accuracy')}").text
    assert "is also what you report" in optimistic
    assert (
        "nothing to choose"
        in opened(
            client, f"/s/study/results?{query}&select_by=C&select_by=seed&select_by=dataset&select_by=my+method"
        ).text
    )


def test_what_is_averaged_over_can_be_chosen(sqlite_target: Target, tmp_path: Path) -> None:
    client = browser(study_of_settings(sqlite_target, tmp_path)[0])
    query = "rows=dataset&columns=my+method&failures=drop"
    assert "Averaged over C, seed." in opened(client, f"/s/study/results?{query}").text
    assert "Averaged over C." in opened(client, f"/s/study/results?{query}&over=C&where=seed=1").text
    # What varies has to be named, and a row is not what is averaged over.
    assert "'C'" in opened(client, f"/s/study/results?{query}&over=seed").text
    assert "Averaged over seed." in opened(client, f"/s/study/results?{query}&over=seed&over=dataset&where=C=1").text
    assert "over: " in opened(client, f"/s/study/results?{query}&over=nothing", 400).text


def test_failed_runs_count_as_a_number(sqlite_target: Target, tmp_path: Path) -> None:
    client = browser(study_of_settings(sqlite_target, tmp_path)[0])
    query = "rows=dataset&columns=my+method&where=dataset=0&stat=mean&pairing=all"
    assert "Or enter above the number that they count as" in opened(client, f"/s/study/results?{query}").text
    # One of four runs failed; the others have 0.26, 0.35 and 0.35, or 0.01, 0.1 and 0.1.
    assert "-0.010" in (text := opened(client, f"/s/study/results?{query}&failures=-1").text) and "-0.198" in text
    assert "0.240" in (text := opened(client, f"/s/study/results?{query}&failures=0").text) and "0.053" in text
    for wrong in ("nan", "inf", "worst", "<b>"):
        assert "failures: " in opened(client, f"/s/study/results?{query}&failures={wrong}", 400).text


def cells_of(page: str) -> list[list[str]]:
    """Return the levels and texts of the cells of a heatmap."""
    (table,) = re.findall(r'<table class="map value">(.*?)</table>', page, re.S)
    return [re.findall(r'class="(level-\d)"><a [^>]*>([^<]*)</a>', line) for line in table.split("<tr>")[2:]]


def test_a_heatmap_has_the_values_that_the_plot_has(sqlite_target: Target, tmp_path: Path) -> None:
    study_, _ = study_of_settings(sqlite_target, tmp_path)
    client = browser(study_)
    query = "rows=dataset&columns=seed&failures=drop&where=dataset<2"
    page = client.get(f"/s/study/results?{query}").text
    # A cell lacks C = 1, so that only C = 10 is in all cells; but the other row of the table has both.
    assert cells_of(page) == [[("level-1", "0.225")] * 2, [("level-5", "0.325")] * 2]
    assert "0.280 ± " in page
    with pytest.warns(UserWarning, match="left out"):
        axes = study_.plot_heatmap(
            "accuracy", "seed", "dataset", ["C", "my method"], where="dataset<2", failures="drop"
        )
    assert [text.get_text() for text in axes.texts] == ["0.225", "0.225", "0.325", "0.325"]
    assert "k.dataset=1&amp;k.seed=0" in page
    every = cells_of(client.get(f"/s/study/results?{query}&pairing=all&stat=median%C2%B1iqr").text)
    assert [[text for _, text in line] for line in every] == [["0.225", "0.18"], ["0.28", "0.28"]]
    assert "map value" not in client.get("/s/study/results?rows=dataset&rows=seed&failures=drop").text


def test_a_heatmap_without_common_runs_says_so(target: Target) -> None:
    client = browser(hostile_study(target))
    page = opened(client, "/s/study/results?rows=dataset&columns=seed&failures=drop&stat=mean&by=rate")
    assert "There is no heatmap: accuracy: no order by, rate, options has a result in all cells" in page.text


@pytest.mark.filterwarnings("ignore::UserWarning")  # of failed runs
@pytest.mark.parametrize("query", ["failures=drop&pairing=all", "failures=-1&select_on=valid&where=dataset>1"])
def test_figures_that_are_copied_are_those_of_the_page(
    sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, latex: Latex, query: str
) -> None:
    study_, config = study_of_settings(sqlite_target, tmp_path)
    monkeypatch.chdir(tmp_path)
    client, url = browser(study_), f"/s/study/results?rows=dataset&columns=my+method&stat=mean&by=my+method&{query}"
    page, copies = client.get(url).text, copied(client, url)
    for name in ("figure", "heatmap", "ranks"):
        printed(copies[f"Command for the {name}"], sqlite_target, config)
    latex.compile(
        "\\usepackage{graphicx,booktabs}", [text for name, text in copies.items() if "LaTeX" in name], tmp_path
    )

    drawn = {
        name: eval(copies[f"Python for the {name}"], {"experimenter": study_})
        for name in ("figure", "heatmap", "ranks")
    }
    shown = [float(text) for line in cells_of(page) for _, text in line]
    assert [float(text.get_text()) for text in drawn["heatmap"].texts] == pytest.approx(shown, abs=5e-4)
    lines = [line.get_ydata() for line in drawn["figure"].lines]
    assert [value for line in zip(*lines, strict=True) for value in line] == pytest.approx(shown, abs=5e-4)
    assert [text.get_text().strip() for text in drawn["ranks"].texts if "a\\'b" in text.get_text()] == ["a\\'b (1.00)"]
