from __future__ import annotations

import subprocess
import sys

import pytest

import conceptloom


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, conceptloom; print(sorted({'torch', 'numpy', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("name", [name for name in conceptloom.__all__ if name != "__version__"])
def test_every_public_name_is_there_with_a_docstring(name: str) -> None:
    assert callable(getattr(conceptloom, name))
    assert getattr(conceptloom, name).__doc__
    assert name in dir(conceptloom)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'lern'"):
        _ = conceptloom.lern
