# SPDX-License-Identifier: Apache-2.0
"""A Django project in one file, with tenants and with views that take too much memory."""

import os

import memcg

memcg.install()

import numpy as np  # noqa: E402
from django.conf import settings  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse  # noqa: E402
from django.urls import path  # noqa: E402

MIB = 1 << 20
settings.configure(
    ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x", DATA_UPLOAD_MAX_MEMORY_SIZE=None,
    MIDDLEWARE=["memcg.django.MemcgMiddleware"],
    MEMCG={"group": "x-tenant", "max": "32MiB", "expose": True},
)  # fmt: skip


def dicts():
    rows = []
    while True:
        rows.append({"n": [len(rows)] * 10})


def ok(request):
    return JsonResponse({"group": memcg.current().path, "pid": os.getpid()})


async def ok_async(request):
    return JsonResponse({"group": memcg.current().path, "pid": os.getpid()})


def account(request):
    children = memcg.group("tenants").children
    return JsonResponse({name: group.current for name, group in children.copy().items()})


def bomb(request):
    dicts()


async def bomb_async(request):
    dicts()


def bomb_np(request):
    return HttpResponse(str(np.ones(1 << 27).sum()))


def bomb_big(request):
    return HttpResponse(str(len(bytearray(1 << 30))))


def own(request):
    raise MemoryError("of the program")


def body(request):
    return JsonResponse({"bytes": len(request.body)})


def stream_out(request):
    def pieces():
        for _ in range(int(request.GET["n"])):
            yield bytes(MIB)

    return StreamingHttpResponse(pieces())


def stream_group(request):
    def pieces():
        yield memcg.current().path + "\n"

    return StreamingHttpResponse(pieces())


async def stream_group_async(request):
    async def pieces():
        yield memcg.current().path + "\n"

    return StreamingHttpResponse(pieces())


def stream_bomb(request):
    def pieces():
        kept = []
        while True:
            kept.append(bytes(MIB))
            yield kept[-1]

    return StreamingHttpResponse(pieces())


VIEWS = (
    ok, ok_async, account, bomb, bomb_async, bomb_np, bomb_big, own, body, stream_out, stream_group,
    stream_group_async, stream_bomb,
)  # fmt: skip
urlpatterns = [path(view.__name__, view) for view in VIEWS]
wsgi = get_wsgi_application()
asgi = get_asgi_application()
