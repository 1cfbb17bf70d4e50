"""Takes over methods of one object: its class is replaced by a subclass that goes by the same name.

`save_pretrained`, pipelines and error messages see the class that they know. Copies and pickles of the object are of
the base class, so nothing of ours is in them.
"""

from __future__ import annotations

import copyreg
from typing import Any

NEW_OBJECT = vars(copyreg)["__newobj__"]
"""What objects without a way of their own are rebuilt with."""


def subclass_of_its_name(base: type, members: dict[str, Any]) -> type:
    """A subclass with these members; its name, module and documentation are its base's.

    >>> class Model: pass
    >>> swapped = subclass_of_its_name(Model, {"generate": lambda self: "controlled"})()
    >>> type(swapped).__name__, swapped.generate()
    ('Model', 'controlled')
    >>> import copy
    >>> type(copy.copy(swapped)) is Model
    True
    """

    def reduce(self: Any, protocol: Any) -> Any:
        foreign: Any = base
        made = foreign.__reduce_ex__(self, protocol)
        rebuild, arguments, *state = made
        first, *others = arguments
        if first is not swapped:
            return made  # the base has its own way, which names no class of ours
        # A pickler checks the class that this function of copyreg is given; __new__ is the same without the check.
        return (base.__new__ if rebuild is NEW_OBJECT else rebuild, (base, *others), *state)

    named = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    swapped = type(base.__name__, (base,), {**members, **named, "__reduce_ex__": reduce})
    return swapped
