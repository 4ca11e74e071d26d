"""Searches over HTTP: begun, steered, looked into."""

import ast
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import select, update

from store import notes
from store.states import SearchState
from store.tables import AuditEntry, Search, Trial
from tests.api.world import World

JSON = {"Content-Type": "application/json"}
NEW = {"dataset": "pets", "budget": {"minutes": 10}}


def test_a_search_begins_with_defaults_and_says_where_to_look(client: TestClient, world: World) -> None:
    dataset = world.dataset()
    answer = client.post("/v1/searches", json=NEW)
    assert answer.status_code == 202
    search = answer.json()
    assert answer.headers["location"] == "/v1/searches/pets-1" == search["links"]["self"]
    assert search["dataset"] == {"id": dataset.id, "name": "pets", "version": 1}
    assert search["budget"] == {"minutes": 10.0, "trials": None}
    assert (search["state"], search["objective"], search["strategy"], search["space"], search["seed"]) == (
        "queued", "accuracy", "race", "stages", 0,
    )  # fmt: skip
    assert search["strategy_options"] == {
        "initial": 10, "novelty": 0.2, "elite": 3, "pool": 200, "rungs": 0, "eta": 3,
    }  # fmt: skip
    assert (search["best"], search["floor"], search["model"], search["spent_s"]) == (None, None, None, 0)
    assert search["trials"] == {"queued": 0, "running": 0, "succeeded": 0, "failed": 0, "pruned": 0}
    assert client.get(f"/v1/searches/{search['id']}").json() == search
    assert client.post("/v1/searches", json=NEW).json()["name"] == "pets-2"


def test_every_choice_arrives_in_the_row(client: TestClient, world: World) -> None:
    world.dataset()
    wish = {
        "dataset": "pets", "version": 1, "name": "wide", "budget": {"trials": 7}, "objective": "macro_f1",
        "space": "cell", "space_options": {"blocks": 3}, "strategy": "evolution",
        "strategy_options": {"population": 4, "sample": 2}, "seed": 11,
        "limits": {"max_params": 200_000, "max_latency_ms": 2.5, "max_flops": None},
        "proxy": {"fraction": 0.25},
    }  # fmt: skip
    answer = client.post("/v1/searches", json=wish)
    assert answer.status_code == 202
    assert answer.json()["limits"] == {
        "max_params": 200_000, "max_flops": None, "max_size_mb": None, "max_latency_ms": 2.5,
    }  # fmt: skip
    row: Search = world.run(lambda session: session.scalars(select(Search)).one())
    assert (row.name, row.budget_s, row.budget_trials, row.objective, row.seed) == ("wide", None, 7, "macro_f1", 11)
    assert (row.space_options["blocks"], row.space_options["cells"]) == (3, 1)
    assert row.strategy_options == {"population": 4, "sample": 2, "inherit": False, "rungs": 1, "eta": 3}
    assert row.limits == {"max_params": 200_000, "max_latency_ms": 2.5}
    assert row.proxy == answer.json()["proxy"] == {"fraction": 0.25, "side": None}


def test_a_finished_search_shows_its_winner_the_floor_and_every_trial(client: TestClient, world: World) -> None:
    world.dataset()
    model = world.finished()
    search = client.get("/v1/searches/hunt").json()
    assert (search["state"], search["trials"]["succeeded"], search["trials"]["failed"]) == ("succeeded", 2, 1)
    assert (search["best"]["score"], search["floor"]["score"]) == (0.9, 0.8)
    assert search["best"]["description"] == "a network of 800 weights"
    assert search["best"]["model"]["id"] == model.id == search["model"]["id"]
    assert client.get(search["model"]["link"]).json()["version"] == 2
    trials = client.get(search["links"]["trials"]).json()["items"]
    assert [(trial["number"], trial["purpose"], trial["state"]) for trial in trials] == [
        (1, "floor", "succeeded"), (2, "explore", "failed"), (3, "final", "succeeded"),
    ]  # fmt: skip
    assert trials[1]["error"] == {"kind": "diverged", "message": "NaN"}
    assert trials[2]["cost"] == {"params": 800, "flops": 1600, "size_bytes": 4200, "latency_ms": 1.25}
    assert [item["number"] for item in client.get("/v1/searches/hunt/trials?state=failed").json()["items"]] == [2]
    assert [item["number"] for item in client.get("/v1/searches/hunt/trials?purpose=floor").json()["items"]] == [1]
    assert client.get(trials[0]["links"]["self"]).json() == trials[0]
    assert client.get(f"/v1/searches/hunt/trials/{trials[0]['id']}").json() == trials[0]
    assert client.get(trials[0]["links"]["curve"]).json()["points"] == [{"fraction": 1.0, "score": 0.8}]
    architecture = client.get(trials[0]["links"]["architecture"]).json()
    assert architecture["genotype"] == {"space": "stages", "document": {}}
    for nowhere in ("0", "4", "tr_0197c1d2e3f47a5b8c6d7e8f90a1b2c3", "x"):
        assert client.get(f"/v1/searches/hunt/trials/{nowhere}").status_code == 404


