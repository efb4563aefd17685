# SPDX-License-Identifier: Apache-2.0
"""Other programs copy, pickle and rebuild exceptions; memcg's survive that."""

from __future__ import annotations

import copy
import pickle

import pytest
from tblib import pickling_support

import memcg
from memcg import errors

CLASSES = [c for c in vars(errors).values() if isinstance(c, type)]


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_is_copied_pickled_and_made_by_new_alone(cls):
    error = cls("what", 5)
    error.add_note("a note")
    for again in copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error)):
        assert (type(again), again.args, again.__notes__) == (cls, ("what", 5), ["a note"])
    for made in cls.__new__(cls), cls.__new__(cls, "what"):
        assert isinstance(made, memcg.MemcgError)
        assert isinstance(made, MemoryError) == (cls is memcg.MemcgOOM)
        made.__init__("text")
        assert str(made) == "text"


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_crosses_processes_with_its_traceback(cls):
    def fails():
        raise cls("what") from KeyError("why")

    with pytest.raises(cls) as caught:
        fails()
    pickling_support.install(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), again.args, again.__cause__.args) == (cls, ("what",), ("why",))
    frame = again.__traceback__
    while frame.tb_next:
        frame = frame.tb_next
    assert frame.tb_frame.f_code.co_name == "fails"


def test_a_class_derived_from_an_error_may_take_what_it_likes():
    class Own(memcg.MemcgOOM):
        def __init__(self, code, *, text):
            super().__init__(text)
            self.code = code

    assert (Own(5, text="x").args, Own.__new__(Own, 5, text="x").args) == (("x",), (5,))
    assert issubclass(Own, MemoryError)
