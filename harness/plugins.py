"""Names in a config to plug-in classes: "patchcore", "my_pkg.mod:MyMethod" or "path/to/mine.py"."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness import syntax
from harness.errors import InputError, Problem, one_line, suggest
from harness.interface import Dataset, Generator, Method

HOME = Path(__file__).resolve().parent.parent
KINDS: dict[str, tuple[str, type]] = {
    "method": ("methods", Method),
    "dataset": ("datasets", Dataset),
    "generator": ("methods.generators", Generator),
}
#: Libraries whose import takes seconds. Planning only reads declarations: they wait for first use.
HEAVY = ("torch", "torchvision", "timm", "open_clip", "diffusers", "transformers", "peft")
#: Folders of packages that have nothing to do with one another.
INSTALLED = ("site-packages", "dist-packages")


def names(kind: str) -> list[str]:
    """Names of the built-in plug-ins of a kind ("method", "dataset", "generator"), sorted."""
    folder = HOME.joinpath(*KINDS[kind][0].split("."))
    return sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_"))


def find(kind: str, use: str, where: str = "") -> Any:
    """Class of a plug-in.

    Parameters
    ----------
    kind : "method", "dataset" or "generator"
    use : built-in name, "package.module:Class", or a Python file, with ":Class" if it has several
    where : what to blame in the message

    Raises
    ------
    InputError
        Unknown name, with the nearest known one; a module that fails to import; no such class.
    """
    package, base = KINDS[kind]
    path, _, class_name = use.partition(":")
    try:
        if path.endswith(".py"):
            module = _module_from_file(Path(path).resolve())
        elif class_name or "." in path:
            with deferred_imports():
                module = importlib.import_module(path)
        elif path in names(kind):
            with deferred_imports():
                module = importlib.import_module(f"{package}.{path}")
        else:
            raise InputError(Problem(where, f"unknown {kind} {use!r}.{suggest(path, names(kind))}"))
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # its module may raise anything
        message = f"{kind} {use!r} cannot be imported: {type(error).__name__}: {one_line(error)}"
        raise InputError(Problem(where, message)) from error
    own = {
        n: c
        for n, c in vars(module).items()
        if inspect.isclass(c) and issubclass(c, base) and c.__module__ == module.__name__
    }
    if class_name:
        named = vars(module).get(class_name)  # it may come from another module of its package
        if inspect.isclass(named) and issubclass(named, base) and named is not base:
            own[class_name] = named
        if class_name not in own:
            known = suggest(class_name, own)
            message = f"{path!r} has no {base.__name__} class {class_name!r}.{known}"
            raise InputError(Problem(where, message))
        chosen = own[class_name]
    elif len(own) == 1:
        chosen = next(iter(own.values()))
    else:
        message = f"{path!r} must define one {base.__name__} class, or be given as '{path}:Class'; "
        raise InputError(Problem(where, message + f"found {sorted(own) or 'none'}"))
    if inspect.isabstract(chosen):
        missing = ", ".join(sorted(getattr(chosen, "__abstractmethods__", ())))
        raise InputError(Problem(where, f"{kind} {use!r} does not define {missing}"))
    return chosen


@dataclass(frozen=True)
class Source:
    """What a plug-in's code is: hashes of its files, and the top-level packages it imports."""

    files: Mapping[str, str]  # name, from the folder of the package on -> hash of what it says
    imports: frozenset[str]
    contents: str  # hash of the files as they are, comments and all

    @property
    def digest(self) -> str:
        """Hash of all the files."""
        return hashlib.sha256(repr(sorted(self.files.items())).encode()).hexdigest()