def test_the_front_holds_what_no_other_trial_beats(client: TestClient, world: World) -> None:
    world.dataset()
    world.search()
    world.move("hunt", SearchState.RUNNING)
    for score, params in [(0.8, 500), (0.7, 100), (0.75, 600), (0.9, 800), (0.8, 700), (None, 1)]:
        world.trial("hunt", score, params)
    front = client.get("/v1/searches/hunt/front").json()
    assert [(point["cost"], point["score"]) for point in front["items"]] == [(100, 0.7), (500, 0.8), (800, 0.9)]
    assert client.get("/v1/searches/hunt/front?cost=flops").json()["items"][0]["cost"] == 200
    assert len(client.get("/v1/searches/hunt/front?cost=seconds").json()["items"]) == 1
    assert client.get("/v1/searches/hunt/front?cost=beauty").status_code == 422
    sizes = client.get("/v1/searches/hunt/front?cost=size_bytes").json()
    assert [(point["cost"], point["number"]) for point in sizes["items"]] == [(1400, 2), (3000, 1), (4200, 4)]
    quickest = client.get("/v1/searches/hunt/front?cost=latency_ms").json()
    assert (quickest["cost"], [point["number"] for point in quickest["items"]]) == ("latency_ms", [4])


def test_the_source_of_a_trial_is_python_that_stands_alone(client: TestClient, world: World) -> None:
    world.dataset()
    world.finished()
    answer = client.get(client.get("/v1/searches/hunt/trials/1").json()["links"]["source"])
    assert answer.headers["content-type"] == "text/x-python; charset=utf-8"
    assert 'filename="hunt-trial-1.py"' in answer.headers["content-disposition"]
    ast.parse(answer.text)
    assert answer.text.startswith('"""A small network."""\n')
    for line in (
        '    "cat",',
        "PACKED_SIDE = 8 ",
        "CHANNELS = 3 ",
        "MIRROR = True ",
        "class Network(torch.nn.Module):",
    ):
        assert f"\n{line}" in answer.text
    assert (
        "\nMIRROR = False " in client.get("/v1/searches/hunt/trials/2/source").text
    )  # it failed, and was none the less
    world.run(lambda session: session.execute(update(Trial).values(network_source=None)))
    nothing = client.get("/v1/searches/hunt/trials/2/source")
    assert nothing.status_code == 404
    assert nothing.json()["detail"] == "trial 2 of search 'hunt' has no source: NaN"
    assert client.get("/v1/searches/hunt/trials/9/source").status_code == 404


