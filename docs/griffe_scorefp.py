"""How griffe, which reads the source for the API pages, is to see the habits of this package."""

import ast
import re
from typing import Any

import griffe

_FIELD = {"equinox.field", "dataclasses.field"}
_NOT_A_FIELD = {"equinox.AbstractVar", "equinox.AbstractClassVar"}


class Scorefp(griffe.Extension):
    """Reads shapes as text, equinox modules as dataclasses, and public names before file names."""

    def on_module_node(
        self, *, node: ast.AST | griffe.ObjectNode, **kwargs: Any
    ) -> None:
        """Called before a file is read."""
        if isinstance(node, ast.AST):
            _Shapes().visit(node)

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for each object. The section `Example:` is the one griffe knows as `Examples:`."""
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^Example:$", "Examples:", obj.docstring.value, flags=re.M
            )

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Called when all of a package is read, before names are resolved across files."""
        modules = list(_modules(pkg))
        for module in modules:
            for name in list(module.imports):
                _prefer_object(module, name, modules)
        for module in modules:
            for member in list(module.members.values()):
                if isinstance(member, griffe.Class) and _is_equinox(member):
                    _set_init(member)
                    member.bases = [
                        base for base in member.bases if not str(base).startswith("_")
                    ]


class _Text:
    """A string that griffe prints and does not read as an annotation."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f'"{self.text}"'


class _Shapes(ast.NodeTransformer):
    """Keeps the string of `Float[Array, "n *event"]` as it is written; griffe would read names in it."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.Subscript:
        self.generic_visit(node)
        match node.slice:
            case ast.Tuple(elts=[_, ast.Constant(value=str(shape)) as constant]):
                constant.value = _Text(shape)
            case _:
                pass
        return node


def _modules(module: griffe.Module) -> Any:
    yield module
    for member in module.members.values():
        if isinstance(member, griffe.Module):
            yield from _modules(member)


def _prefer_object(
    package: griffe.Module, name: str, modules: list[griffe.Module]
) -> None:
    """After `from .curl import curl as curl` a package's `curl` is the function, as it is for Python.

    griffe keeps the file `curl.py` there. The file is renamed to `_curl` in what griffe holds, with every path
    into it.
    """
    file = package.members.get(name)
    old = f"{package.path}.{name}"
    if not isinstance(file, griffe.Module) or package.imports[name] != f"{old}.{name}":
        return
    new = f"{package.path}._{name}"
    file.name = f"_{name}"
    package.members[file.name] = file

    def moved(path: str) -> str:
        return new + path.removeprefix(old) if path.startswith(f"{old}.") else path

    for module in modules:
        module.imports = {key: moved(path) for key, path in module.imports.items()}
        for member in module.members.values():
            if isinstance(member, griffe.Alias):
                member.target_path = moved(member.target_path)
    line = next(
        (n for n, text in enumerate(package.lines, 1) if f"{name} as {name}" in text), 0
    )
    alias = griffe.Alias(name, f"{new}.{name}", parent=package, lineno=line)
    alias.public = True
    package.members[name] = alias


def _is_equinox(cls: griffe.Class) -> bool:
    return any(
        isinstance(base, griffe.Expr) and base.canonical_path == "equinox.Module"
        for ancestor in (cls, *cls.mro())
        for base in ancestor.bases
    )


def _set_init(cls: griffe.Class) -> None:
    parameters: dict[str, griffe.Parameter] = {}
    for ancestor in (*reversed(cls.mro()), cls):
        if "__init__" in ancestor.members and ancestor.members["__init__"].lineno:
            return  # written by hand
        for member in ancestor.members.values():
            if isinstance(member, griffe.Attribute) and (
                parameter := _parameter(member)
            ):
                parameters[parameter.name] = parameter
    ordered = sorted(
        parameters.values(), key=lambda p: p.kind is griffe.ParameterKind.keyword_only
    )
    this = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
    cls.set_member(
        "__init__",
        griffe.Function(
            "__init__",
            lineno=0,
            endlineno=0,
            parameters=griffe.Parameters(this, *ordered),
            returns="None",
        ),
    )


def _parameter(field: griffe.Attribute) -> griffe.Parameter | None:
    class_variable = (
        "class-attribute" in field.labels and "instance-attribute" not in field.labels
    )
    if field.annotation is None or class_variable or "property" in field.labels:
        return None
    if (
        isinstance(field.annotation, griffe.Expr)
        and field.annotation.canonical_path in _NOT_A_FIELD
    ):
        return None
    default, kind = field.value, griffe.ParameterKind.positional_or_keyword
    if isinstance(default, griffe.ExprCall) and default.canonical_path in _FIELD:
        options = {
            a.name: a.value
            for a in default.arguments
            if isinstance(a, griffe.ExprKeyword)
        }
        if str(options.get("init")) == "False":
            return None
        if str(options.get("kw_only")) == "True":
            kind = griffe.ParameterKind.keyword_only
        factory = options.get("default_factory")
        default = griffe.ExprCall(factory, []) if factory else options.get("default")
    return griffe.Parameter(
        field.name, annotation=field.annotation, kind=kind, default=default
    )
