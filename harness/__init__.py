"""The engine: it knows nothing of any particular method or dataset.

The project runs from its checkout and has a top-level package ``datasets``. Another package of that
name may be installed; importing that one instead would end in confusing errors much later, so it is
looked for here, without importing either.
"""

from importlib.util import find_spec as _find_spec
from pathlib import Path as _Path

_home = _Path(__file__).resolve().parent.parent
_found = _find_spec("datasets")
if _found is None or _found.origin is None or _Path(_found.origin).resolve().parent.parent != _home:
    raise ImportError(
        f"the package 'datasets' found is {_found.origin if _found else None}, not the one beside "
        f"'harness': run from the checkout's folder ({_home}) with 'python -m harness ...'"
    )