def test_shared_weights_report_what_they_say_and_are_on_no_front(client: TestClient, world: World) -> None:
    world.dataset()
    world.search()
    world.move("hunt", SearchState.RUNNING)
    report = {
        "of": "nb201", "form": "repaired", "scored": 3, "sampled": [[0.1, 0.2], []], "seconds": 60.5,
        "shortlist": [{"genotype": {"space": "nb201"}, "shared_score": 0.5}],
        "steps": [{"step": 1, "score": 0.4, "entropy": {"op": 1.6}, "preferences": {"op": {"none": 0.2}}}],
    }  # fmt: skip
    world.trial("hunt", 0.5, 100, "floor")
    world.trial("hunt", 0.9, 10, "supernet", report=report)
    (trial,) = client.get("/v1/searches/hunt/trials?purpose=supernet").json()["items"]
    world.run(
        lambda session: session.execute(
            update(Trial)
            .where(Trial.id == trial["id"])
            .values(network_source=None, error={"kind": "diverged", "message": "NaN"})
        )
    )
    reason = client.get(f"/v1/searches/hunt/trials/{trial['number']}/source").json()["detail"]
    assert reason.endswith("has no source: it trained weights that a whole space shares, not one architecture")
    assert "report" not in trial
    assert client.get(trial["links"]["report"]).json() == {"trial": trial["id"], "state": "succeeded", "report": report}
    floor = client.get("/v1/searches/hunt/trials/1").json()
    assert "report" not in floor["links"]
    assert client.get("/v1/searches/hunt/trials/1/report").json()["report"] is None
    assert client.get("/v1/searches/hunt/trials/9/report").status_code == 404
    assert [item["purpose"] for item in client.get("/v1/searches/hunt/front").json()["items"]] == ["floor"]


def test_notes_are_listed_in_order_by_kind_and_by_page(client: TestClient, world: World) -> None:
    world.dataset()
    search = world.search()
    for step, kind in enumerate(["surrogate", "rungs", "surrogate"]):
        world.run(lambda session, step=step, kind=kind: notes.put(session, search.id, kind, step, {"best": step / 2}))
    whole = client.get(client.get("/v1/searches/hunt").json()["links"]["notes"]).json()
    assert [(note["number"], note["kind"], note["step"], note["data"]) for note in whole["items"]] == [
        (1, "surrogate", 0, {"best": 0.0}), (2, "rungs", 1, {"best": 0.5}), (3, "surrogate", 2, {"best": 1.0}),
    ]  # fmt: skip
    first = client.get("/v1/searches/hunt/notes?kind=surrogate&page_size=1").json()
    after = {"kind": "surrogate", "page_token": first["next_page_token"]}
    rest = client.get("/v1/searches/hunt/notes", params=after).json()
    assert [note["step"] for note in first["items"] + rest["items"]] == [0, 2]
    assert rest["next_page_token"] is None
    assert client.get("/v1/searches/hunt/notes?kind=controller").json()["items"] == []
    for wrong in ("kind=%00", "kind=A%20b", "page_size=0", "page_token=odd"):
        assert client.get(f"/v1/searches/hunt/notes?{wrong}").status_code == 422
    assert client.get("/v1/searches/none/notes").status_code == 404


def test_a_search_is_paused_resumed_extended_cancelled_and_deleted(client: TestClient, world: World) -> None:
    world.dataset()
    world.search()
    world.move("hunt", SearchState.RUNNING)
    assert client.post("/v1/searches/hunt/resume").status_code == 409
    assert client.post("/v1/searches/hunt/pause").json()["state"] == "paused"
    assert client.post("/v1/searches/hunt/pause").status_code == 409
    assert client.post("/v1/searches/hunt/resume").json()["state"] == "running"
    assert client.post("/v1/searches/hunt/extend", json={"minutes": 5}).json()["budget"]["minutes"] == 15
    other = client.post("/v1/searches/hunt/extend", json={"trials": 5})
    assert other.status_code == 422
    assert "in minutes" in other.json()["detail"]
    assert client.delete("/v1/searches/hunt").status_code == 409
    cancelled = client.post("/v1/searches/hunt/cancel")
    assert (cancelled.status_code, cancelled.json()["cancel_requested"]) == (202, True)
    assert client.post("/v1/searches/hunt/extend", json={"minutes": 5}).status_code == 409
    world.move("hunt", SearchState.CANCELLED)
    assert client.post("/v1/searches/hunt/cancel").status_code == 409
    assert client.delete("/v1/searches/hunt").status_code == 204
    assert client.get("/v1/searches/hunt").status_code == 404
    actions = world.run(lambda session: session.scalars(select(AuditEntry.action).order_by(AuditEntry.number)).all())
    assert actions == [f"search.{name}" for name in ("pause", "resume", "extend", "cancel", "delete")]


