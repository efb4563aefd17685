# SPDX-License-Identifier: Apache-2.0
"""Call something in the middle of the control plane, as an exception or a handler would."""

from __future__ import annotations

import sys

MODULES = ("memcontrol", "slab_common", "cgroup", "vmscan", "fork", "workqueue")


class Interrupt:
    """Call `act` at the nth ``call`` of a function of the modules, or the nth ``line`` in them."""

    def __init__(self, n, act, event="call", modules=MODULES):
        self.files = {f"{m}.py" for m in modules}
        self.left = n
        self.act = act
        self.event = event

    def __call__(self, frame, event, arg):
        if frame.f_code.co_filename.rsplit("/", 1)[-1] not in self.files:
            return None
        if event == self.event:
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                self.act()
        return self if self.event == "line" else None

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self)
        return self

    def __exit__(self, *exc):
        sys.settrace(self.before)
