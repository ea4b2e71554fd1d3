"""Sizes and habits that hold for every file of the project."""

import ast

import pytest

from tests.architecture.source import CODE, PACKAGES, Source, sources

LONGEST_FUNCTION = 60
LONGEST_FILE = 300
REASON = "Longer than 300 lines"


def functions(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("source", sources(*CODE), ids=lambda s: s.name)
def test_no_function_is_longer_than_sixty_lines(source: Source):
    lengths = {f.name: f.end_lineno - f.lineno + 1 for f in functions(source.tree)}
    long = {name: lines for name, lines in lengths.items() if lines > LONGEST_FUNCTION}
    assert not long, f"{source.name}: {long}"


@pytest.mark.parametrize("source", sources(*CODE), ids=lambda s: s.name)
def test_no_file_is_longer_than_three_hundred_lines_without_a_reason(source: Source):
    count = len(source.text.splitlines())
    assert count <= LONGEST_FILE or REASON in (ast.get_docstring(source.tree) or ""), f"{source.name}: {count} lines"


@pytest.mark.parametrize("source", sources(*CODE), ids=lambda s: s.name)
def test_every_file_says_what_it_is_for(source: Source):
    assert ast.get_docstring(source.tree), source.name


@pytest.mark.parametrize("source", sources(*PACKAGES), ids=lambda s: s.name)
def test_packages_log_and_do_not_print(source: Source):
    calls = [node for node in ast.walk(source.tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert "print" not in {call.func.id for call in calls}, source.name


@pytest.mark.parametrize("source", sources(*CODE), ids=lambda s: s.name)
def test_no_except_is_bare(source: Source):
    assert all(node.type is not None for node in ast.walk(source.tree) if isinstance(node, ast.ExceptHandler)), source.name


@pytest.mark.parametrize("source", sources(*PACKAGES), ids=lambda s: s.name)
def test_every_parameter_and_return_is_typed(source: Source):
    untyped = []
    for f in functions(source.tree):
        arguments = [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs]
        bare = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls", "_")]
        if bare or f.returns is None:
            untyped.append(f"{f.name}({', '.join(bare)})")
    assert not untyped, f"{source.name}: {untyped}"


@pytest.mark.parametrize("source", sources("configs", "projects"), ids=lambda s: s.name)
def test_configs_hold_no_lambda_and_no_star_import(source: Source):
    assert not [node for node in ast.walk(source.tree) if isinstance(node, ast.Lambda)], source.name
    assert "*" not in [name for _, name in source.imports()], source.name


@pytest.mark.parametrize("source", sources("tools"), ids=lambda s: s.name)
def test_tools_are_thin(source: Source):
    assert len(source.text.splitlines()) <= 80, source.name