WRONG_BUDGETS: list[tuple[Any, str, str]] = [
    ({"minutes": 0}, "budget.minutes", "0.5"),
    ({"minutes": -1}, "budget.minutes", "0.5"),
    ({"minutes": 1e9}, "budget.minutes", "43200"),
    ({"minutes": float("nan")}, "budget.minutes", "finite"),
    ({"minutes": float("inf")}, "budget.minutes", "finite"),
    ({"minutes": "10"}, "budget.minutes", "number"),
    ({"minutes": True}, "budget.minutes", "number"),
    ({"minutes": None}, "budget", "exactly one of minutes"),
    ({"trials": 0}, "budget.trials", "1"),
    ({"trials": -1}, "budget.trials", "1"),
    ({"trials": 10**9}, "budget.trials", "100000"),
    ({"trials": 10**40}, "budget.trials", "100000"),
    ({"trials": 2.5}, "budget.trials", "integer"),
    ({"minutes": 1, "trials": 1}, "budget", "not both"),
    ({}, "budget", "not neither"),
    ({"hours": 1}, "budget.hours", "accepted: minutes, trials"),
    (10, "budget", "dictionary"),
    (None, "budget", "dictionary"),
]


def test_a_budget_that_is_none_is_refused_with_what_is_accepted(client: TestClient, world: World) -> None:
    assert_refused(client, world, "budget", WRONG_BUDGETS)


WRONG_LIMITS: list[tuple[Any, str, str]] = [
    ({"max_params": 0}, "limits.max_params", "greater than or equal to 100"),
    ({"max_params": -5}, "limits.max_params", "greater than or equal to 100"),
    ({"max_params": 10**40}, "limits.max_params", "less than or equal to 1000000000"),
    ({"max_params": 1000.5}, "limits.max_params", "integer"),
    ({"max_params": "many"}, "limits.max_params", "integer"),
    ({"max_params": "1000"}, "limits.max_params", "integer"),
    ({"max_params": True}, "limits.max_params", "integer"),
    ({"max_flops": 0}, "limits.max_flops", "greater than or equal to 1000"),
    ({"max_size_mb": 0}, "limits.max_size_mb", "greater than or equal to 0.001"),
    ({"max_size_mb": float("nan")}, "limits.max_size_mb", "finite"),
    ({"max_latency_ms": -1}, "limits.max_latency_ms", "greater than or equal to 0.01"),
    ({"max_latency_ms": float("inf")}, "limits.max_latency_ms", "finite"),
    ({"max_latency_ms": [5]}, "limits.max_latency_ms", "number"),
    ({"max_memory": 5}, "limits.max_memory", "accepted: max_params, max_flops, max_size_mb, max_latency_ms"),
    ({"foretold": {"max_params": 5}}, "limits.foretold", "accepted: max_params"),
    (5, "limits", "dictionary"),
    (None, "limits", "dictionary"),
]


def test_limits_that_are_none_are_refused_with_what_is_accepted(client: TestClient, world: World) -> None:
    assert_refused(client, world, "limits", WRONG_LIMITS)


WRONG_PROXIES: list[tuple[Any, str, str]] = [
    ({"fraction": 0}, "proxy.fraction", "greater than or equal to 0.01"),
    ({"fraction": 1.01}, "proxy.fraction", "less than or equal to 1"),
    ({"fraction": float("nan")}, "proxy.fraction", "finite"),
    ({"fraction": None}, "proxy.fraction", "number"),
    ({"side": 4}, "proxy.side", "greater than or equal to 8"),
    ({"side": 16.5}, "proxy.side", "integer"),
    ({"epochs": 3}, "proxy.epochs", "accepted: fraction, side"),
]


def test_a_proxy_that_is_none_is_refused_with_what_is_accepted(client: TestClient, world: World) -> None:
    assert_refused(client, world, "proxy", WRONG_PROXIES)


