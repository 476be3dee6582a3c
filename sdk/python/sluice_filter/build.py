"""`python -m sluice_filter.build FILE… [--out DIR]`: makes a component of each file, named as the file is.

A file has one subclass of Filter. The component's world has the hooks that the class has methods for, and imports the interfaces of the modules
that the filter has imported: a filter that never waits is not called as one that may.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ._release import mend

# What every filter imports; the others by the names of their modules.
ALWAYS = ["types", "interest", "request", "response", "route", "log"]
SERVICES = ["cache", "chunk", "clock", "concurrency", "consumers", "context", "crypto", "http", "kv", "kv_wait", "limiter", "metrics", "passwords"]
SERVICES += ["random", "secrets", "state"]
PACKAGE = Path(__file__).resolve().parent


def main():
    options = argparse.ArgumentParser(prog="sluice-filter", description=__doc__.splitlines()[0])
    options.add_argument("files", nargs="+", type=Path, metavar="FILE")
    options.add_argument("--out", type=Path, default=Path("build"), help="the folder of the components")
    options.add_argument("--wit", type=Path, default=PACKAGE.parents[2] / "wit", help="the folder of the interface")
    arguments = options.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for file in arguments.files:
        out = arguments.out / f"{file.stem}.wasm"
        with tempfile.TemporaryDirectory() as place:
            component(file.resolve(), arguments.wit, Path(place), out.resolve())
        print(out)


def component(file, wit, place, out):
    module = module_name(file)
    hooks, services = look(file, place)
    shutil.copytree(wit, place / "wit")
    imports = "".join(f"import {name.replace('_', '-')};\n" for name in ALWAYS + services)
    exports = "".join(f"export {name.replace('_', '-')};\n" for name in ["configure", *hooks])
    (place / "wit" / "component.wit").write_text(f"world component {{\n{imports}{exports}}}\n")
    app = place / "app"
    app.mkdir()
    shutil.copy(file, app / f"{module}.py")
    (app / "sluice_component.py").write_text(
        f"from sluice_filter import _entry\nimport {module}\n"
        f"globals().update(_entry.exports(_entry.filter_of({module})))\n"
    )
    command = [tool(), "-d", place / "wit", "-w", "sluice:filter/component", "componentize", "sluice_component"]
    command += ["-p", app, "-p", file.parent, "-p", PACKAGE.parent, "-o", out]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{file.name}: {done.stdout}{done.stderr}".strip())
    if has_the_leak():
        out.write_bytes(mend(out.read_bytes()))


def module_name(file):
    """A file may be called as the filter is, `api-key.py`; a module may not."""
    return file.stem.replace("-", "_")


def look(file, place):
    """The hooks of the filter, and the services that it has imported; found with the double of the gateway."""
    script = (
        "import importlib.util, sys\n"
        "import sluice_filter.testing\n"
        "from sluice_filter import _entry, _findings\n"
        f"sys.path.insert(0, {str(file.parent)!r})\n"
        f"spec = importlib.util.spec_from_file_location({module_name(file)!r}, {str(file)!r})\n"
        "module = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(module)\n"
        "hooks = _entry.hooks_of(_entry.filter_of(module))\n"
        "[_entry.given_to(hook) for hook in hooks]\n"
        "print('warnings', *_findings.findings(_entry.filter_of(module)), sep='\\n')\n"
        "print(','.join(hooks + ['describe'] * hasattr(_entry.filter_of(module), 'describe')))\n"
        f"print(','.join(name for name in {SERVICES!r} if f'sluice_filter.{{name}}' in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment())
    if done.returncode != 0:
        sys.exit(f"{file.name}: {done.stderr.strip()}")
    lines = done.stdout.splitlines()
    hooks, services = lines[-2:]
    for warning in lines[lines.index("warnings") + 1 : -2]:
        print(f"{file.name}: warning: {warning}", file=sys.stderr)
    if not hooks:
        sys.exit(f"{file.name}: the filter has no method of a hook, such as on_request")
    return hooks.split(","), [name for name in services.split(",") if name]


def environment():
    import os

    return {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "PYTHONDONTWRITEBYTECODE": "1"}


def tool():
    """componentize-py, beside this Python or on the path."""
    beside = Path(sys.executable).with_name("componentize-py")
    found = str(beside) if beside.exists() else shutil.which("componentize-py")
    return found or sys.exit("componentize-py is missing: pip install componentize-py==0.25.0")


def has_the_leak():
    """Whether `mend` is for this componentize-py. A later one may free these bytes itself, and they would be freed twice."""
    said = subprocess.run([tool(), "--version"], capture_output=True, text=True).stdout
    return said.strip().startswith("componentize-py 0.25.")


if __name__ == "__main__":
    main()