@cache
def source(cls: Any) -> Source:
    """The code a plug-in consists of: its module and all it imports beside itself.

    Modules count when they lie in the folder that holds the plug-in's own top-level package (or its
    file), and are not the engine. An edit to a shared helper re-runs what uses it, nothing else;
    one to a comment, a docstring or the layout re-runs nothing.
    Where packages are installed side by side only the plug-in's own counts.
    """
    module = sys.modules[cls.__module__]
    first, root = _place(cls)
    todo, seen, imports = [(module.__name__, first)], {first}, set()
    texts: dict[str, bytes] = {}
    while todo:
        name, path = todo.pop()
        text = texts[path.relative_to(root).as_posix()] = path.read_bytes()
        for imported in _imports(ast.parse(text), name, path):
            top = imported.split(".")[0]
            imports.add(top)
            apart = root.name in INSTALLED and top != module.__name__.split(".")[0]
            file = None if apart else _below(root, imported)
            if file is not None and file not in seen:
                seen.add(file)
                todo.append((imported, file))
    files = {name: syntax.digest_of(text) for name, text in texts.items()}
    return Source(files, frozenset(imports), _contents(texts))


def changed(cls: Any, files: Iterable[str], contents: str, digest: str) -> bool:
    """Whether the code of a plug-in, as it lies here now, says something else than was planned.

    Parameters
    ----------
    cls : class of the plug-in
    files, contents, digest : of its ``Source`` when it was planned; only where files are not the
        same to the byte is what they say looked at
    """
    _, root = _place(cls)
    try:
        texts = {name: (root / name).read_bytes() for name in files}
        return _contents(texts) != contents and source(cls).digest != digest
    except (OSError, SyntaxError, ValueError):
        return True


def _place(cls: Any) -> tuple[Path, Path]:
    """The file of a plug-in, and the folder from which its files are named."""
    name = sys.modules[cls.__module__].__name__
    first = Path(inspect.getsourcefile(cls) or "").resolve()
    depth = name.count(".") + (first.stem == "__init__")
    return first, first.parent if name.startswith("_file_") else first.parents[depth]


def _contents(texts: Mapping[str, bytes]) -> str:
    return hashlib.sha256(repr(sorted(texts.items())).encode()).hexdigest()


@contextmanager
def deferred_imports() -> Iterator[None]:
    """Inside, ``import torch`` binds a stand-in that loads the library on first use.

    Reading the declarations of a dozen methods then takes milliseconds instead of the ten seconds
    that torch and its friends need, and planning works where they are not installed.
    """
    waiting = [name for name in HEAVY if name not in sys.modules]
    for name in waiting:
        sys.modules[name] = _Deferred(name)
    try:
        yield
    finally:
        for name in waiting:
            if isinstance(sys.modules.get(name), _Deferred):
                del sys.modules[name]


class _Deferred(types.ModuleType):
    """Stands for a library until somebody uses it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__path__", "__version__", "__file__"):
            raise AttributeError(name)  # what inspection asks of any module is no use of it
        # These libraries look for one another while they load: none may meet a stand-in then.
        for other in [n for n, m in sys.modules.items() if isinstance(m, _Deferred)]:
            del sys.modules[other]
        attribute = getattr(importlib.import_module(self.__name__), name)
        self.__dict__[name] = attribute  # so that it is asked for here only once
        return attribute


def _module_from_file(path: Path) -> types.ModuleType:
    """Import a lone file under a name made of its path, its folder being importable as well."""
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    name = f"_file_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with deferred_imports():
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _imports(tree: ast.AST, name: str, path: Path) -> Iterator[str]:
    """Dotted names a module may import, wherever in it the statement stands."""
    package = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*above, *(node.module or "").split(".")]).strip(".")
            yield start
            yield from (f"{start}.{alias.name}".strip(".") for alias in node.names)


def _below(root: Path, name: str) -> Path | None:
    """File of a module under ``root``, None where there is none or it belongs to the engine."""
    if not name or name.split(".")[0] == "harness":
        return None
    base = root.joinpath(*name.split("."))
    for path in (base.with_name(base.name + ".py"), base / "__init__.py"):
        if path.is_file():
            return path.resolve()
    return None