def assert_refused(client: TestClient, world: World, part: str, wrong: list[tuple[Any, str, str]]) -> None:
    """Each value of that part of a search is refused, where it is wrong and with what is said; no search begins."""
    world.dataset()
    for value, field, said in wrong:
        answer = client.post("/v1/searches", content=_json(NEW | {part: value}), headers=JSON)
        assert answer.status_code == 422, value
        faults = {fault["field"]: fault["message"] for fault in answer.json()["errors"]}
        assert said in faults[field], value
    assert client.get("/v1/searches").json()["items"] == []


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()  # with NaN and Infinity as they are: clients send such


WRONG_CHOICES: list[tuple[dict[str, Any], str, str]] = [
    ({"strategy": "magic"}, "strategy", "race, random, local, evolution"),
    ({"space": "outer"}, "space", "stages, cell"),
    ({"strategy": "pnas"}, "strategy", "'pnas' cannot search 'stages'; these can: race, random, local"),
    (
        {"space": "cell", "strategy": "pnas", "strategy_options": {"batch": 2}},
        "strategy_options.batch",
        "it takes beam",
    ),
    ({"objective": "beauty"}, "objective", "accuracy, balanced_accuracy, macro_f1, log_loss"),
    ({"strategy_options": {"population": 3}}, "strategy_options.population", "novelty, elite"),
    ({"strategy_options": {"elite": 0}}, "strategy_options.elite", "between 1 and 100"),
    ({"strategy_options": {"elite": [1]}}, "strategy_options.elite", "whole number"),
    ({"space_options": {"blocks": 3}}, "space_options.blocks", "it takes none"),
    ({"space": "cell", "space_options": {"ops": {"a": 1}}}, "space_options.ops", "fast, enas, pnas, nasnet"),
    ({"seed": -1}, "seed", "greater than or equal to 0"),
    ({"seed": 10**30}, "seed", "2147483647"),
    ({"version": 0}, "version", "greater than or equal to 1"),
    ({"name": "a b"}, "name", "letters, digits"),
    ({"name": "a\0b"}, "name", "letters, digits"),
    ({"name": "name\n"}, "name", "letters, digits"),
    ({"name": "Ünïcode"}, "name", "letters, digits"),
    ({"name": "se_0197c1d2e3f47a5b8c6d7e8f90a1b2c3"}, "name", "form of an id"),
    ({"colour": "red"}, "colour", "accepted: dataset, version, name, budget"),
    ({"dataset": 7}, "dataset", "string"),
]


def test_a_wrong_choice_is_refused_with_field_and_what_is_accepted(client: TestClient, world: World) -> None:
    world.dataset()
    for wrong, field, said in WRONG_CHOICES:
        answer = client.post("/v1/searches", json=NEW | wrong)
        assert answer.status_code == 422, wrong
        faults = {fault["field"]: fault["message"] for fault in answer.json()["errors"]}
        assert said in faults[field], wrong
    assert client.get("/v1/searches").json()["items"] == []


def test_a_search_on_nothing_is_refused(client: TestClient, world: World) -> None:
    assert client.post("/v1/searches", json=NEW).status_code == 404
    client.post("/v1/datasets", json={"name": "pets"})
    empty = client.post("/v1/searches", json=NEW)
    assert empty.status_code == 409
    assert "has no examples yet" in empty.json()["detail"]
    world.dataset("cats")
    assert client.post("/v1/searches", json=NEW | {"dataset": "cats", "version": 2}).status_code == 404
    for odd in ("\0", "\ud800", "a/b", "", "x" * 64):
        assert client.post("/v1/searches", content=_json(NEW | {"dataset": odd}),
                           headers={"Content-Type": "application/json"}).status_code in (404, 422)  # fmt: skip


def test_one_of_many_searches_of_one_name_begins(client: TestClient, world: World) -> None:
    world.dataset()
    with ThreadPoolExecutor(6) as pool:
        named = list(pool.map(lambda _: client.post("/v1/searches", json=NEW | {"name": "only"}), range(6)))
        unnamed = list(pool.map(lambda _: client.post("/v1/searches", json=NEW), range(6)))
    assert sorted(answer.status_code for answer in named) == [202] + [409] * 5
    assert {answer.json()["name"] for answer in unnamed} == {f"pets-{number}" for number in range(1, 7)}


