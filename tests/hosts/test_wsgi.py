# SPDX-License-Identifier: Apache-2.0
"""Flask and Django under gunicorn, Django under uvicorn too: each tenant fails alone."""

from __future__ import annotations

import contextlib
import http.client
import threading
import urllib.error
import urllib.request

import pytest
from serving import serving

MIB = 1 << 20
GUNICORN = ("gunicorn", "-b", "fd://{fd}", "-c", "gunicorn_conf.py")
KINDS = {
    "sync": ("-k", "sync"),
    "sync-preload": ("-k", "sync", "--preload"),
    "gthread": ("-k", "gthread", "--threads", "4"),
    "gthread-preload": ("-k", "gthread", "--threads", "4", "--preload"),
}
SERVERS = {
    f"{app}-{kind}": (*GUNICORN, *options, "-w", "1", module)
    for app, module in (("flask", "flask_app:app"), ("django", "django_app:wsgi"))
    for kind, options in KINDS.items()
}
SERVERS["django-asgi"] = ("uvicorn", "django_app:asgi", "--fd", "{fd}", "--no-access-log")
OVER = b"is over memory.max (current "


@pytest.fixture(scope="module", params=SERVERS)
def server(request, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("wsgi") / "log", *SERVERS[request.param]) as server:
        yield server


def account(server, tenant):
    return server.ask("/account").json[tenant]


def test_a_request_runs_in_its_tenants_group_and_without_a_tenant_in_none(server):
    assert server.ask("/ok", "a").json["group"] == "tenants/a"
    assert server.ask("/ok").json["group"] == ""
    assert server.ask("/ok", "../x y").json["group"] == "tenants/%2E.%2Fx%20y"


@pytest.mark.parametrize("bomb", ["bomb", "bomb_np", "bomb_big"])
def test_a_bomb_is_answered_507_and_what_it_took_is_given_back(server, bomb):
    answer = server.ask(f"/{bomb}", "bad")
    assert (answer.status, answer.headers["x-memcg-group"]) == (507, "tenants/bad"), answer
    assert OVER in answer.body
    assert account(server, "bad") < MIB  # nothing was reclaimed
    assert server.ask("/ok", "bad").status == 200


def test_a_memory_error_of_the_program_stays_the_frameworks_500(server):
    assert server.ask("/own", "bad").status == 500
    assert server.ask("/own").status == 500


def test_a_bomb_without_a_tenant_meets_no_limit_of_a_tenant(server):
    assert server.ask("/ok").json["group"] == ""
    answer = server.ask("/body", method="POST", body=bytes(40 * MIB))
    assert answer.json == {"bytes": 40 * MIB}


def test_a_body_that_could_never_fit_is_answered_413_and_urllib_can_read_it(server):
    for _ in range(3):
        request = urllib.request.Request(
            f"http://127.0.0.1:{server.port}/body",
            data=bytes(100 * MIB),
            headers={"x-tenant": "bad"},
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=60)
        assert refused.value.code == 413
        assert b"larger than the memory" in refused.value.read()
    assert account(server, "bad") < MIB


def test_a_body_that_fits_is_read(server):
    answer = server.ask("/body", "bad", method="POST", body=bytes(10 * MIB))
    assert answer.json == {"bytes": 10 * MIB}
    assert server.ask("/ok", "bad").status == 200


def test_a_stream_runs_in_the_group_and_is_cut_at_the_limit(server):
    asgi = b"uvicorn" in b" ".join(map(str.encode, server.process.args))
    path = "/stream_group_async" if asgi else "/stream_group"
    assert server.ask(path, "a").body == b"tenants/a\n"
    assert server.ask(path).body == b"\n"
    if asgi:
        return  # Django collects a sync stream whole there, so nothing of it could be sent
    assert len(server.ask("/stream_out?n=100", "bad").body) == 100 * MIB
    with pytest.raises(http.client.IncompleteRead):
        server.ask("/stream_bomb?first=0", "bad")
    assert server.ask("/ok", "bad").status == 200
    assert account(server, "bad") < MIB


@pytest.fixture(scope="module", params=["sync", "gthread-preload"])
def flask(request, tmp_path_factory):
    command = (*GUNICORN, *KINDS[request.param], "-w", "2", "flask_app:app")
    with serving(tmp_path_factory.mktemp("wsgi") / "log", *command) as server:
        yield server


def test_a_body_is_read_by_lines_and_as_json(flask):
    answer = flask.ask("/lines", "a", method="POST", body=b"line\n" * 200_000 + b"x" * 100_000)
    assert answer.json == {"lines": 200_001}
    json = {"content-type": "application/json"}
    rows = b"[" + b"1," * (10 * MIB) + b"1]"
    for _ in range(4):  # the workers share them
        answer = flask.ask("/json", "bad", method="POST", body=rows, headers=json)
        assert answer.status == 507, answer
        assert max(flask.ask("/account").json.values(), default=0) < MIB


def test_a_body_without_a_length_that_meets_the_limit_is_answered_507(flask):
    with contextlib.closing(flask.connect()) as connection:
        connection.request("POST", "/body", body=(bytes(MIB) for _ in range(100)),
                           headers={"x-tenant": "bad"}, encode_chunked=True)  # fmt: skip
        response = connection.getresponse()
        assert response.status == 507
        assert OVER in response.read()


def test_a_limit_before_the_first_piece_of_a_stream_is_answered_507(flask):
    assert flask.ask("/stream_bomb?first=1000", "bad").status == 507


def test_the_log_says_that_limits_are_those_of_a_worker(flask):
    text = "each of the 2 workers has groups of its own, so a tenant may use its limit 2 times"
    assert text in flask.text()


def test_innocents_get_200_only_beside_bombs_and_no_worker_dies(flask):
    statuses, end = {}, threading.Event()

    def bomber(bomb):
        found = statuses[bomb] = []
        while not end.is_set():
            found.append(flask.ask(f"/{bomb}", f"bad-{bomb}").status)

    bombs = ("bomb", "bomb_np", "bomb_big")
    threads = [threading.Thread(target=bomber, args=(bomb,)) for bomb in bombs]
    for thread in threads:
        thread.start()
    try:
        answers = [flask.ask("/ok", f"tenant-{n % 20}") for n in range(200)]
    finally:
        end.set()
        for thread in threads:
            thread.join()
    assert {answer.status for answer in answers} == {200}
    assert flask.text().count("Booting worker with pid") == 2
    assert {bomb: set(found) for bomb, found in statuses.items()} == {b: {507} for b in bombs}
    for _ in range(20):
        assert max(flask.ask("/account").json.values()) < MIB
