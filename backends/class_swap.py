"""Takes over methods of one object: its class is replaced by a subclass that goes by the same name.

`save_pretrained`, pipelines and error messages see the class that they know. Copies and pickles of the object are of
the base class, so nothing of ours is in them.
"""

from __future__ import annotations

from typing import Any


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
        made: Any = object.__reduce_ex__(self, protocol)
        rebuild, arguments, *state = made
        _, *others = arguments  # the class comes first
        return (rebuild, (base, *others), *state)

    named = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    return type(base.__name__, (base,), {**members, **named, "__reduce_ex__": reduce})