def test_a_cancelled_search_ends_the_wait(client: TestClient, world: World) -> None:
    world.dataset()
    world.search()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.get, "/v1/searches/hunt?wait=20")
        client.post("/v1/searches/hunt/cancel")
        world.move("hunt", SearchState.CANCELLED)
        assert waiting.result(10).json()["state"] == "cancelled"
    for wait in ("-1", "61", "nan", "x", "1e999"):
        assert client.get(f"/v1/searches/hunt?wait={wait}").status_code == 422


def test_searches_are_listed_by_state_and_data_set(client: TestClient, world: World) -> None:
    world.dataset()
    world.dataset("cars")
    world.search("a")
    world.search("b", "cars")
    world.move("b", SearchState.RUNNING)

    def names(query: str) -> list[str]:
        return [item["name"] for item in client.get(f"/v1/searches{query}").json()["items"]]

    assert names("") == ["b", "a"]
    assert names("?state=running") == ["b"] == names("?dataset=cars")
    assert client.get("/v1/searches?dataset=none").status_code == 404
    assert client.get("/v1/searches?state=odd").status_code == 422


GENOTYPE = {"version": 1, "space": "stages", "genes": {"stages": []}}

WRONG_SEEDS: list[tuple[dict[str, Any], str, str]] = [
    ({"seeds": [GENOTYPE, GENOTYPE | {"space": "cell"}]}, "seeds[1].space", "not the search's, 'stages'"),
    ({"seeds": [GENOTYPE | {"version": 2}]}, "seeds[0].version", "1"),
    ({"seeds": [GENOTYPE | {"genes": []}]}, "seeds[0].genes", "dictionary"),
    ({"seeds": [GENOTYPE | {"weights": 1}]}, "seeds[0].weights", "accepted: version, space, genes"),
    ({"seeds": [{}]}, "seeds[0].version", "required"),
    ({"seeds": GENOTYPE}, "seeds", "list"),
    ({"seeds": [GENOTYPE] * 1001}, "seeds", "1000"),
    ({"strategy": "fixed"}, "seeds", "at least one in seeds or from_trial"),
    ({"strategy": "fixed", "seeds": [GENOTYPE] * 3, "budget": {"trials": 4}}, "budget.trials", "a final: 5"),
    ({"from_trial": "7"}, "from_trial", "^tr_"),
    ({"from_trial": "tr_0197c1d2e3f47a5b8c6d7e8f90a1b2c3"}, "from_trial", "as /v1/searches/{search}/trials lists"),
]


def test_wrong_seeds_are_refused_with_their_place_and_what_is_accepted(client: TestClient, world: World) -> None:
    world.dataset()
    for wrong, field, said in WRONG_SEEDS:
        answer = client.post("/v1/searches", json=NEW | wrong)
        assert answer.status_code == 422, wrong
        faults = {fault["field"]: fault["message"] for fault in answer.json()["errors"]}
        assert said in faults.get(field, ""), (field, faults)
    for number in (b"NaN", b'"\\u0000"'):
        body = _json(NEW | {"seeds": [GENOTYPE | {"genes": {"a": "odd"}}]}).replace(b'"odd"', number)
        assert client.post("/v1/searches", content=body, headers=JSON).status_code == 422
    assert client.get("/v1/searches").json()["items"] == []


def test_seeds_and_a_trial_to_begin_with_arrive_in_the_row(client: TestClient, world: World) -> None:
    world.dataset()
    world.search()
    world.move("hunt", SearchState.RUNNING)
    source = world.trial("hunt", 0.8)
    wish = NEW | {"strategy": "fixed", "seeds": [GENOTYPE], "from_trial": source.id}
    begun = client.post("/v1/searches", json=wish).json()
    assert (begun["seeds"], begun["from_trial"]) == (2, source.id)
    row: Search = world.run(lambda session: session.get_one(Search, begun["id"]))
    assert row.seeds == [
        {"genotype": GENOTYPE, "trial": None, "refit": False},
        {"genotype": source.candidate["genotype"], "trial": source.id, "refit": False},
    ]
    other = client.post("/v1/searches", json=NEW | {"space": "cell", "from_trial": source.id})
    assert other.status_code == 422
    assert "is of space 'stages' and this search of 'cell'" in other.json()["detail"]
