"""d2lite offers a name only if our code imports it, or if such a name needs it."""

import ast

from tests.architecture.source import Source, sources

Name = tuple[str, str]  # (module, name)


def definitions(source: Source) -> dict[str, ast.stmt]:
    """Public and private names that a module defines itself, with the statement that does."""
    found: dict[str, ast.stmt] = {}
    for node in source.tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found.update({t.id: node for t in targets if isinstance(t, ast.Name)})
    return {name: node for name, node in found.items() if not name.startswith("__")}


def mentions(node: ast.AST) -> set[str]:
    """Every identifier and attribute in a statement, and identifiers inside quoted annotations."""
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    names |= {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
    strings = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return names | {s for s in strings if s.isidentifier()}


class Provider:
    """Who needs whom inside d2lite."""

    def __init__(self) -> None:
        self.files = {s.module: s for s in sources("d2lite")}
        self.defined = {module: definitions(s) for module, s in self.files.items()}
        self.imported = {module: {n: m for m, n in s.imports() if n and m in self.files} for module, s in self.files.items()}

    def origin(self, module: str, name: str) -> Name | None:
        """Where a name that a module offers is defined, through any number of re-exports."""
        for _ in range(10):
            if name in self.defined.get(module, {}):
                return module, name
            if name not in self.imported.get(module, {}):
                return None
            module = self.imported[module][name]
        return None

    def needed_by(self, node: ast.AST, module: str) -> set[Name]:
        """What a statement needs; `submodule.name` and `from package import submodule` are looked through."""
        names = mentions(node)
        found = {self.origin(module, name) for name in names}
        for alias, parent in self.imported[module].items():
            if alias in names and f"{parent}.{alias}" in self.files:
                found |= {self.origin(f"{parent}.{alias}", name) for name in names}
        return {name for name in found if name}


def used_by_our_code(provider: Provider) -> set[Name]:
    wanted: set[Name] = set()
    for source in sources("eva02_det", "eva02_mim", "configs", "projects", "tools", "benchmarks", "tests"):
        modules = set()
        for module, name in source.imports():
            if not module.startswith("detectron2"):
                continue
            if name is None or f"{module}.{name}" in provider.files:
                modules.add(module if name is None else f"{module}.{name}")
            else:
                wanted.add((module, name))
        names = mentions(source.tree) if modules else set()
        wanted |= {(module, name) for module in modules for name in names}
    return {origin for origin in (provider.origin(*w) for w in wanted) if origin}


def test_the_provider_offers_nothing_that_our_code_does_not_need():
    provider = Provider()
    reached: set[Name] = set()
    frontier = used_by_our_code(provider)
    for module, source in provider.files.items():  # statements that run at import need what they mention
        for node in source.tree.body:
            if isinstance(node, ast.Expr | ast.If | ast.For | ast.With):
                frontier |= provider.needed_by(node, module)
    while frontier:
        reached |= frontier
        needed = [provider.needed_by(provider.defined[module][name], module) for module, name in frontier]
        frontier = set().union(*needed) - reached
    offered = {(module, name) for module, names in provider.defined.items() for name in names}
    assert not sorted(f"{module}.{name}" for module, name in offered - reached)


def test_every_detectron2_name_that_our_code_imports_is_offered():
    provider = Provider()
    missing = []
    for source in sources("eva02_det", "eva02_mim", "configs", "projects", "tools", "benchmarks"):
        for module, name in source.imports():
            if not module.startswith("detectron2") or name is None or f"{module}.{name}" in provider.files:
                continue
            if provider.origin(module, name) is None:
                missing.append(f"{source.name}: {module}.{name}")
    assert not missing
