"""JSON of a checkpoint, read so that it says one thing: no key twice, UTF-8, of a size and depth that such files have.

Infinity and NaN are read as Python reads them: configurations of state-space models hold ``"time_step_limit": [0.0,
Infinity]``. Pure.
"""

from __future__ import annotations

import json
from typing import Any

from bnbenv.decode import shown

MOST_BRACKETS = 4_000_000  # a model of a million tensors has three for each; more is made to fill the memory


class NotJson(ValueError):
    """What is wrong, as a phrase; ``where`` is the key or the line."""

    def __init__(self, what: str, where: str = "") -> None:
        super().__init__(what)
        self.where = where


def load(data: bytes | str) -> Any:
    """The value of a document. Raises NotJson."""
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogatepass")
    if data.startswith(b"\xef\xbb\xbf"):
        raise NotJson("it begins with a byte order mark, which transformers refuses: save it as UTF-8 without one")
    if data.count(b"[") + data.count(b"{") > MOST_BRACKETS:
        raise NotJson("it has more brackets than any model needs")
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        said = error.msg[:1].lower() + error.msg[1:]
        raise NotJson(f"this is not JSON: {said}", f"line {error.lineno}, column {error.colno}") from None
    except UnicodeDecodeError as error:
        raise NotJson("this is not UTF-8", f"byte {error.start}") from None
    except RecursionError:
        raise NotJson("it is nested too deeply") from None
    except NotJson:
        raise
    except ValueError:  # a number of thousands of digits
        raise NotJson("a number in it has too many digits") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise NotJson("this key stands there twice", shown(key))
            seen.add(key)
    return found
