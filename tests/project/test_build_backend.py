"""Which Torch a build takes: one that the environment has, from 2.10 on, and only where there is none the fallback."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BACKEND = ROOT / "tools" / "build_backend" / "splash_build.py"


@pytest.fixture
def backend(tmp_path, monkeypatch):
    """The backend as an isolated build of a virtual environment sees it: that prefix, and no Torch to import."""
    spec = importlib.util.spec_from_file_location("splash_build", BACKEND)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path / "base"))
    monkeypatch.setattr(sys, "path", [])
    for name in [name for name in sys.modules if name == "torch" or name.startswith("torch.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(module.site, "getusersitepackages", lambda: str(tmp_path / "user"))
    monkeypatch.delenv(module.VARIABLE, raising=False)
    return module


def put_torch(folder, version, header="include/torch/csrc/stable/library.h"):
    for name, text in (("version.py", f"__all__ = ['__version__']\n__version__ = '{version}'\n"), (header, "")):
        (folder / "torch" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "torch" / name).write_text(text)
    return folder / "torch"


def packages(backend, prefix):
    return Path(backend.site.getsitepackages([prefix])[0])


@pytest.mark.parametrize("version", ["2.10.0", "2.11.0+cu130", "2.13.0+cpu", "2.14.1", "3.0.0a0+git1234"])
def test_environments_own(backend, version):
    own = put_torch(packages(backend, sys.prefix), version)
    assert backend.installed_torch() == own
    assert backend._requirements() == []
    backend._choose_torch()
    assert backend.os.environ.pop(backend.VARIABLE) == str(own)


@pytest.mark.parametrize("version", [None, "2.9.1", "1.13.1+cu117"])
def test_fallback(backend, version):
    if version:
        put_torch(packages(backend, sys.prefix), version)
    assert backend.installed_torch() is None
    assert backend._requirements() == ["torch==2.13.0"]


def test_torch_without_its_headers_is_none(backend):
    put_torch(packages(backend, sys.prefix), "2.11.0", header="nothing")
    assert backend.installed_torch() is None


@pytest.mark.parametrize("seen", [True, False])
def test_base_environment_where_it_is_seen(backend, seen):
    base = put_torch(packages(backend, sys.base_prefix), "2.11.0")
    Path(sys.prefix).mkdir()
    (Path(sys.prefix) / "pyvenv.cfg").write_text(f"home = /usr\ninclude-system-site-packages = {str(seen).lower()}\n")
    assert backend.installed_torch() == (base if seen else None)


def test_importable_torch_comes_first(backend, tmp_path, monkeypatch):
    """That of an isolated environment that asked for the fallback, or of a build without isolation."""
    put_torch(packages(backend, sys.prefix), "2.11.0")
    importable = put_torch(tmp_path / "overlay", "2.13.0")
    (importable / "__init__.py").write_text("")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "overlay")])
    assert backend.installed_torch() == importable


def test_named_folder_before_all(backend, monkeypatch):
    put_torch(packages(backend, sys.prefix), "2.11.0")
    monkeypatch.setenv(backend.VARIABLE, "/elsewhere/torch")
    assert backend.installed_torch() == Path("/elsewhere/torch")
    assert backend._requirements() == []


def test_fallback_is_what_readme_installs(backend):
    assert f"pip install {backend.FALLBACK}" in (ROOT / "README.md").read_text()
